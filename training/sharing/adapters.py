"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685; DoRA: Liu et al. 2024, arXiv 2402.09353) by peft, for --lora.

They are put into a model's linear layers in place, so that it stays the model that it was for all else here: a
checkpoint holds its weights with theirs. What a run leaves is a plain model into which they are merged, and beside it,
in adapter/, they alone, with a new head if there is one, as peft reads them.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from common.errors import ArgumentError, library_errors

ADAPTER, CONFIG, WEIGHTS = "adapter", "adapter_config.json", "adapter_model.safetensors"
HELP = (
    "Train adapters of low rank (peft) in place of the weights: r=8,alpha=16, dropout=0.1, dora=true, "
    "targets=NAME,NAME (default: all linear layers), or a folder of adapters to go on with."
)
_IN_PEFT = "base_model.model."  # before the names of a model's tensors in peft's files
_BASE = "base_xxh3_64"  # in the metadata of WEIGHTS: of which weights these are adapters


def add_adapters(model: nn.Module, text: str, new_head: bool = False) -> None:
    """Freeze a model and put adapters into it, in place, as --lora says: new ones, or those of a folder.

    new_head: whether what stands on the encoder is new: it is trained whole then, and written with the adapters.

    Raises:
        ArgumentError: no peft, settings that give none, or a folder that holds those of another model.
    """
    peft = _peft()
    heads = [name for name, part in model.named_children() if part is not model.base_model] if new_head else []
    folder = Path(text) if Path(text, CONFIG).is_file() else None
    owner = f"--lora {text}"
    if folder is None:
        config = peft.LoraConfig(**_settings(text, model, heads))
    else:
        with library_errors(ArgumentError, f"{owner} must hold adapters of low rank in {CONFIG}", "copy them again"):
            config = peft.PeftConfig.from_pretrained(str(folder))
            if not isinstance(config, peft.LoraConfig):
                raise ValueError(f"peft_type {config.peft_type}")
    config.inference_mode, config.modules_to_save = False, None
    with library_errors(ArgumentError, f"{owner} must be of {type(model).__name__}", "name the model it was made for"):
        peft.inject_adapter_in_model(config, model)
    for name in heads:
        getattr(model, name).requires_grad_(True)
    if folder is not None:
        _load(model, folder, owner)


def check_flags(text: str | None, model: str | None, args) -> None:
    """ArgumentError for --lora beside flags that it cannot go with; model: --model_name_or_path."""
    if text is None:
        return
    spread = {
        "--fsdp": args.fsdp,
        "--deepspeed": args.deepspeed,
        "--model_parallel_size": args.model_parallel_size > 1,
    }
    wrong = [flag for flag, is_set in spread.items() if is_set]
    if wrong:
        raise ArgumentError(f"--lora must stand without {wrong[0]}, got both; leave one of them out")
    if model is None:
        raise ArgumentError("--lora adapts a trained model; add --model_name_or_path")
    if not args.do_train and not Path(text, CONFIG).is_file():
        raise ArgumentError(f"--lora must name a folder of adapters where nothing is trained, got {text}")


def has_adapters(model: nn.Module) -> bool:
    return any(True for _ in _layers(model))


def save_model(model: nn.Module, folder: Path | str) -> None:
    """save_pretrained of the model, adapters merged into its weights, and these by themselves in adapter/."""
    if not has_adapters(model):
        model.save_pretrained(folder)
        return
    model.save_pretrained(folder, state_dict=_merged_state(model))
    peft, folder = _peft(), Path(folder, ADAPTER)
    folder.mkdir(exist_ok=True)
    whole = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad and "lora_" not in name}
    tensors = peft.get_peft_model_state_dict(model, save_embedding_layers=False) | whole
    tensors = {_IN_PEFT + name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", _BASE: _base_sum(model)})
    config = copy.copy(model.peft_config["default"])
    config.modules_to_save = sorted({name.split(".")[0] for name in whole}) or None
    config.base_model_name_or_path = model.name_or_path
    config.save_pretrained(str(folder))


def merge_adapters(model: nn.Module) -> None:
    """Make a model with adapters the plain model that save_model writes, in place; others stay as they are."""
    for name, layer in list(_layers(model)):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _merged(layer))


def _peft():
    try:
        import peft
    except ImportError as error:
        raise ArgumentError("--lora needs the package peft, which is not here; pip install peft") from error
    return peft


def _settings(text: str, model: nn.Module, heads: list[str]) -> dict:
    """Arguments of peft's config for --lora as typed."""
    values: dict[str, list[str]] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals:
            values[name.strip()] = [value.strip()]
        elif values:
            values[list(values)[-1]].append(part.strip())  # a further target
    unknown = sorted(values.keys() - {"r", "alpha", "dropout", "dora", "targets"})
    if unknown or not values:
        raise ArgumentError(
            f"--lora must be a folder of adapters or r=8,alpha=16,dropout=0,dora=false,targets=NAME, got "
            f"{unknown[0] if unknown else text}; correct it"
        )
    rank, alpha, rate = (_number(name, values, default) for name, default in (("r", 8), ("alpha", 16), ("dropout", 0)))
    if not (rank >= 1 and rank == int(rank) and alpha > 0 and 0 <= rate < 1):
        raise ArgumentError(f"--lora must have r of at least 1, alpha above 0 and dropout in [0, 1), got {text}")
    if values.get("dora", ["false"]) not in (["true"], ["false"]):
        raise ArgumentError(f"--lora must have dora=true or false, got {values['dora'][0]}")
    settings = {"r": int(rank), "lora_alpha": alpha, "lora_dropout": rate, "use_dora": values.get("dora") == ["true"]}
    return settings | {"target_modules": _targets(values.get("targets"), model, heads)}


def _number(name: str, values: dict[str, list[str]], default: float) -> float:
    try:
        (number,) = values.get(name, [str(default)])
        return float(number)
    except ValueError:
        raise ArgumentError(f"--lora must have one number for {name}, got {','.join(values[name])}") from None


def _targets(wanted: list[str] | None, model: nn.Module, heads: list[str]) -> list[str]:
    """Names of the linear layers that get adapters: all but the new head and the output over the vocabulary, which may
    be the table of embeddings, or those that end with the names wanted.
    """
    linears = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    linears = [name for name in linears if name.split(".")[0] not in heads]
    if wanted is None:
        output = model.get_output_embeddings()
        return [name for name in linears if model.get_submodule(name) is not output]
    for end in wanted:
        if not any(f".{name}".endswith(f".{end}") for name in linears):
            ends = sorted({name.rpartition(".")[2] for name in linears if not name.rpartition(".")[2].isdecimal()})
            raise ArgumentError(
                f"--lora must have targets that are linear layers of {type(model).__name__}, got {end}; it has "
                f"{', '.join(ends)}"
            )
    return [name for name in linears if any(f".{name}".endswith(f".{end}") for end in wanted)]


def _load(model: nn.Module, folder: Path, owner: str) -> None:
    """The tensors of a folder of adapters. ArgumentError unless they are those that the model has now."""
    peft = _peft()
    with library_errors(ArgumentError, f"{owner} must hold tensors in {WEIGHTS}", "copy it again"):
        tensors = {name.removeprefix(_IN_PEFT): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            base = (file.metadata() or {}).get(_BASE)  # peft writes none
    own = dict(model.named_parameters())
    low = {name: tensor.shape for name, tensor in peft.get_peft_model_state_dict(model).items()}
    whole = {name: own[name].shape for name in own if own[name].requires_grad and "lora_" not in name}
    here, there = low | whole, {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if wrong:
        raise ArgumentError(
            f"{owner} must hold the adapters of {type(model).__name__} of this size, got others: {wrong[0]} and "
            f"{len(wrong) - 1} more differ; name the model they were made for"
        )
    if base not in (None, _base_sum(model)):
        maker = next(iter(model.peft_config.values())).base_model_name_or_path
        raise ArgumentError(
            f"{owner} must hold adapters of the weights of --model_name_or_path, got those of {maker} as they were "
            "when the adapters were trained; name that model"
        )
    peft.set_peft_model_state_dict(model, {name: tensors[name] for name in low})
    with torch.no_grad():
        for name in whole:
            own[name].copy_(tensors[name])


def _base_sum(model: nn.Module) -> str:
    """A checksum of the weights that a model with adapters leaves as they are."""
    hasher = xxhash.xxh3_64()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            hasher.update(name.encode())
            hasher.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and layer of each layer with adapters."""
    for name, part in model.named_modules():
        if hasattr(part, "get_base_layer") and hasattr(part, "lora_A"):
            yield name, part


def _merged(layer: nn.Module) -> nn.Module:
    """The plain layer that one with adapters stands for; the layer stays as it is."""
    layer = copy.deepcopy(layer)
    layer.merge()
    return layer.get_base_layer()


def _merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of the plain model; never more than one layer twice in memory besides."""
    names = dict(_layers(model))
    state = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    state = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
    for name, layer in names.items():
        state |= {f"{name}.{key}": tensor for key, tensor in _merged(layer).state_dict().items()}
    return state
