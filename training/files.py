"""Files that are whole or absent whatever kills their writer, and that can be told from damaged ones later."""

import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from common.errors import describe_fault

PARTIAL = "incomplete-"  # how the name of anything half-written begins
CHECKSUMS = "complete.json"  # sizes and checksums of all other files of a folder, written last
_CHUNK = 1 << 20


def write_whole(path: Path, text: str) -> None:
    """Write a small UTF-8 file under another name in its folder, then rename it; several processes may.

    What UTF-8 cannot hold, as in names of files, becomes an escape of JSON.
    """
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    partial.write_text(text, "utf-8", "backslashreplace", newline="")
    os.replace(partial, path)


def why_not_written(folder: Path) -> str | None:
    """What the system says to a file of some size in a folder, None if it can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{folder}: {describe_fault(error)}"
    return None


def read_json(path: Path, *keys: str) -> dict:
    """A JSON object that has these keys; ValueError for anything else, OSError where there is no such file."""
    try:
        values = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(values, dict) or not values.keys() >= {*keys}:
        raise ValueError("no JSON object with " + ", ".join(keys))
    return values


def to_disk(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(folder: Path) -> None:
    """Write CHECKSUMS and wait until the disk has all files of a folder; checksums are computed while it writes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUMS]
    with ThreadPoolExecutor(1) as pool:
        checksums = pool.map(_checksum, files)
        for path in files:
            to_disk(path)
        sums = {
            str(path.relative_to(folder)): [path.stat().st_size, checksum]
            for path, checksum in zip(files, checksums, strict=True)
        }
    path = folder / CHECKSUMS
    path.write_text(json.dumps({"xxh3_64": sums, "of_these": _of_sums(sums)}, indent=1) + "\n", encoding="utf-8")
    to_disk(path)


def broken_seal(folder: Path) -> str | None:
    """How the files of a folder that has CHECKSUMS differ from what was written, None if they do not."""
    try:
        record = read_json(folder / CHECKSUMS, "xxh3_64", "of_these")
        sums = {name: (int(size), str(checksum)) for name, (size, checksum) in record["xxh3_64"].items()}
        whole = record["of_these"] == _of_sums(record["xxh3_64"])
    except (OSError, ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        return f"has a damaged {CHECKSUMS}"
    try:
        return next(_differences(folder, sums), None)
    except OSError as error:
        return f"has a file that cannot be read ({error})"


def _of_sums(sums: dict) -> str:
    """Of sizes and checksums themselves."""
    return xxhash.xxh3_64(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def _differences(folder: Path, sums: dict[str, tuple[int, str]]) -> Iterator[str]:
    missing = [name for name in sums if not (folder / name).is_file()]
    if missing:
        yield f"lacks {', '.join(missing)}"
    for name, (size, _) in sums.items():
        if (actual := (folder / name).stat().st_size) != size:
            yield f"has a damaged {name} ({actual:,} bytes of {size:,})"
    # Several files at once: a run waits for this before it goes on.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for (name, (_, checksum)), actual in zip(
            sums.items(), pool.map(_checksum, map(folder.joinpath, sums)), strict=True
        ):
            if actual != checksum:
                yield f"has a damaged {name} (its bytes are not those that were written)"


def _checksum(path: Path) -> str:
    hasher, buffer = xxhash.xxh3_64(), memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.hexdigest()
