"""Rewrites a published checkpoint as a folder with safetensors that from_pretrained reads, and back.

    python convert_checkpoint.py --reverse outputs/mine/txl outputs/mine/txl_thudm

A folder that the example of run_clm.py trains, in THUDM's layout. Of published checkpoints:

    python convert_checkpoint.py junnyu/flash_small_wwm_cluecorpussmall flash_small
    python convert_checkpoint.py --source lucidrains_flash --config '{"causal": true}' flash.pt flash_causal
    python convert_checkpoint.py --reverse --source lucidrains_flash flash_causal flash.pt
    python convert_checkpoint.py --tokenizer cog-pretrain.model txl-2.9B txl-2.9B-hf
    python convert_checkpoint.py --reverse txl-2.9B-hf txl-2.9B
    python convert_checkpoint.py --refresh_code txl-2.9B-hf

Every tensor must find its place: an unknown, missing or mis-shaped one is an error. A published folder of GAU-alpha,
FLASHQuad or FLASH loads with from_pretrained as it is; converting one makes it safe to share and quicker to load.
Chinese Transformer-XL (source thudm: a file, a folder of model-parallel parts, or one with a tracker) is converted
layer by layer, in about a gigabyte of memory. --refresh_code puts today's code of our models into a folder that an
older version saved, so that trust_remote_code loads it under every transformers of requirements.txt; our own scripts
and `import models` load such a folder as it is.
"""

import argparse
import json
import shutil
from pathlib import Path

if __name__ == "__main__":
    import common.script  # noqa: F401  no traceback of Ctrl-C amid the slow imports

import torch
from safetensors.torch import load_file, save_file

from common.errors import ArgumentError, library_errors
from common.flags import FlagParser
from common.script import run_script
from models.convert import SOURCES, CheckpointError, Source, thudm, to_ours, to_theirs, transformer_xl
from models.convert.engine import make_config
from models.convert.output import apart, new_output
from models.convert.travel import refresh_code
from training.model_setup import weight_files
from training.pretrained import check_numbers, read_object, resolve_pretrained

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = FlagParser(doc=__doc__)
    parser.add_argument("input", help="folder, hub name, or state dict file (.pt, .bin, .safetensors)")
    parser.add_argument(
        "output", nargs="?", help="folder to make; with --reverse to a source without config, a .pt file"
    )
    parser.add_argument(
        "--source", choices=("auto", "thudm", *SOURCES), default="auto", help="whose names the foreign side has"
    )
    parser.add_argument("--reverse", action="store_true", help="from our names to the source's")
    parser.add_argument("--config", default="{}", help="config fields to set: JSON, or a JSON file")
    parser.add_argument("--tokenizer", type=Path, help="cog-pretrain.model, to put its tokenizer into the folder")
    parser.add_argument("--refresh_code", action="store_true", help="replace the code in the folder input; no output")
    arguments = parser.parse_args(argv)
    if (arguments.output is None) != arguments.refresh_code:
        parser.error("output must be given, and must not be with --refresh_code, which changes the folder input")
    return arguments


def read_fields(argument: str) -> dict:
    """The config fields of --config."""
    try:
        text = argument if argument.lstrip().startswith("{") else Path(argument).read_text(encoding="utf-8")
        fields = json.loads(text)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--config {argument} must be JSON or a JSON file, got: {error}; quote it") from error
    if not isinstance(fields, dict):
        raise ArgumentError(f"--config {argument} must be a JSON object, got {type(fields).__name__}; write {{...}}")
    return fields


def weight_file(path: Path) -> Path:
    """The file with the tensors: path itself, or the one in the folder."""
    names = [path.name] if path.is_file() else sorted(file.name for file in path.iterdir())
    files = [name for name in WEIGHTS if name in names]
    if path.is_dir() and files:
        return path / files[0]
    if any(name.endswith((".index", ".meta", ".ckpt")) or ".data-0" in name for name in names):
        raise ArgumentError(
            f"input {path} must hold PyTorch or safetensors weights, got a TensorFlow checkpoint, which is out of "
            "scope; convert it to pytorch_model.bin with the program that published it"
        )
    if path.is_dir():
        raise ArgumentError(f"input {path} must hold one of {', '.join(WEIGHTS)}, got {', '.join(names) or 'nothing'}")
    return path


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, without running code from the file."""
    with library_errors(ArgumentError, f"input {file} must be a state dict of tensors", "save one"):
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    plain = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not plain or not all(isinstance(name, str) for name in state):
        raise ArgumentError(f"input {file} must be a state dict of tensors, got {type(state).__name__}; save that")
    return dict(state)


def find_source(name: str, fields: dict, state: dict, owner: str) -> Source:
    """The source by --source, or by what the input shows."""
    if name == "auto":
        name = "lucidrains_flash" if "to_logits.1.weight" in state else fields.get("model_type")
    if not isinstance(name, str) or name not in SOURCES:
        raise ArgumentError(f"--source must be one of {', '.join(SOURCES)} for input {owner}, got {name}; give it")
    return SOURCES[name]


def write_output(
    output: Path, state: dict[str, torch.Tensor], fields: dict | None, folder: Path, reverse: bool
) -> None:
    """Writes a folder (or, without config fields, one file) that appears whole or not at all."""
    with new_output(output) as target:
        if fields is None:
            torch.save(state, target)
            return
        target.mkdir()
        text = json.dumps(fields, ensure_ascii=False, indent=2)
        (target / "config.json").write_text(text + "\n", encoding="utf-8")
        if reverse:
            torch.save(state, target / "pytorch_model.bin")
        else:
            save_file(apart(dict(state)), target / "model.safetensors", metadata={"format": "pt"})
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)


def convert_thudm(path: Path, output: Path, fields: dict, tokenizer: Path | None, reverse: bool) -> int:
    """Chinese Transformer-XL, either way; returns the number of tensors written."""
    with new_output(output) as target:
        target.mkdir()
        if not reverse:
            return transformer_xl.to_folder(path, target, fields, tokenizer)
        weight_files(path, str(path), "input")
        state = transformer_xl.from_folder(path, make_config(read_config(path) | fields))
        content = {"module": state, "iteration": 0, "mp_world_size": 1}
        torch.save(content, target / thudm.SHARD.format(0))
        return len(state)


def read_config(path: Path) -> dict:
    """Fields of the folder's config.json, none if there is none."""
    if not (path / "config.json").is_file():
        return {}
    fields = read_object(path / "config.json", str(path), "input")
    check_numbers(fields, f"input {path}")
    fields.pop("auto_map", None)
    return fields


def is_thudm(path: Path, source: str, reverse: bool) -> bool:
    """Whether the foreign side is Chinese Transformer-XL, by --source or by what the input shows."""
    if source != "auto":
        return source == "thudm"
    ours = read_config(path).get("model_type") == transformer_xl.TransformerXLConfig.model_type
    return ours if reverse else thudm.is_checkpoint(path)


def convert(arguments: argparse.Namespace) -> int:
    """Reads, renames, writes; returns the number of tensors written."""
    name = arguments.input
    path = Path(name) if Path(name).exists() else Path(resolve_pretrained(name, "input"))
    if not path.exists():
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(str(path)))
    if is_thudm(path, arguments.source, arguments.reverse):
        fields = read_fields(arguments.config)
        return convert_thudm(path, Path(arguments.output), fields, arguments.tokenizer, arguments.reverse)
    if arguments.tokenizer is not None:
        raise ArgumentError(f"--tokenizer {arguments.tokenizer} must be for source thudm; leave it out")
    state = read_state(weight_file(path))
    folder = path if path.is_dir() else path.parent
    fields = read_config(path)
    source = find_source(arguments.source, fields, {} if arguments.reverse else state, name)
    if source.config_of is not None and not arguments.reverse:
        fields = source.config_of(state)
    fields |= read_fields(arguments.config)
    if fields.get("model_type") != source.model_type:
        raise ArgumentError(
            f"input {name} must have model_type {source.model_type} in its config.json for --source {source.name}, "
            f"got {fields.get('model_type')}; choose another source"
        )
    config = make_config(fields)
    result = (to_theirs if arguments.reverse else to_ours)(source, state, config)
    single_file = arguments.reverse and source.config_of is not None
    write_output(Path(arguments.output), result, None if single_file else fields, folder, arguments.reverse)
    return len(result)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.refresh_code:
        print(f"{arguments.input}: {refresh_code(Path(arguments.input))} files of code")
        return
    try:
        count = convert(arguments)
    except CheckpointError as error:
        named = arguments.input in str(error)
        raise error if named else CheckpointError(f"input {arguments.input}: {error}") from error
    print(f"{arguments.output}: {count} tensors")


if __name__ == "__main__":
    run_script(main)
