"""Layer-wise learning rates for finetuning: the nearer to the input a layer is, the smaller its rate.

Source: Clark et al. 2020 and google-research/electra. With n layers, embeddings have depth 0, layer k depth k and the
head depth n + offset; the rate is multiplied by decay ** (n + offset - depth). Offset 1 is the paper's text, offset 2
the original code, where the depth of a pooler that is no longer there was left free (its issue 51).
"""

from torch import nn

from common.errors import ArgumentError


def layer_factors(model: nn.Module, decay: float, offset: int) -> dict[str, float]:
    """What the learning rate of each parameter of a transformers model is multiplied with, by the parameter's name.

    A pooler has depth n + 1, a norm behind the layers depth n; what layers share (relative positions) counts as
    embeddings. Encoders that use one layer's parameters n times (ALBERT) have one layer.

    Raises:
        ArgumentError: the encoder has no numbered layers.
    """
    encoder = model.base_model
    prefix = "" if encoder is model else f"{model.base_model_prefix}."
    layers = _layer_list(encoder)
    if layers is None:
        raise ArgumentError(
            f"layer-wise decay needs an encoder with numbered layers, and {type(encoder).__name__} has none; leave "
            "--layer_decay out"
        )
    start, count = f"{layers}.", len(encoder.get_submodule(layers))

    def depth(name: str) -> int:
        if not name.startswith(prefix):
            return count + offset
        name = name.removeprefix(prefix)
        if name.startswith(start):
            return 1 + int(name.removeprefix(start).split(".")[0])
        if "pooler" in name:
            return count + 1
        return count if "norm" in name.lower() and "embed" not in name else 0

    return {name: decay ** (count + offset - depth(name)) for name, _ in model.named_parameters()}


def factors_of_part(model: nn.Module, part: nn.Module, decay: float, offset: int) -> dict[str, float]:
    """layer_factors of one network of a joint model, by the names that its parameters have there.

    What it shares with another network (ELECTRA's embeddings) has its factor; all else of the others has none.
    """
    own = layer_factors(part, decay, offset)
    factors = {id(parameter): own[name] for name, parameter in part.named_parameters()}
    return {name: factors[id(tensor)] for name, tensor in model.named_parameters() if id(tensor) in factors}


def _layer_list(encoder: nn.Module) -> str | None:
    """Name of the longest list of modules that is in no other such list."""
    lists = {name: len(module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return max(outer, key=lists.get, default=None)


def split_by_rate(groups: list[dict], names: dict[int, str], factors: dict[str, float]) -> list[dict]:
    """An optimiser's parameter groups, each split into groups of one learning rate; the highest rate first.

    names: of the parameters by id(parameter); factors: of a group's rate by name, 1 where there is none.
    """
    split = {}
    for number, group in enumerate(groups):
        for parameter in group["params"]:
            rate = group["lr"] * factors.get(names[id(parameter)], 1.0)
            split.setdefault((-rate, number), group | {"params": [], "lr": rate})["params"].append(parameter)
    return [split[key] for key in sorted(split)]
