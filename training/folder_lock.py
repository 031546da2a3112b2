"""One process at a time trains in a folder: a lock file, which says who holds it.

The lock is the kernel's, so that it ends with its process however that ends. Forked children let go of it at once:
loader workers that outlive a killed run hold nothing up. Where a file system has no locks, what the file says counts.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from common.errors import ArgumentError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_LOOKS, _LOOK_SECONDS = 3, 0.05  # holder() holds a lock too, for a moment
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_handles: set[int] = set()  # of the locks that this process holds


def _let_go() -> None:
    for handle in _handles:
        os.close(handle)
    _handles.clear()


os.register_at_fork(after_in_child=_let_go)


def process_start(pid: int) -> str | None:
    """When a process of this machine began, which tells a reused id from the old one; None once it has ended."""
    if not Path("/proc/self/stat").exists():  # not Linux: the id alone
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else fields[18]


def machine() -> str:
    """Where process ids mean the same: the host's name, and in a container its table of processes."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


@contextlib.contextmanager
def locked(folder: Path, flag: str) -> Iterator[None]:
    """Hold an existing folder; the lock file is gone afterwards.

    ArgumentError, which names `flag` and the holder, when it is held.
    """
    path = folder / LOCK
    handle = _take(path, flag)
    _handles.add(handle)
    try:
        record = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        record |= {"machine": machine(), "process_start": process_start(os.getpid())}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(record).encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):  # removed with its folder, or not removable any more
            if _is_file_of(handle, path):
                path.unlink()
        _handles.discard(handle)
        os.close(handle)


def holder(folder: Path) -> str | None:
    """The machine of another process that holds a folder, None if there is none."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(handle, folder / LOCK, "")
        return None
    except ArgumentError:
        return _read(handle).get("host", "unknown")
    finally:
        os.close(handle)


def _take(path: Path, flag: str) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock_patiently(handle, path, flag)
            if _is_file_of(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the holder before removed the file meanwhile


def _lock_patiently(handle: int, path: Path, flag: str) -> None:
    for _ in range(_LOOKS):
        with contextlib.suppress(ArgumentError):
            return _lock(handle, path, flag)
        time.sleep(_LOOK_SECONDS)
    return _lock(handle, path, flag)


def _lock(handle: int, path: Path, flag: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, *_WITHOUT_LOCKS):
            raise
        locks = error.errno not in _WITHOUT_LOCKS
    holder = _read(handle)
    here = holder.get("machine") == machine()
    if locks or (here and process_start(holder.get("pid")) == holder.get("process_start") is not None):
        raise ArgumentError(
            f"{flag} must be free, got {path.parent}, in which process {holder.get('pid', 'unknown')} on "
            f"{holder.get('host', 'an unknown machine')} has trained since {holder.get('since', 'just now')}; "
            f"wait for it to end or name another folder"
        )
    if holder and not here:
        logger.warning(
            "%s is on a file system without locks: see to it that process %s on %s, there since %s, has ended",
            path.parent,
            holder.get("pid"),
            holder.get("host"),
            holder.get("since"),
        )


def _read(handle: int) -> dict:
    """What the holder has written; {} where it is writing it just now."""
    try:
        holder = json.loads(os.pread(handle, 1 << 16, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_file_of(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
