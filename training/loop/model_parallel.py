"""Model parallelism: the matrices of each layer cut over a group of adjacent processes, by DeepSpeed while it trains.

Megatron-LM's scheme (Shoeybi et al. 2019, arXiv 1909.08053, section 3), as in THUDM/Chinese-Transformer-XL:
queries, keys, values and the first half of a feed-forward layer by columns, the second halves by rows. What is cut
follows from the model's own plan (transformers' tp_plan), here written as DeepSpeed's AutoTP wants it. We differ in
the vocabulary, which each process holds whole. Letters: p processes of a group.
"""

import re
from functools import partial

import torch

from common.errors import ArgumentError

_CUTS = {"colwise": "column", "rowwise": "row"}
_WHOLE = ("embedding_rowwise", "colwise_gather_output")  # of the vocabulary
_LOCAL = "local_params"  # a module that itself hands out what of its whole parameters belongs to this process


def ask_for(model: torch.nn.Module, args) -> None:
    """Write into the DeepSpeed settings of args how this model is to be cut.

    args: ModelParallelArguments with a size above 1. ArgumentError for a model that cannot be cut so.
    """
    parts, plan = args.model_parallel_size, getattr(model, "tp_plan", None) or {}
    unknown = {style for style in plan.values() if style not in (*_CUTS, *_WHOLE, _LOCAL)}
    if not plan or unknown:
        raise ArgumentError(
            f"--model_parallel_size must be 1 for {type(model).__name__}, "
            f"{f'whose tp_plan has {sorted(unknown)}' if plan else 'which has no tp_plan'}, got {parts}; leave it out"
        )
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(model.config, name, None) or parts
        if heads % parts:
            raise ArgumentError(
                f"--model_parallel_size (MP_SIZE) must divide the {heads} {name} of the model, got {parts}; change it"
            )
    settings = args.hf_deepspeed_config.config
    settings["tensor_parallel"] = {
        "autotp_size": parts,
        "vocab_parallel_lm_head": False,  # its loss is not ours
        "partition_config": {"use_default_specs": False, "layer_specs": layer_specs(plan)},
    }
    # By this name, at any stage: a saved model is whole.
    settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True


def layer_specs(plan: dict[str, str]) -> list[dict]:
    """transformers' plan -> DeepSpeed's: regular expressions of parameters, and how each is cut.

    A whole parameter of which a process uses a part has its gradient added up over the group.
    """
    specs = []
    for name, style in plan.items():
        pattern = _expression(name)
        if plan.get(name.rpartition(".")[0]) == _LOCAL:
            specs.append({"patterns": [pattern + "$"], "partition_type": "skip", "grad_allreduce": True})
        elif style in _CUTS:
            specs.append({"patterns": [pattern + r"\.weight$"], "partition_type": _CUTS[style]})
    return specs


def _expression(name: str) -> str:
    return re.escape(name).replace(r"\*", r"[^.]+")


def take_share(model: torch.nn.Module, part: int, parts: int) -> None:
    """Make the modules that DeepSpeed does not know work on this process's share, the part-th of p; in place."""
    local = [_expression(name) for name, style in model.tp_plan.items() if style == _LOCAL]
    for name, module in model.named_modules():
        if any(re.fullmatch(pattern, name) for pattern in local):
            module.forward = partial(_own_rows, module.forward, part, parts)
        elif getattr(module, "draws_for_own_heads", False):
            module.forward = partial(_draw_apart, module, module.forward, part)


def _own_rows(forward, part: int, parts: int) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.chunk(parts)[part] for tensor in forward())


def _draw_apart(module: torch.nn.Module, forward, part: int, *arguments):
    """forward, whose random numbers are other ones on each process of the group.

    All others stay equal there, as the hidden states that they fall on are. The seed is drawn from the generator that
    checkpointing puts back, so that recomputation draws the same numbers again.
    """
    if not module.training:
        return forward(*arguments)
    seed = int(torch.randint(2**62, ()))  # any; room is left below 2**63 for the parts
    device = next(module.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed + part)
        return forward(*arguments)
