"""torch.compile of a model's repeated layers: one graph for all of them, made in seconds however many there are.

A long run on CUDA is compiled unless it is told not to be. Modes that record CUDA graphs compile the model as a whole:
a launch for all of it is what a small model gains by.
"""

import logging
import shutil
from importlib.util import find_spec

import torch
from accelerate.utils import DynamoBackend
from transformers import TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from common.errors import ArgumentError

logger = logging.getLogger(__name__)

# Graphs of one piece of code: of a layer with a length that is known and of any length, in training and in evaluation,
# of the last layer, which computes masked positions alone, and of each network of a joint model. torch's limit is 8.
GRAPHS = 64
# Of what a layer would keep for its backward pass: below 1 everything but matrix products is computed again there, in
# passes that read their inputs anyway. GAU-alpha keeps 15 KiB a token and layer then, 35 at 1, 16 by the pass by hand.
KEPT = 0.8
FAMILIES = ("gau_alpha", "flash_quad", "flash", "bert", "roberta", "transformer_xl")  # seen to gain, roberta as bert
LONG = 500  # steps of a run that are worth the minute
RECORDING = ("reduce-overhead", "max-autotune")  # modes that record CUDA graphs


def compile_layers(model: torch.nn.Module, **options) -> None:
    """Let the layers of a model run compiled from their next call on, in place; options: of torch.compile.

    Modules, parameters and their names stay. Where torch finds no layers of transformers' kind, or the mode records
    CUDA graphs, the whole model is compiled. The first graph is for the lengths of its batch, and from the second
    length on there is one for all.
    """
    torch._functorch.config.activation_memory_budget = KEPT
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


def gains(trainer) -> bool:
    """Whether a run is compiled that says nothing of it: on CUDA, of a family that gains, and long.

    Not with --full_determinism, since graphs for one length and for any round differently, and which rows meet which
    depends on where a run begins.
    """
    args = trainer.args
    steps = 0 if trainer.train_batches is None else trainer.train_batches.steps
    wanted = steps >= LONG and trainer.model.config.model_type in FAMILIES and not args.full_determinism
    return wanted and args.device.type == "cuda" and has_compilers()


def has_compilers() -> bool:
    """Whether inductor can make kernels for this card: by Triton, which needs a C compiler."""
    able = torch.cuda.get_device_capability() >= (7, 0) and find_spec("triton") is not None
    return able and any(map(shutil.which, ("gcc", "clang", "cc")))


def compile_for(trainer) -> None:
    """As --torch_compile, --torch_compile_backend and --torch_compile_mode say, instead of what accelerate would do.

    That would compile the model as a whole, and wrap it so that its parameters have other names. It still does so
    under FSDP and DeepSpeed, which take the layers for themselves.
    """
    args = trainer.args
    if args.fsdp or args.deepspeed:
        return
    if args.torch_compile:
        trainer.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
        compile_layers(trainer.model, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        if args.torch_compile_mode in RECORDING:
            trainer.add_callback(Recorded())
    elif args.torch_compile is None and gains(trainer):
        logger.info("layers are compiled in the first steps; --torch_compile false leaves them as they are")
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
        compile_layers(trainer.model)
