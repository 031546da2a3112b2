"""Input files that somebody may change while they are read: told, so that no text is lost, repeated or mixed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data.files import DataError


class Stamp(NamedTuple):
    """What changes when a file does."""

    size: int
    modified: int  # nanoseconds


def stamp(file: Path | BinaryIO) -> Stamp:
    """Of a path, or of an open file, which may have lost its name since; what is packed or elsewhere tells its own."""
    if hasattr(file, "stamp"):
        return file.stamp()
    status = os.stat(file) if isinstance(file, Path) else os.fstat(file.fileno())
    return Stamp(status.st_size, status.st_mtime_ns)


@contextmanager
def open_steady(path: Path, before: Stamp | None = None) -> Iterator[BinaryIO]:
    """Open a file to read bytes. DataError when it is not as `before`, or at the end not as at the beginning."""
    with path.open("rb") as handle:
        now = partial(stamp, handle if isinstance(path, Path) else path)
        opened = now()
        refuse_change(path, before or opened, opened)
        try:
            yield handle
        except DataError:  # of a line that was cut in two, perhaps
            refuse_change(path, opened, now())
            raise
        refuse_change(path, opened, now())


def refuse_change(path: Path, before: Stamp, now: Stamp) -> None:
    """DataError naming the file when the two differ."""
    if now != before:
        how = f"{before.size:,} bytes and now {now.size:,}" if now.size != before.size else "other content now"
        raise DataError(
            f"{path}: must stay as it is while it is read, got {how}; run the same command again when nothing writes "
            "to it"
        )
