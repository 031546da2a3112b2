"""Checkpoints of THUDM/Chinese-Transformer-XL: where their files lie, how ranks share tensors, what we call them.

Source: that repository's utils.py, change_mp.py and mpu/. A checkpoint is `mp_rank_{r:02d}_model_states.pt` for each
model-parallel rank r, in a folder, or in the subfolder that `latest_checkpointed_iteration.txt` names. Files are
memory-mapped and let go layer by layer, so that reading one takes the memory of a layer.
"""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch

from common.errors import library_errors

from .engine import CheckpointError

TRACKER = "latest_checkpointed_iteration.txt"
VOCABULARY = "word_embeddings.weight"
SHARD = "mp_rank_{:02d}_model_states.pt"
_SHARD_NAME = re.compile(r"mp_rank_(\d\d)_model_states\.pt")
_VECTOR = re.compile(r"(\.bias|layernorm\.weight|inv_freq)$")  # the other tensors are matrices
# numpy's random state, which trainers store beside the weights, under its old and new module names.
_ALLOWED = [np.ndarray, np.dtype, type(np.dtype(np.uint32))]
for _function in (np.zeros(0).__reduce__()[0], np.uint32(0).__reduce__()[0]):
    _ALLOWED += [(_function, f"numpy.{core}.multiarray.{_function.__name__}") for core in ("core", "_core")]
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Parameter:
    """One row of the table; `{i}` is a layer's number, `{w}` is weight or bias."""

    theirs: str
    ours: tuple[str, ...]  # three for a fused query, key and value, one below the other; none for what we compute
    dim: int | None = None  # the dimension that ranks share, None where each has all of it

    @property
    def parts(self) -> int:
        return max(1, len(self.ours))


_LAYER, _OURS = "transformer.layers.{i}.", "model.layers.{i}."
TABLE = (
    Parameter("word_embeddings.weight", ("model.embed_tokens.weight",), 0),
    Parameter("transformer.r_w_bias", ("model.rel_bias.r_w_bias",), 0),
    Parameter("transformer.r_r_bias", ("model.rel_bias.r_r_bias",), 0),
    Parameter("transformer.position_embeddings.inv_freq", ()),
    Parameter("transformer.position_embeddings.weight", ("model.embed_positions.weight",)),
    Parameter(_LAYER + "input_layernorm.{w}", (_OURS + "input_layernorm.{w}",)),
    Parameter(_LAYER + "attention.query_key_value.{w}", tuple(_OURS + f"attn.{x}_proj.{{w}}" for x in "qkv"), 0),
    Parameter(_LAYER + "attention.relative.{w}", (_OURS + "attn.r_proj.{w}",), 0),
    Parameter(_LAYER + "attention.dense.weight", (_OURS + "attn.o_proj.weight",), 1),
    Parameter(_LAYER + "attention.dense.bias", (_OURS + "attn.o_proj.bias",)),
    Parameter(_LAYER + "post_attention_layernorm.{w}", (_OURS + "post_attention_layernorm.{w}",)),
    Parameter(_LAYER + "mlp.dense_h_to_4h.{w}", (_OURS + "mlp.fc_in.{w}",), 0),
    Parameter(_LAYER + "mlp.dense_4h_to_h.weight", (_OURS + "mlp.fc_out.weight",), 1),
    Parameter(_LAYER + "mlp.dense_4h_to_h.bias", (_OURS + "mlp.fc_out.bias",)),
    Parameter("transformer.final_layernorm.{w}", ("model.final_layernorm.{w}",)),
)


def _pattern(template: str) -> re.Pattern:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{w\}", "(?P<w>weight|bias)"))


_PATTERNS = tuple((_pattern(parameter.theirs), parameter) for parameter in TABLE)


def resolve(name: str) -> tuple[Parameter, tuple[str, ...]] | None:
    """The row of a name of theirs, and our names of it; None when the table does not have it."""
    for pattern, parameter in _PATTERNS:
        if match := pattern.fullmatch(name):
            values = match.groupdict()
            return parameter, tuple(ours.format(**values) for ours in parameter.ours)
    return None


def is_checkpoint(path: Path) -> bool:
    """Whether path is a folder or file of this kind, by its names alone."""
    if path.is_file():
        return bool(_SHARD_NAME.fullmatch(path.name))
    return path.is_dir() and any(_SHARD_NAME.fullmatch(file.name) or file.name == TRACKER for file in path.iterdir())


def find_shards(path: Path) -> list[Path]:
    """The files of every rank, in order; path is one of them, their folder, or the folder above with a tracker.

    Raises CheckpointError, naming what is missing.
    """
    if path.is_file():
        return [path]
    folder = path
    if (path / TRACKER).is_file():
        with library_errors(CheckpointError, f"{path / TRACKER} must name a folder beside it", "correct it"):
            name = (path / TRACKER).read_text(encoding="ascii").strip()
        if not re.fullmatch(r"[\w-][\w.-]*", name) or not (path / name).is_dir():
            raise CheckpointError(
                f"{path / TRACKER} must name a folder beside it, got {' '.join(name.split())[:80]}; correct it"
            )
        folder = path / name
    ranks = sorted(int(match[1]) for file in folder.iterdir() if (match := _SHARD_NAME.fullmatch(file.name)))
    missing = [SHARD.format(rank) for rank in range(max(ranks, default=0) + 1) if rank not in ranks]
    if missing:
        raise CheckpointError(f"{folder} must hold every model-parallel part, got no {missing[0]}; copy it there")
    return [folder / SHARD.format(rank) for rank in ranks]


def read_file(file: Path, mmap: bool) -> dict:
    """One rank's file, its tensors under `module`; no code of the file is run. Raises CheckpointError."""
    expected = f"{file} must be a whole PyTorch checkpoint"
    with library_errors(CheckpointError, expected, "copy or download it again"):
        try:
            with torch.serialization.safe_globals(_ALLOWED):
                content = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
        except UnpicklingError as error:
            if global_name := re.search(r"GLOBAL:? (\S+)", str(error)):
                raise CheckpointError(
                    f"{file} must hold tensors and plain values only, got the Python object {global_name[1]}, which "
                    "could run code when it is read; use a file from someone you trust"
                ) from error
            raise
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a dict of tensors, got {type(content).__name__}; save a state dict")
    content = content if isinstance(content.get("module"), dict) else {"module": content}
    module = content["module"]
    while module and all(isinstance(name, str) and name.startswith("module.") for name in module):
        module = {name.removeprefix("module."): value for name, value in module.items()}
    strangers = [name for name, value in module.items() if not _is_plain(name, value)]
    if strangers or not module:
        names = ", ".join(repr(name)[:80] for name in strangers[:3])
        raise CheckpointError(
            f"{file} must hold a dict of tensors of floating point numbers, got {names or 'none'}; save a state dict"
        )
    return content | {"module": module}


def _is_plain(name, value) -> bool:
    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return isinstance(name, str) and dense and value.is_floating_point()


class Shards:
    """The parts of one checkpoint as one whole. Raises CheckpointError where they do not fit together."""

    def __init__(self, files: list[Path], scratch: Path | None = None):
        """scratch: a folder for copies of files from before torch 1.6, which cannot be mapped; else they are read."""
        self.files = files
        self._readable = [file if scratch is None else _mappable(file, scratch) for file in files]
        self.contents: list[dict] = self._open()
        self.names = list(self.contents[0]["module"])
        self._check()

    def _open(self) -> list[dict]:
        return [read_file(file, zipfile.is_zipfile(file)) for file in self._readable]

    def _check(self) -> None:
        for file, content in zip(self.files, self.contents, strict=True):
            ranks = content.get("mp_world_size")
            if isinstance(ranks, int) and ranks not in (0, len(self.files)):
                raise CheckpointError(
                    f"{file} must be one of {ranks} model-parallel parts by its mp_world_size, got "
                    f"{len(self.files)} in all; give the folder with all of its parts, and no others"
                )
            differing = self.contents[0]["module"].keys() ^ content["module"].keys()
            if differing:
                raise CheckpointError(
                    f"{file} must have the tensors of {self.files[0]}, got {min(differing)} in one of them only; "
                    "use parts of one run"
                )
        unknown = [name for name in self.names if resolve(name) is None]
        if unknown:
            raise CheckpointError(
                f"{self.files[0]} must hold the tensors of a Chinese Transformer-XL, got {', '.join(unknown[:3])}; "
                "convert another source with its own --source"
            )
        if VOCABULARY not in self.names:
            raise CheckpointError(f"{self.files[0]} must hold {VOCABULARY}, got none; give a whole checkpoint")
        for file, content in zip(self.files, self.contents, strict=True):
            for name, tensor in content["module"].items():
                self._check_shape(file, name, tensor.shape)

    def _check_shape(self, file: Path, name: str, shape: torch.Size) -> None:
        """CheckpointError unless the tensor has the dimensions of its row, and where all ranks have all of one, the
        sizes that it has in the first file.
        """
        parameter, first = resolve(name)[0], self.contents[0]["module"][name].shape
        fits = len(shape) == (1 if _VECTOR.search(name) else 2) and 0 not in shape and shape[0] % parameter.parts == 0
        alike = len(shape) == len(first) and all(
            size == wanted for dim, (size, wanted) in enumerate(zip(shape, first, strict=True)) if dim != parameter.dim
        )
        if not fits or not alike:
            raise CheckpointError(
                f"{file} must hold {name} in its shape, got {tuple(shape)}; give whole parts of one Chinese "
                "Transformer-XL"
            )

    def release(self) -> None:
        """Let go of the memory that mapped tensors read so far have taken; earlier tensors stay valid on their own."""
        if all(zipfile.is_zipfile(file) for file in self._readable):
            self.contents = []
            self.contents = self._open()

    def close(self) -> None:
        """Let go of everything, copies in scratch included."""
        self.contents = []
        for file in set(self._readable) - set(self.files):
            file.unlink()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the tensor of all ranks together."""
        parameter, shape = resolve(name)[0], list(self.contents[0]["module"][name].shape)
        if parameter.dim is not None:
            shape[parameter.dim] = sum(content["module"][name].shape[parameter.dim] for content in self.contents)
        return tuple(shape)

    def parts(self, name: str) -> list[torch.Tensor]:
        """The tensor of all ranks together: one, or query, key and value of a fused one."""
        parameter, _ = resolve(name)
        pieces = [content["module"][name] for content in self.contents]
        if parameter.dim is None:
            for file, piece in zip(self.files[1:], pieces[1:], strict=True):
                if not torch.equal(piece, pieces[0]):
                    raise CheckpointError(
                        f"{file} must have the same {name} as {self.files[0]}, got other values; use parts of one run"
                    )
            return pieces[:1]
        if len(pieces) == 1:
            return list(pieces[0].chunk(parameter.parts))
        cut = [piece.chunk(parameter.parts) for piece in pieces]
        return [torch.cat(ranks, dim=parameter.dim) for ranks in zip(*cut, strict=True)]

    def walk(self) -> Iterator[tuple[str, list[torch.Tensor]]]:
        """Each name with its parts; what was read is let go from one layer to the next, so copy what you keep."""
        layer = None
        for name in self.names:
            if (numbered := re.search(r"layers\.(\d+)\.", name)) and numbered[1] != layer:
                layer = numbered[1]
                self.release()
            yield name, self.parts(name)


def _mappable(file: Path, scratch: Path) -> Path:
    if zipfile.is_zipfile(file):
        return file
    copy = scratch / file.name
    torch.save(read_file(file, False), copy)
    return copy


def cut(parameter: Parameter, parts: list[torch.Tensor], rank: int, ranks: int) -> torch.Tensor:
    """One rank's share of the whole, contiguous, in its own storage. Raises CheckpointError if it does not divide."""
    if parameter.dim is None:
        return parts[0].clone()
    size = parts[0].shape[parameter.dim]
    if size % ranks:
        raise CheckpointError(f"{parameter.theirs} of {size} must divide into {ranks} parts; choose another number")
    step = size // ranks
    return torch.cat([part.narrow(parameter.dim, rank * step, step) for part in parts])
