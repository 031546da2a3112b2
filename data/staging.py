"""Inputs that lie elsewhere or are packed, as files to read here; outputs that go elsewhere, made here first.

A path with a scheme (s3://, gs://, hdfs://, memory://, file://) is read and written through fsspec and its package for
that scheme. A file that ends in .gz, .bz2 or .zst is unpacked, and where asked for a Parquet file becomes JSON lines.
All of it streams, a block at a time, into a folder beside the output, under the names of unpacked files: so what is
made of it is the same byte for byte, and is checked and shared among processes as ever.
"""

import json
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from common.errors import UserError
from data.files import DataError
from data.foreign import foreign_errors
from data.outputs import held

_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_PARQUET, _LOCK, _BLOCK = ".parquet", ".lock", 1 << 20
_LAST = "manifest.json"  # says that a corpus is complete


@contextmanager
def brought_here(args: Namespace, inputs: str, output: str, key: str | None = None) -> Iterator[None]:
    """Let two flags name local paths inside: what is read is fetched first, what is written is sent at the end.

    inputs, output: names of the flags; key: of the JSON lines that Parquet becomes, its column; None to leave it.
    Flags of local, unpacked paths stay as they are. A share of the work reads files where they lie.
    """
    sent = getattr(args, output)
    with ExitStack() as held_open:
        if _is_url(sent):
            _refuse_shares(args, output, sent)
            _check_target(sent, f"--{output}")
            work = Path(held_open.enter_context(tempfile.TemporaryDirectory()))
            setattr(args, output, str(work / PurePosixPath(sent.rstrip("/")).name))
        named = getattr(args, inputs)
        paths = named if isinstance(named, list) else [named] if named else []
        if any(_needs_fetching(path, key) for path in paths):
            _refuse_shares(args, inputs, next(path for path in paths if _needs_fetching(path, key)))
            with _folder_beside(Path(getattr(args, output)), f"--{output}") as folder:
                local = [str(_fetch(path, folder / str(n), f"--{inputs}", key)) for n, path in enumerate(paths)]
                setattr(args, inputs, local if isinstance(named, list) else local[0])
                yield
        else:
            yield
        if _is_url(sent):
            _send(work, sent, f"--{output}")


def _file_system(url: str) -> tuple:
    """What fsspec reads an address with, and the path there."""
    import fsspec  # here, as what packed files need below: most runs take local ones as they are

    return fsspec.url_to_fs(url)


def _is_url(path: str) -> bool:
    return "://" in path


def _packed(name: str, key: str | None) -> bool:
    return Path(name).suffix.lower() in (*_CODECS, *([_PARQUET] if key else []))


def _needs_fetching(path: str, key: str | None) -> bool:
    if _is_url(path) or (_packed(path, key) and Path(path).is_file()):
        return True
    return Path(path).is_dir() and any(_packed(name, key) for _, _, names in os.walk(path) for name in names)


def _refuse_shares(args: Namespace, flag: str, path: str) -> None:
    if getattr(args, "shard_index", None) is not None or getattr(args, "merge", False) or getattr(args, "step", None):
        raise UserError(
            f"--{flag} must name local, unpacked files for work that many runs share, got {path!r}; copy or unpack it "
            "to the disk that they share"
        )


@contextmanager
def _folder_beside(output: Path, flag: str) -> Iterator[Path]:
    """A folder of this output's own, always of the same name, which is removed at the end and by the next run."""
    folder = output.with_name(f"{output.name}.inputs")
    if folder.exists() and not (folder / _LOCK).is_file():
        raise UserError(f"{flag} must leave room for {folder}, got something there; choose another name or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        busy = UserError(f"{flag} must be free, got {folder} held by another run; wait for it to end")
        with held(folder / _LOCK, busy, 0):
            for old in folder.iterdir():
                if old.name != _LOCK:
                    shutil.rmtree(old)
            yield folder
            shutil.rmtree(folder)
    except BaseException as error:
        if not (isinstance(error, UserError) and error is busy):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _fetch(path: str, folder: Path, flag: str, key: str | None) -> Path:
    """Bring a file, or all files below a folder, into a folder; the path there that stands for it."""
    if not _needs_fetching(path, key):
        return Path(path)
    with _reachable(path, flag):
        fs, root = _file_system(path if _is_url(path) else os.path.abspath(path))
        names = [root] if fs.isfile(root) else sorted(fs.find(root))
    if not names:
        raise UserError(f"{flag} must name an existing file or folder, got {path!r}; check the path")
    top, base = PurePosixPath(root.rstrip("/")), folder.resolve()
    for name in names:
        inside = PurePosixPath(name).relative_to(top.parent)
        if Path(name).is_relative_to(base.parent) and not _is_url(path):
            continue  # what this run has fetched, where the output lies among the inputs
        target = base / inside
        if ".." in inside.parts or any(part in ("", "/") for part in inside.parts):
            raise UserError(f"{flag} must hold files of usual names, got {name!r}; rename it")
        target.parent.mkdir(parents=True, exist_ok=True)
        if _is_url(path) or _packed(name, key):
            with _reachable(path, flag), fs.open(name, "rb") as source:
                _unpack(source, name, target, key)
        else:
            _new(target, name).symlink_to(name)
    return base / (_unpacked(PurePosixPath(top.name), key) if names == [root] else top.name)


def _unpacked(name: PurePosixPath, key: str | None) -> PurePosixPath:
    """The name of what is in a file."""
    if name.suffix.lower() in _CODECS:
        name = name.with_suffix("")
    return name.with_suffix(".jsonl") if key and name.suffix.lower() == _PARQUET else name


def _new(target: Path, name: str) -> Path:
    if target.exists() or target.is_symlink():
        raise UserError(f"inputs must be there once, got {name} packed and unpacked; remove one of them")
    return target


def _unpack(source: BinaryIO, name: str, target: Path, key: str | None) -> None:
    """Write what a file holds beside `target`, under the name of the unpacked file."""
    import pyarrow as pa

    from data.tables import parquet_texts

    codec = _CODECS.get(target.suffix.lower())
    plain = _new(target.with_name(_unpacked(PurePosixPath(target.name), None).name), name)
    with plain.open("wb") as file:
        if codec is None:
            shutil.copyfileobj(source, file, _BLOCK)
        else:
            with (
                foreign_errors(Path(name), f"packed by {codec}", "copy or pack it again"),
                pa.CompressedInputStream(pa.PythonFile(source, "r"), codec) as stream,
            ):
                while block := stream.read(_BLOCK):
                    file.write(block)
    if key and plain.suffix.lower() == _PARQUET:
        lines = _new(plain.with_suffix(".jsonl"), name)
        with lines.open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps({key: text}, ensure_ascii=False) + "\n"
                for text in parquet_texts(plain, key)
                if text is not None
            )
        plain.unlink()


@contextmanager
def _reachable(path: str, flag: str) -> Iterator[None]:
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


def _check_target(url: str, flag: str) -> None:
    """UserError for an output that is a folder with something in it."""
    with _reachable(url, flag):
        fs, root = _file_system(url)
        taken = fs.isdir(root) and bool(fs.find(root))
    if taken:
        raise UserError(f"{flag} must name a new folder or a file, got {url!r}, a folder with files; choose another")


def _send(work: Path, url: str, flag: str) -> None:
    """Copy all that lies in a folder to where `url` lies, whole files, what says that it is complete last."""
    files = sorted((path for path in work.rglob("*") if path.is_file()), key=lambda path: (path.name == _LAST, path))
    with _reachable(url, flag):
        fs, root = _file_system(url.rstrip("/"))
        parent = PurePosixPath(root).parent
        for file in files:
            target = str(parent / file.relative_to(work).as_posix())
            fs.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
            with fs.transaction, file.open("rb") as source, fs.open(target, "wb") as sink:
                shutil.copyfileobj(source, sink, _BLOCK)
    if files:
        print(f"sent to {url}: {len(files):,} file{'s' if len(files) > 1 else ''} from {work}, which is gone")
