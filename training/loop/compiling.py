"""torch.compile of a model's repeated layers: one graph for all of them, made in seconds however many there are."""

import torch
from accelerate.utils import DynamoBackend
from transformers.modeling_layers import GradientCheckpointingLayer

# Graphs of one piece of code: of a layer with a length that is known and of any length, in training and in evaluation,
# of the last layer, which computes masked positions alone, and of each network of a joint model. torch's limit is 8.
GRAPHS = 64


def compile_layers(model: torch.nn.Module, **options) -> None:
    """Let the layers of a model run compiled from their next call on, in place; options: of torch.compile.

    Modules, parameters and their names stay. Where torch finds no layers of transformers' kind the whole model is
    compiled. The first graph is for the lengths of its batch, and from the second length on there is one for all.
    """
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)] or [model]:
        layer.compile(**options)


def compile_for(trainer) -> None:
    """As --torch_compile, --torch_compile_backend and --torch_compile_mode say, instead of what accelerate would do.

    That would compile the model as a whole, and wrap it so that its parameters have other names. It still does so
    under FSDP and DeepSpeed, which take the layers for themselves.
    """
    args = trainer.args
    if args.torch_compile and not args.fsdp and not args.deepspeed:
        trainer.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
        compile_layers(trainer.model, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
