"""Inputs of a corpus that are packed or lie elsewhere, copied to files here: units of work read them at many places.

A copy has the name of the unpacked file and lies in a folder beside the output, OUTPUT.inputs: so the corpus is the
same byte for byte, and is checked and shared among processes as ever.
"""

import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from common.errors import UserError
from data.outputs import held
from data.text.streams import (
    file_system,
    is_packed,
    is_url,
    json_lines,
    local_path,
    reachable,
    unpacked_blocks,
    unpacked_name,
)

_LOCK, _BLOCK = ".lock", 1 << 20


class CopiedInputs:
    """The paths of a flag, as files that can be read here. Inside of `with`, at whose end copies are removed.

    inputs, output: names of the flags; key: of the JSON lines that Parquet becomes, its column, None to leave it.
    Where many runs share the work, the one that plans it copies, once for all; the one that merges removes the copies.
    """

    def __init__(self, args: Namespace, inputs: str, output: str, key: str | None = None):
        named = getattr(args, inputs) or []
        self._paths = [local_path(path) for path in ([named] if isinstance(named, str) else named)]
        self._flag, self._output_flag, self._key = f"--{inputs}", f"--{output}", key
        output = Path(getattr(args, output))
        self.folder = output.with_name(f"{output.name}.inputs").resolve()
        self._shared, self._merges = args.num_shards is not None, args.merge
        self._stack, self._held = ExitStack(), False

    def __enter__(self) -> "CopiedInputs":
        return self

    def __exit__(self, error, *_) -> None:
        with self._stack:
            if (self._held and not self._shared) or (self._merges and error is None):
                self.drop()

    @contextmanager
    def brought(self) -> Iterator[list[str]]:
        """The paths; if one of them needs it, those of copies, which are removed when the inside fails."""
        if not any(_needs_copy(path, self._key) for path in self._paths):
            yield self._paths
            return
        self._hold()
        try:
            folders = [self.folder / str(number) for number in range(len(self._paths))]
            yield [str(self._copy(*pair)) for pair in zip(self._paths, folders, strict=True)]
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Remove the copies, if there are any."""
        if (self.folder / _LOCK).is_file():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _hold(self) -> None:
        """Make the folder for this run alone; what a killed one left in it goes."""
        if self.folder.exists() and not (self.folder / _LOCK).is_file():
            raise UserError(
                f"{self._output_flag} must leave room for {self.folder}, got something there; choose another name or "
                "remove it"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = UserError(
            f"{self._output_flag} must be free, got {self.folder} held by another run; wait for it to end"
        )
        self._stack.enter_context(held(self.folder / _LOCK, busy, 0))
        self._held = True
        for old in self.folder.iterdir():
            if old.name != _LOCK:
                shutil.rmtree(old)

    def _copy(self, path: str, folder: Path) -> Path:
        """Bring a file, or all files below a folder, into a folder; the path there that stands for it."""
        if not _needs_copy(path, self._key):
            return Path(path)
        with reachable(path, self._flag):
            fs, root = file_system(path if is_url(path) else os.path.abspath(path))
            names = [root] if fs.isfile(root) else sorted(fs.find(root))
        if not names:
            raise UserError(f"{self._flag} must name an existing file or folder, got {path!r}; check the path")
        top = PurePosixPath(root.rstrip("/"))
        for name in names:
            if not is_url(path) and Path(name).is_relative_to(self.folder):
                continue  # what this run has copied, where the output lies among the inputs
            inside = PurePosixPath(name).relative_to(top.parent)
            if ".." in inside.parts or any(part in ("", "/") for part in inside.parts):
                raise UserError(f"{self._flag} must hold files of usual names, got {name!r}; rename it")
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            if is_url(path) or is_packed(name, self._key):
                with reachable(path, self._flag), fs.open(name, "rb") as source:
                    _unpack(source, name, target, self._key)
            else:
                _new(target, name).symlink_to(name)
        return folder / (unpacked_name(top.name, self._key) if names == [root] else top.name)


def _needs_copy(path: str, key: str | None) -> bool:
    if is_url(path) or (is_packed(path, key) and Path(path).is_file()):
        return True
    return Path(path).is_dir() and any(is_packed(name, key) for _, _, names in os.walk(path) for name in names)


def _new(target: Path, name: str) -> Path:
    if target.exists() or target.is_symlink():
        raise UserError(f"inputs must be there once, got {name} packed and unpacked; remove one of them")
    return target


def _unpack(source: BinaryIO, name: str, target: Path, key: str | None) -> None:
    """Write what a file holds beside `target`, under the name of the unpacked file."""
    plain = target
    if is_packed(name, None):
        plain = _new(target.with_name(unpacked_name(target.name, None)), name)
        with plain.open("wb") as file:
            file.writelines(unpacked_blocks(source, name))
    elif not is_packed(name, key):
        with _new(target, name).open("wb") as file:
            shutil.copyfileobj(source, file, _BLOCK)
    if is_packed(plain.name, key):  # Parquet, perhaps unpacked just now
        with _new(plain.with_suffix(".jsonl"), name).open("wb") as file, ExitStack() as stack:
            texts = source if plain == target else stack.enter_context(plain.open("rb"))
            file.writelines(json_lines(texts, name, key))
        plain.unlink(missing_ok=True)
