"""torch.compile of a model's repeated layers: one graph for all of them, made in seconds however many there are.

Modes that record CUDA graphs compile the model as a whole: a launch for all of it is what a small model gains by.
"""

import torch
from accelerate.utils import DynamoBackend
from transformers import TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from common.errors import ArgumentError

# Graphs of one piece of code: of a layer with a length that is known and of any length, in training and in evaluation,
# of the last layer, which computes masked positions alone, and of each network of a joint model. torch's limit is 8.
GRAPHS = 64
RECORDING = ("reduce-overhead", "max-autotune")  # modes that record CUDA graphs


def compile_layers(model: torch.nn.Module, **options) -> None:
    """Let the layers of a model run compiled from their next call on, in place; options: of torch.compile.

    Modules, parameters and their names stay. Where torch finds no layers of transformers' kind, or the mode records
    CUDA graphs, the whole model is compiled. The first graph is for the lengths of its batch, and from the second
    length on there is one for all.
    """
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    whole = options.get("mode") in RECORDING or not layers
    for part in [model] if whole else layers:
        part.compile(**options)


class Recorded(TrainerCallback):
    """The steps of a model whose CUDA graphs take the memory of a forward again in the next."""

    def on_step_begin(self, args, state, control, **kwargs):
        torch.compiler.cudagraph_mark_step_begin()

    def on_substep_end(self, args, state, control, model=None, **kwargs):
        """Copy the gradients of a micro-batch out of that memory, in which they were left to be added to."""
        for parameter in model.parameters():
            parameter.grad = None if parameter.grad is None else parameter.grad.clone()
        torch.compiler.cudagraph_mark_step_begin()


def check_recording(mode: str | None, mem_len: int) -> None:
    """ArgumentError where a mode records CUDA graphs and the states of one step enter the next."""
    if mode in RECORDING and mem_len:
        raise ArgumentError(
            f"--torch_compile_mode {mode} records CUDA graphs, which keep no memory from step to step, and --mem_len "
            f"is {mem_len}; leave the mode out, or give --mem_len 0"
        )


def compile_for(trainer) -> None:
    """As --torch_compile, --torch_compile_backend and --torch_compile_mode say, instead of what accelerate would do.

    That would compile the model as a whole, and wrap it so that its parameters have other names. It still does so
    under FSDP and DeepSpeed, which take the layers for themselves.
    """
    args = trainer.args
    if args.torch_compile and not args.fsdp and not args.deepspeed:
        trainer.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
        compile_layers(trainer.model, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        if args.torch_compile_mode in RECORDING:
            trainer.add_callback(Recorded())
