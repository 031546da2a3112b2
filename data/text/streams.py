"""Files that are packed or lie elsewhere, read from their beginning to their end without a copy on the disk.

A path with a scheme (s3://, gs://, hdfs://, memory://) is read through fsspec and its package for that scheme. A file
that ends in .gz, .bz2 or .zst is unpacked, and where asked for a Parquet file becomes JSON lines. All of it goes by
blocks and in the order of the names of unpacked files: so what is made of it is the same byte for byte.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from common.errors import UserError
from data.files import DataError, input_files, say_left_out
from data.foreign import foreign_errors
from data.unchanged_inputs import Stamp, stamp

_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_PARQUET, _BLOCK, _ROWS = ".parquet", 1 << 20, 1000


@dataclass(frozen=True)
class Streamed:
    """A file that is packed or lies elsewhere, as much of a Path as its readers need.

    path: as its file system calls it; url: an address in that file system, None for this machine's.
    key: under which the texts of Parquet stand in JSON lines, the name of its column; None where Parquet stays.
    length: bytes of what is read, once they are counted.
    sought: whether it can be read from any place on, known then, too.
    """

    path: str
    url: str | None = None
    key: str | None = None
    length: int | None = None
    sought: bool = False

    def __str__(self) -> str:
        return self.path if self.url is None else f"{self.url.partition('://')[0]}://{self.path.lstrip('/')}"

    @property
    def inner(self) -> PurePosixPath:
        """The path of what is read."""
        return PurePosixPath(unpacked_name(self.path, self.key))

    @property
    def suffix(self) -> str:
        return self.inner.suffix

    def open(self, mode: str = "rb") -> BinaryIO:
        """What is read, as a file. DataError naming the file when it is damaged."""
        source, name = self._source(), str(self)
        if not is_packed(name, self.key):
            return source
        blocks = unpacked_blocks(source, name) if is_packed(name, None) else json_lines(source, name, self.key)
        return io.BufferedReader(_Blocks(blocks, source), _BLOCK)

    def _source(self) -> BinaryIO:
        return io.BufferedReader(_Far(self), _BLOCK) if self.url else Path(self.path).open("rb")

    def stamp(self) -> Stamp:
        """Of what lies there."""
        if self.url is None:
            return stamp(Path(self.path))
        with reachable(str(self), "inputs"):
            fs = file_system(self.url)[0]
            return Stamp(fs.size(self.path) or 0, fs.checksum(self.path))

    def lies_in(self, url: str, name: str) -> bool:
        """Whether it is the file or folder of this name beside an address, or below it."""
        place = PurePosixPath(file_system(url)[1]).with_name(name)
        return self.url is not None and place in (PurePosixPath(self.path), *PurePosixPath(self.path).parents)

    def counted(self) -> "Streamed":
        """The same with its length, for which all of it is read where no file system knows it."""
        if not is_packed(self.path, self.key) and (size := self.stamp().size):
            return replace(self, length=size, sought=True)
        with self.open() as file:
            return replace(self, length=sum(map(len, iter(partial(file.read, _BLOCK), b""))))


class _Far(io.RawIOBase):
    """A file that fsspec reads, whose errors are ours."""

    def __init__(self, file: Streamed):
        self._name, self._at = str(file), 0
        with reachable(self._name, "inputs"):
            self._file = file_system(file.url)[0].open(file.path, "rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        place, whence = (self._at + place, 0) if whence == 1 else (place, whence)
        self._at = self._file.seek(place, whence)
        return self._at

    def readinto(self, buffer) -> int:
        with reachable(self._name, "inputs"):
            self._file.seek(self._at)  # memory:// gives one file to all that open it
            block = self._file.read(len(buffer))
        buffer[: len(block)] = block
        self._at += len(block)
        return len(block)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


class _Blocks(io.RawIOBase):
    """Blocks that are made of a file, as a file."""

    def __init__(self, blocks: Iterator[bytes], source: BinaryIO):
        self._blocks, self._source, self._rest = blocks, source, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        self._blocks.close()
        self._source.close()
        super().close()


def unpacked_blocks(source: BinaryIO, name: str) -> Iterator[bytes]:
    """What is in a packed file, by blocks that are not empty. DataError naming it when it is damaged."""
    import pyarrow as pa  # here, as fsspec below: most runs read local files as they are

    codec = _CODECS[PurePosixPath(name).suffix.lower()]
    damaged = foreign_errors(Path(name), f"packed by {codec}", "copy or pack it again")
    with damaged, pa.CompressedInputStream(pa.PythonFile(source, "r"), codec) as stream:
        while block := stream.read(_BLOCK):
            yield block


def json_lines(source: BinaryIO, name: str, key: str) -> Iterator[bytes]:
    """The texts in the column `key` of Parquet as JSON lines, by blocks. DataError naming a damaged file."""
    from data.tables import parquet_texts

    texts = parquet_texts(source, name, key)
    lines = (json.dumps({key: text}, ensure_ascii=False) + "\n" for text in texts if text is not None)
    while block := "".join(islice(lines, _ROWS)).encode():
        yield block


def is_packed(name: str, key: str | None) -> bool:
    """Whether what is read is something else than what lies there. key: as of Streamed."""
    return PurePosixPath(name).suffix.lower() in (*_CODECS, *([_PARQUET] if key else []))


def unpacked_name(name: str, key: str | None) -> str:
    """The name of what is in a file."""
    name = os.path.splitext(name)[0] if is_packed(name, None) else name
    return f"{os.path.splitext(name)[0]}.jsonl" if is_packed(name, key) and not is_packed(name, None) else name


def is_url(path: str) -> bool:
    return "://" in path


def file_system(url: str) -> tuple:
    """What fsspec reads an address with, and the path there."""
    import fsspec

    return fsspec.url_to_fs(url)


def local_path(path: str) -> str:
    """The path, without file:// where that stands before it."""
    return file_system(path)[1] if path.startswith(("file://", "local://")) else path


@contextmanager
def reachable(path: str, flag: str) -> Iterator[None]:
    """UserError in a line for whatever a file system elsewhere raises."""
    try:
        yield
    except (UserError, DataError):
        raise
    except OSError as error:
        if error.errno is not None and not isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{flag} must name what is there, got {path!r} ({error}); check the path") from error
    except Exception as error:
        raise UserError(
            f"{flag} must be reachable through fsspec, got {path!r} ({' '.join(str(error).split())}); check the "
            "address, and install fsspec's package for it"
        ) from error


def input_streams(path: str, flag: str, key: str | None, suffix: str = "") -> list[Path | Streamed]:
    """The files that `path` stands for, as `input_files` has them, packed ones and those elsewhere as they are read.

    key: as of Streamed; suffix: of unpacked names. UserError naming `flag` when there is none.
    """
    path = local_path(path)
    if is_url(path):
        files = _far_files(path, flag, key, suffix)
    else:
        files = input_files(path, flag, suffix, partial(unpacked_name, key=key))
        files = [Streamed(os.fspath(file), None, key) if is_packed(file.name, key) else file for file in files]
    by_place = {}
    for file in files:
        place = file.inner if isinstance(file, Streamed) else PurePosixPath(file)
        if place in by_place:
            raise UserError(f"inputs must be there once, got {place} packed and unpacked; remove one of them")
        if isinstance(file, Streamed) and key and is_packed(os.path.splitext(file.path)[0], key):
            raise UserError(f"{flag} must hold files that are packed once, got {file}; unpack it")
        by_place[place] = file
    return [by_place[place] for place in sorted(by_place, key=lambda place: place.parts)]


def _far_files(url: str, flag: str, key: str | None, suffix: str) -> list[Streamed]:
    with reachable(url, flag):
        fs, root = file_system(url)
        if fs.isfile(root):
            return [Streamed(root, url, key)]
        files = [Streamed(name, url, key) for name in fs.find(root)]
    if not files:
        raise UserError(f"{flag} must name an existing file or folder, got {url!r}; check the path")
    kept = [file for file in files if file.inner.name.endswith(suffix)]
    if not kept:
        raise UserError(
            f"{flag} must hold at least a file ending in {suffix!r}, got the folder {url!r}; check the path"
        )
    others = set(files) - set(kept)
    say_left_out([file.inner for file in others if not file.inner.name.startswith(".")], f"does not end in {suffix}")
    return kept
