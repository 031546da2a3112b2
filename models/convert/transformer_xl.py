"""THUDM/Chinese-Transformer-XL checkpoints as folders that from_pretrained reads, as models in memory, and back.

Tensors are renamed by thudm.TABLE and the fused query, key and value taken apart; each keeps its bits. What is in
memory at a time is one output file's worth, about a gigabyte, however large the checkpoint.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GenerationConfig

from common.errors import library_errors

from ..relative import inverse_frequencies
from ..tokenization_cog import cog_tokenizer
from ..transformer_xl import TransformerXLConfig, TransformerXLForCausalLM
from . import thudm
from .engine import CheckpointError, expected_shapes
from .output import apart

FILE_BYTES = 2**30  # an output file is closed before it gets larger
END_OF_TEXT = 50000  # of cog-pretrain.model; rows beyond it pad the vocabulary
INDEX = "model.safetensors.index.json"
CHECK = "check --config"
PUBLISHED_HEADS = {(1024, 24): 16}  # of the small models, whose tensors do not show it: (hidden_size, layers) -> heads
# How generate_samples.py of the original draws.
SAMPLING = {"do_sample": True, "temperature": 0.9, "top_k": 0, "top_p": 1.0, "max_length": 1024}


def make_config(shards: thudm.Shards, overrides: dict) -> TransformerXLConfig:
    """The config that names and shapes give; overrides are fields that they do not, or that you want otherwise.

    The one of these that changes tensors is dtype.
    """
    names = set(shards.names)
    fields = {"architectures": ["TransformerXLForCausalLM"]}
    fields["vocab_size"], width = shards.shape(thudm.VOCABULARY)
    layers = {name.split(".")[2] for name in names if ".layers." in name}
    fields |= {"hidden_size": width, "num_hidden_layers": len(layers)}
    fields["relative_encoding"] = "transformer.r_w_bias" in names
    fields["dtype"] = str(shards.contents[0]["module"][thudm.VOCABULARY].dtype).removeprefix("torch.")
    if fields["relative_encoding"]:
        fields["num_attention_heads"] = shards.shape("transformer.r_w_bias")[0]
        table = shards.contents[0]["module"].get("transformer.position_embeddings.inv_freq")
        fields["positions_dtype"] = "float32" if table is not None and table.dtype == torch.float32 else "float16"
    else:
        positions = "transformer.position_embeddings.weight"
        if positions not in names:
            raise CheckpointError(f"{shards.files[0]} must hold {positions}, got none; give a whole checkpoint")
        fields["max_position_embeddings"] = shards.shape(positions)[0]
        fields["num_attention_heads"] = PUBLISHED_HEADS.get((width, len(layers)))
    if fields["vocab_size"] > END_OF_TEXT:
        fields |= {"eos_token_id": END_OF_TEXT, "pad_token_id": END_OF_TEXT}
    else:
        fields |= {"eos_token_id": None, "pad_token_id": None}
    fields |= overrides
    for name in ("num_attention_heads", "eos_token_id"):
        if fields[name] is None:
            raise CheckpointError(
                f"config field {name} must be given for {shards.files[0]}, whose tensors do not show it; "
                f"""add it to --config '{{"{name}": ...}}'"""
            )
    if fields["pad_token_id"] is None:
        fields["pad_token_id"] = fields["eos_token_id"]
    with library_errors(CheckpointError, f"the tensors of {shards.files[0]} and --config must give a config", CHECK):
        config = TransformerXLConfig(**fields)
    if not 0 <= config.eos_token_id < config.vocab_size:
        raise CheckpointError(
            f"the vocabulary must have more than {config.eos_token_id} entries for its eos_token_id, got "
            f"{config.vocab_size} in {shards.files[0]}; give the tokenizer that the model was trained with"
        )
    if not getattr(dtype_of(config), "is_floating_point", False):
        raise CheckpointError(f"config field dtype must be one of floating point numbers, got {config.dtype}; {CHECK}")
    return config


def dtype_of(config: TransformerXLConfig) -> torch.dtype | None:
    """What the config calls its dtype; None for a name that is none."""
    return getattr(torch, str(config.dtype).removeprefix("torch."), None)


def make_generation_config(config: TransformerXLConfig) -> GenerationConfig:
    """The original's sampling; ids after eos_token_id pad the vocabulary, stand for no text, and are never drawn."""
    padding = list(range(config.eos_token_id + 1, config.vocab_size))
    return GenerationConfig(
        **SAMPLING, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, suppress_tokens=padding or None
    )


def _renamed(shards: thudm.Shards, config: TransformerXLConfig):
    """Yields (our name, tensor) of the whole checkpoint, checked one by one and at the end for what is missing."""
    missing, dtype = dict(expected_shapes(config)), dtype_of(config)
    for name, parts in shards.walk():
        _, ours = thudm.resolve(name)
        if not ours:
            _check_table(name, parts[0], config, shards.files[0])
        for our_name, tensor in zip(ours, parts, strict=bool(ours)):
            shape = missing.pop(our_name, None)
            if shape != tensor.shape:
                raise CheckpointError(
                    f"{name} must have shape {None if shape is None else tuple(shape)} by the config, got "
                    f"{tuple(tensor.shape)} in {shards.files[0]}; check --config"
                )
            yield our_name, tensor.to(dtype)
    if missing:
        raise CheckpointError(f"{shards.files[0]} must hold {', '.join(list(missing)[:3])}, got none; it is not whole")


def _check_table(name: str, stored: torch.Tensor, config: TransformerXLConfig, file: Path) -> None:
    computed = inverse_frequencies(config.hidden_size).to(stored.dtype)
    if stored.shape != computed.shape or not torch.allclose(stored.float(), computed.float(), rtol=1e-5, atol=0):
        raise CheckpointError(
            f"{name} must be the powers of 1/10000 that the model computes, got others in {file}; it is foreign"
        )


def to_folder(path: Path, folder: Path, overrides: dict, tokenizer_file: Path | None) -> int:
    """Writes the checkpoint at path into an existing, empty folder; returns the number of tensors.

    folder gets safetensors files, configs and, given the sentencepiece file, the tokenizer.
    """
    try:
        tokenizer = None if tokenizer_file is None else cog_tokenizer(tokenizer_file)
    except ValueError as error:
        raise CheckpointError(f"--tokenizer {error}") from error
    if tokenizer is not None:
        overrides = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id} | overrides
    shards = thudm.Shards(thudm.find_shards(path), scratch=folder)
    config = make_config(shards, overrides)
    written: list[list[str]] = []
    group: dict[str, torch.Tensor] = {}

    def write() -> None:
        names = list(group)
        save_file(apart(group), folder / f"{len(written)}.safetensors", metadata={"format": "pt"})
        written.append(names)

    for name, tensor in _renamed(shards, config):
        if group and sum(held.nbytes for held in group.values()) + tensor.nbytes > FILE_BYTES:
            write()
        group[name] = tensor
    write()
    shards.close()
    _name_files(folder, written)
    config.save_pretrained(folder)
    make_generation_config(config).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return sum(map(len, written))


def _name_files(folder: Path, written: list[list[str]]) -> None:
    """The names by which from_pretrained finds one file, or several with their index."""
    if len(written) == 1:
        (folder / "0.safetensors").rename(folder / "model.safetensors")
        return
    places = {}
    for number, names in enumerate(written):
        file = f"model-{number + 1:05d}-of-{len(written):05d}.safetensors"
        (folder / f"{number}.safetensors").rename(folder / file)
        places |= dict.fromkeys(names, file)
    total = sum(file.stat().st_size for file in folder.glob("model-*.safetensors"))
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def from_folder(folder: Path, config: TransformerXLConfig) -> dict[str, torch.Tensor]:
    """Our folder's weights under THUDM's names, of one rank, in memory; raises CheckpointError."""
    files = dict.fromkeys(_names(folder / "model.safetensors"), "model.safetensors")
    if (folder / INDEX).is_file():
        with library_errors(CheckpointError, f"{folder / INDEX} must be an index of files", "copy it again"):
            files = dict(json.loads((folder / INDEX).read_text(encoding="utf-8")).get("weight_map"))
    files.pop("lm_head.weight", None)  # the tied copy that models spread over processes save
    expected = expected_shapes(config)
    if differing := expected.keys() ^ files.keys():
        raise CheckpointError(f"{folder} must hold the tensors of its config.json, got other ones: {min(differing)}")
    result = {}
    for parameter in thudm.TABLE:
        for i in range(config.num_hidden_layers if "{i}" in parameter.theirs else 1):
            for kind in ("weight", "bias") if "{w}" in parameter.theirs else ("",):
                ours = [name.format(i=i, w=kind) for name in parameter.ours]
                if ours and ours[0] in files:
                    parts = [_read(folder, files[name], name, expected[name]) for name in ours]
                    result[parameter.theirs.format(i=i, w=kind)] = torch.cat(parts)
    if config.relative_encoding:
        dtype = getattr(torch, config.positions_dtype)
        result["transformer.position_embeddings.inv_freq"] = inverse_frequencies(config.hidden_size).to(dtype)
    return result


def _names(file: Path) -> list[str]:
    if not file.is_file():
        return []
    with library_errors(CheckpointError, f"{file} must hold tensors", "copy it again"), _opened(file) as tensors:
        return list(tensors.keys())


def _opened(file: Path) -> safe_open:
    return safe_open(file, framework="pt")


def _read(folder: Path, file: str, name: str, shape: torch.Size) -> torch.Tensor:
    if not isinstance(file, str) or Path(file).name != file:
        raise CheckpointError(f"{folder / INDEX} must name files beside it, got {file!r} for {name}; copy it again")
    expected = f"{folder / file} must hold {name}"
    with library_errors(CheckpointError, expected, "copy it again"), _opened(folder / file) as tensors:
        tensor = tensors.get_tensor(name)
    if tensor.shape != shape or not tensor.is_floating_point():
        raise CheckpointError(
            f"{folder / file} must hold {name} of shape {tuple(shape)} as config.json says, got {tuple(tensor.shape)} "
            f"of {tensor.dtype}; correct config.json or copy both again"
        )
    return tensor


def load(path: str | Path, overrides: dict | None = None, **kwargs) -> TransformerXLForCausalLM:
    """The model of a THUDM folder or file, without writing anything; any number of parts, on any number of processes.

    overrides are config fields, kwargs go to from_pretrained (dtype, distributed_config, device_map, ...).
    """
    shards = thudm.Shards(thudm.find_shards(Path(path)))
    config = make_config(shards, overrides or {})
    state = dict(_renamed(shards, config))
    model = TransformerXLForCausalLM.from_pretrained(None, config=config, state_dict=state, **kwargs)
    model.generation_config = make_generation_config(config)
    return model
