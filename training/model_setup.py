"""The model of a run: loaded to continue from, or new from its type, a config and changes to it."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from transformers.utils import logging

from common.errors import ArgumentError, library_errors
from training.config_derivation import parse_overrides, told, whole_number, with_changes
from training.pretrained import check_numbers, entry_count, load_config, read_object, resolve_pretrained

logger = getLogger(__name__)

# What transformers looks for in a folder, in this order.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_NUMBERS_A_BYTE = 4  # most numbers that a byte of a file of weights stands for: quantised ones
_NEW_NUMBERS, _NEW_TENSORS = 2**26, 64  # of a head that the file need not have


def make_model(auto_class, model_args, tokenizer, new_head: bool = False) -> torch.nn.Module:
    """The model to continue from, or a new one with an entry for each token, in fp32.

    auto_class: one of transformers' Auto classes; model_args: ModelArguments; new_head: as for read_model.

    Raises:
        ArgumentError: no such model, one too small for the tokenizer, or settings that give none.
    """
    trust = model_args.trust_remote_code
    if model_args.model_name_or_path:
        flag, name = "--model_name_or_path", model_args.model_name_or_path
        return load_model(auto_class, load_config(name, flag, trust), name, flag, tokenizer, trust, new_head)
    config = make_config(model_args, tokenizer)
    check_fits(auto_class, config, "--config_overrides and --config_name", trust)
    with told(config, model_args.config_overrides or ""):
        return auto_class.from_config(config, trust_remote_code=trust)


def load_model(auto_class, config, name: str, flag: str, tokenizer, trust_remote_code=False, new_head=False):
    """The model of a folder or hub name, typed after `flag`, in fp32; new_head: as for read_model.

    Raises:
        ArgumentError: it lacks some of the tokens, or tensors, which transformers would fill at random.
    """
    check_vocabulary(config, name, flag, tokenizer)
    return read_model(auto_class, config, name, flag, trust_remote_code, new_head, dtype=torch.float32)


def read_model(auto_class, config, name: str, flag: str, trust_remote_code=False, new_head=False, **options):
    """from_pretrained of a folder or hub name, typed after `flag`: the model, in memory of its own.

    new_head: whether what an encoder lacks that was saved as one, without a head, is made anew, with a warning.
    options: of from_pretrained.

    Raises:
        ArgumentError: files are damaged, too large or of another model, or lack tensors.
    """
    files = check_weights(auto_class, config, name, flag, trust_remote_code)
    options |= {"output_loading_info": True, "trust_remote_code": trust_remote_code}
    expected = f"{flag} {name} must hold the model of its config.json in {files}"
    with library_errors(ArgumentError, expected, "copy them again"), _without_report():
        model, info = auto_class.from_pretrained(resolve_pretrained(name, flag), config=config, **options)
    encoder = model.base_model
    if new_head and config.architectures == [type(encoder).__name__]:
        new = sorted(key for key in info["missing_keys"] if not key.startswith(f"{model.base_model_prefix}."))
        if new:
            logger.warning("%s %s is a %s: its head is new, %s", flag, name, type(encoder).__name__, ", ".join(new))
        info["missing_keys"] -= set(new)
    if info["missing_keys"]:
        raise ArgumentError(
            f"{flag} {name} must hold all tensors of {type(model).__name__} of its config.json in {files}, got "
            f"{len(info['missing_keys'])} of them missing, {min(info['missing_keys'])} first; name a folder of that "
            "kind"
        )
    if info["unexpected_keys"]:
        left = sorted(info["unexpected_keys"])
        logger.warning(
            "%s %s: %d tensors that %s lacks are left out, %s first",
            flag,
            name,
            len(left),
            type(model).__name__,
            left[0],
        )
    return own_memory(model)


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' table of the tensors that are missing, left over or of another shape."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def own_memory(model: torch.nn.Module) -> torch.nn.Module:
    """Copy a model's tensors on a CPU, one after the other, into memory that torch allocates; returns the model.

    from_pretrained gives views of the mapped file. Their addresses are no multiples of 64 bytes, with which some
    processors' products round differently, and they follow what becomes of the file.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    return model


def check_fits(auto_class, config, owner: str, trust_remote_code: bool = False, itemsize: int = 4) -> list | None:
    """The shapes of the parameters of a model of this config; None where they cannot be told without building it.

    owner: the flags that the config comes from; itemsize: bytes of a number.

    Raises:
        ArgumentError: no computer could build it, or it needs more than this one's memory.
    """
    check_numbers(config.to_dict(), owner)
    try:
        with torch.device("meta"):
            model = auto_class.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # a class that cannot be built so, or not at all: then building it tells why
        return None
    shapes = [parameter.shape for parameter in model.parameters()]
    count = sum(map(math.prod, shapes))
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if count * itemsize > have:
        raise ArgumentError(
            f"{owner} must give a model that fits into memory, got a config.json of one of "
            f"{count * itemsize / 2**30:,.0f} GiB for {have / 2**30:,.0f} GiB; correct it or take a smaller one"
        )
    return shapes


def check_weights(auto_class, config, name: str, flag: str, trust_remote_code: bool = False) -> str:
    """Look at the files of weights of a folder, before anything is built; their names, for messages.

    Raises:
        ArgumentError: a file is missing, damaged or elsewhere, or its size and types are not those of the config.
    """
    folder = Path(resolve_pretrained(name, flag))
    files = weight_files(folder, name, flag) if folder.is_dir() else []
    names = ", ".join(file.name for file in files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    quantised, tensors = hasattr(config, "quantization_config"), 0
    for file in files:
        with library_errors(ArgumentError, f"{flag} {name} must hold weights in {file.name}", "copy it again"):
            fractions = has_fractions(file)
        tensors += len(fractions)
        whole = [
            tensor for tensor in fractions if not fractions[tensor] and str(tensor).endswith((".weight", ".bias"))
        ]
        if whole and not quantised:
            raise ArgumentError(f"{flag} {name} must hold weights in {file.name}, got integers in {whole[0]}")
    shapes = check_fits(auto_class, config, f"{flag} {name}", trust_remote_code, 1)
    size = sum(file.stat().st_size for file in files)
    if not files or shapes is None:
        return names or "weights"
    count = sum(map(math.prod, shapes))
    if count > size * _NUMBERS_A_BYTE + _NEW_NUMBERS or len(shapes) > tensors * _NUMBERS_A_BYTE + _NEW_TENSORS:
        raise ArgumentError(
            f"{flag} {name} must hold the model of its config.json, got one of {count:,} numbers in {len(shapes):,} "
            f"tensors there, and {size:,} bytes and {tensors:,} tensors in {names}; correct config.json or copy both "
            "again"
        )
    return names


def weight_files(folder: Path, name: str, flag: str) -> list[Path]:
    """The files that transformers reads the weights of a folder from, in its order of preference.

    ArgumentError when there are none, or when an index names a file that is not in the folder.
    """
    first = next((folder / file for file in _WEIGHTS if (folder / file).is_file()), None)
    if first is None:
        raise ArgumentError(f"{flag} {name} must hold {_WEIGHTS[0]} or {_WEIGHTS[2]}, got neither; copy it there")
    if first.suffix != ".json":
        return [first]
    places = read_object(first, name, flag).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise ArgumentError(
            f"{flag} {name} must hold {first.name} with a weight_map from tensors to files, got none; copy it again"
        )
    for place in sorted(set(places.values())):
        if Path(place).name != place or not (folder / place).is_file():
            raise ArgumentError(
                f"{flag} {name} must hold every file that {first.name} names, got {place!r}, which is not in the "
                "folder; copy it there"
            )
    return [folder / place for place in sorted(set(places.values()))]


def has_fractions(file: Path) -> dict[str, bool]:
    """Of each tensor of a file, whether its numbers are floating point. Raises what safetensors and torch raise."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            return {name: tensors.get_slice(name).get_dtype().startswith(("F", "BF")) for name in names}
    state = torch.load(file, map_location="meta", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"a {type(state).__name__} instead of a state dict")
    return {name: value.is_floating_point() for name, value in state.items() if torch.is_tensor(value)}


@contextmanager
def made_whole(args) -> Iterator[None]:
    """Models made or read here are whole on each process under ZeRO stage 3, too, which spreads them in training.

    So their weights are those of one process, whatever they are initialised with.
    """
    unset_hf_deepspeed_config()
    yield
    if args.deepspeed:
        set_hf_deepspeed_config(args.hf_deepspeed_config)


def shard_by_layers(model: torch.nn.Module) -> None:
    """Let FSDP make a group of each layer and one of all else; in place, before it wraps the model.

    accelerate would give embeddings and head groups of their own, which weights that two networks share must not
    have, nor those that a head reads without a call of their module.
    """
    words = model.get_input_embeddings()
    model._no_split_modules = {
        type(part).__name__
        for part in model.modules()
        if type(part).__name__ in (model._no_split_modules or ()) and words not in part.modules()
    }
    model.get_input_embeddings = model.get_output_embeddings = lambda: None


def check_trainable(config, name: str) -> None:
    """ArgumentError for a config of quantised weights: little of such a model would be trained. name: its folder."""
    if getattr(config, "quantization_config", None) is not None:
        raise ArgumentError(
            f"--model_name_or_path {name} must hold weights that can be trained, got quantised ones; name the model "
            "that was quantised, and quantise what is trained"
        )


def check_vocabulary(config, name: str, flag: str, tokenizer) -> None:
    """ArgumentError for a tokenizer of more entries than the model."""
    size = getattr(config, "vocab_size", 0)
    if size < entry_count(tokenizer):
        raise ArgumentError(
            f"{flag} {name} must have an entry for each of the {entry_count(tokenizer)} ids of --tokenizer_name in "
            f"its config.json, got {size}; name the tokenizer it was trained with"
        )


def make_config(model_args, tokenizer):
    """Config of a new model from --config_name or --model_type, --config_overrides and the tokenizer."""
    if model_args.config_name:
        config = load_config(model_args.config_name, "--config_name", model_args.trust_remote_code)
    elif model_args.model_type in CONFIG_MAPPING:
        owner = f"--model_type {model_args.model_type}"
        with library_errors(ArgumentError, f"{owner} must have a config of its own", "give it as --config_name"):
            config = AutoConfig.for_model(model_args.model_type)
    else:
        raise ArgumentError(f"--model_type {model_args.model_type} must be one that transformers or models/ knows")
    return finish_config(config, model_args.config_overrides, "--config_overrides", tokenizer)


def finish_config(config, overrides: str | None, flag: str, tokenizer):
    """A new model's config with the tokenizer's entries and `overrides`, key=value,key=value as typed after `flag`."""
    changes = {"vocab_size": entry_count(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if config.model_type == "flash":
        changes["linear_divisor"] = "valid"  # padding changes nothing then; published weights alone need another
    owner = f"{flag} {overrides or ''}".rstrip()
    with library_errors(ArgumentError, f"{owner} must give a config", f"see {type(config).__name__}"):
        changes |= parse_overrides(config, overrides or "")
        check_numbers(changes, owner)
        changed = with_changes(config, changes)
    heads, width = whole_number(changed, "num_attention_heads"), whole_number(changed, "hidden_size")
    if heads and width % heads and not whole_number(changed, "head_dim"):
        raise ArgumentError(f"{owner}: hidden_size must be a multiple of num_attention_heads, got {width}, {heads}")
    return changed


def set_unigram_bias(model, counts) -> None:
    """Set a masked LM's output bias to the log frequency of each token, so that training need not learn it first.

    counts: int64 array [V], how often each id occurs.
    """
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is None:
        raise ArgumentError(
            f"--unigram_bias needs a head with an output bias, and {type(model).__name__} has none; leave it out"
        )
    counts = torch.from_numpy(counts).float() + 1
    with torch.no_grad():
        bias[: len(counts)].copy_(torch.log(counts / counts.sum()))


def set_embeddings(model, vectors, known) -> None:
    """Let a new model's word embeddings begin at vectors of the tokens that have one, as large as what they replace.

    vectors: float32 array [V, W] of mean square 1 over these; known: bool array [V].
    """
    weight, known = model.get_input_embeddings().weight, torch.from_numpy(known).nonzero().squeeze(1)
    with torch.no_grad():
        scale = weight[known].square().mean().sqrt()
        weight[known] = (torch.from_numpy(vectors)[known] * scale).to(weight.dtype)
