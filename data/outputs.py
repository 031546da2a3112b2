"""Outputs that appear whole or not at all, and temporary folders of which only our own are ever removed.

What is half written lies in a folder .NAME.xxxxxxxx.partial beside the output, which a file in it marks as ours. The
process that writes holds a lock on that file: what a killed one left is told from what another still needs.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from common.errors import UserError, describe_fault

_MARK = ".made-by-data-outputs"
_NAME = re.compile(r"\.(.+)\.\w{8}\.partial", re.DOTALL)
_REPLACED = "replaced"


@contextmanager
def atomic_output(path: str | Path, parents: bool = True) -> Iterator[Path]:
    """Yield a path for the caller to write a file to; on success it is renamed to `path`, on any error removed.

    parents: whether to make the folders above. A link is followed: the file it names is replaced, not the link.
    UserError where `path` is something else than a file, or a link into a folder that is not there.
    """
    path = resolve_output(path)
    if path.exists() and not path.is_file():
        raise UserError(f"the output must be a file, got {str(path)!r}, which is something else; choose another name")
    with temporary_folder(path, parents) as folder:
        partial = folder / "result"
        yield partial
        with partial.open("rb") as written:  # the data must reach the disk before the name does
            os.fsync(written.fileno())
        os.replace(partial, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder for the caller to fill; on success it takes the place of the folder `path`, if there is one.

    The caller must know that the old one may go. UserError for a link into a folder that is not there.
    """
    path = resolve_output(path)
    with temporary_folder(path) as folder:
        (folder / "result").mkdir()
        yield folder / "result"
        put_in_place(folder, path)


def put_in_place(folder: Path, path: Path) -> None:
    """Rename `result`, in this temporary folder of `path`, to `path`; a folder that stands there goes."""
    if path.is_dir():
        path.rename(folder / _REPLACED)
    (folder / "result").replace(path)


def resolve_output(path: str | Path) -> Path:
    """The path itself, or what the link there names. UserError when that lies in a folder that is not there."""
    path = Path(path)
    if not path.name:
        raise UserError(f"the output must have a name of its own, got {str(path)!r}; name a new file or folder")
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink() or not target.parent.is_dir():
        raise UserError(
            f"the output must not be a link to nowhere, got {str(path)!r}, which names {str(target)!r}; mend the link"
        )
    return target


@contextmanager
def temporary_folder(path: Path, parents: bool = True) -> Iterator[Path]:
    """Yield a new folder beside the output `path`; clear what killed runs left for it, remove the folder at the end.

    parents: whether to make the folders above.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    clear_left(path.parent, path.name)
    mark = None
    while mark is None:  # as long as another run takes it for what a killed one left, before it is locked
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        mark = _hold_mark(folder)
    with mark:
        try:
            yield folder
        finally:
            _remove(folder)


def _hold_mark(folder: Path) -> IO | None:
    """Mark a new folder as ours, by a file that the caller holds while it is open; None when it is gone already."""
    try:
        mark = (folder / _MARK).open("w")
    except FileNotFoundError:
        return None
    if _try_lock(mark) and (folder / _MARK).exists():
        return mark
    mark.close()
    return None


def _remove(folder: Path) -> None:
    """Remove a temporary folder, its mark last: a run that is killed in this leaves what is known as ours."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _MARK:
                os.unlink(entry)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held(path: Path, refusal: UserError, patience: float) -> Iterator[None]:
    """Hold a file, made if need be, that one process at a time may hold; its children hold it too, until they end.

    Raises `refusal` when another holds it for more than `patience` seconds. A file system without locks holds nothing.
    """
    with path.open("a") as handle:
        deadline, pause = time.monotonic() + patience, 0.05
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise refusal
            time.sleep(pause)
            pause = min(2 * pause, 1)
        yield


def _try_lock(handle: IO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
            raise
    return True


@contextmanager
def telling(state: str) -> Iterator[None]:
    """UserError that ends in `state` for what files, memory and other processes do to the inside."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = describe_fault(error)
        if what is None:
            raise
        raise UserError(f"{what}; {state}") from error


def clear_left(parent: Path, name: str | None = None) -> None:
    """Remove the temporary folders that killed runs left in `parent`, for the output `name` or for any.

    An output that was being replaced when its run was killed gets its name back.
    """
    for entry in list(os.scandir(parent)):
        match = _NAME.fullmatch(entry.name)
        if not match or name not in (None, match[1]) or not is_temporary(Path(entry.path)):
            continue
        with suppress(FileNotFoundError):
            with Path(entry, _MARK).open() as mark:
                if _lock(mark):
                    if Path(entry, _REPLACED).exists() and not Path(parent, match[1]).exists():
                        Path(entry, _REPLACED).rename(Path(parent, match[1]))
                    _remove(Path(entry))
            continue
        with suppress(OSError):
            os.rmdir(entry)  # its run was killed before the mark; one that goes on makes another


def is_temporary(path: Path) -> bool:
    """Whether this is a folder of `temporary_folder`; one that its run was killed in making is empty."""
    if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    try:
        names = os.listdir(path)
    except FileNotFoundError:  # its run has just ended
        return True
    return not names or _MARK in names


def _lock(file) -> bool:
    """Whether this process now holds the file; False too where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
