"""JSON lines as every data script reads them: which files, which text.

Lines end at b"\\n" and nowhere else: str.splitlines and text mode also split at U+2028, U+0085 or a lone carriage
return, all of which occur inside real documents.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError

_BOM = b"\xef\xbb\xbf"
_JSON = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:(\[)\s*(?:\{\s*"|"[^"\n]*"\s*,\s*")|(\{)\s*"[^"\n]*"\s*:\s*["\d\[{tfn-])')
_UNPACK, _CONVERT = "unpack it", "convert it"
_FOREIGN = {  # what a file begins with -> what it is, and what to do
    b"\x1f\x8b": ("packed by gzip", _UNPACK),
    b"BZh91AY&SY": ("packed by bzip2", _UNPACK),
    b"\xfd7zXZ\0": ("packed by xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", _UNPACK),
    b"PK\3\4": ("a zip archive or an Office file", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a\7": ("a RAR archive", _UNPACK),
    b"%PDF-": ("a PDF", _CONVERT),
    b"\xd0\xcf\x11\xe0": ("an Office file", _CONVERT),
    b"PAR1\x15": ("a Parquet file", "give it to data/create_data.py under a name ending in .parquet"),
    b"ARROW1\0": ("an Arrow file", _CONVERT),
    b"\xff\xfe": ("UTF-16", "convert it with iconv"),
    b"\xfe\xff": ("UTF-16", "convert it with iconv"),
}


class DataError(UserError):
    """Data that cannot be used; the message starts with file:line."""


def input_files(
    path: str | Path, flag: str, suffix: str = ".jsonl", name_of: Callable[[str], str] = str
) -> list[Path]:
    """Return the regular files that `path` stands for.

    A file stands for itself, whatever its name. A folder stands for every file below it whose name ends in `suffix`
    ("" for all), sorted by the parts of their paths, so that the order does not depend on the file system. Folders
    behind symbolic links are not entered. What is left out is printed. ValueError naming `flag` when there is no such
    file. name_of: the name that counts, of a file's name.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"{flag} must name an existing file or folder, got {str(path)!r}; check the path")
    matching, others = [], {f"does not end in {suffix}": [], "a link to a folder": [], "no regular file": []}
    other, linked, irregular = others.values()
    for folder, folders, names in os.walk(root, onerror=_refuse):  # os.walk leaves unreadable folders out in silence
        linked += [path for name in folders if (path := Path(folder, name)).is_symlink()]
        for file in (Path(folder, name) for name in names):
            if not file.is_file():
                irregular.append(file)
            elif name_of(file.name).endswith(suffix):
                matching.append(file)
            elif not file.name.startswith("."):
                other.append(file)
    files = sorted(matching, key=lambda file: file.parts)
    if not files:
        what = f"a file ending in {suffix!r}" if suffix else "a file"
        raise UserError(f"{flag} must hold at least {what}, got the folder {str(path)!r}; check the path")
    for reason, left_out in others.items():
        say_left_out(left_out, reason)
    _say_repeated(files)
    return files


def say_left_out(files: list[Path], reason: str) -> None:
    """Print which files are not read, and why."""
    if files:
        more = f" and {len(files) - 5:,} more" if len(files) > 5 else ""
        print(f"left out: {', '.join(map(str, sorted(files)[:5]))}{more} ({reason})", file=sys.stderr)


def _say_repeated(files: list[Path]) -> None:
    """Print which of the files are one and the same, by links."""
    seen = {}
    for file in files:
        status = file.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), file)
        if first is not file:
            print(f"read twice: {file}, which is the same file as {first}", file=sys.stderr)


def _refuse(error: OSError) -> None:
    raise error


def refuse_foreign(files: list[Path], flag: str) -> None:
    """UserError naming `flag` and the first file that is no UTF-8 text by its first bytes, and what it is."""
    for file in files:
        with file.open("rb") as handle:
            head = handle.read(512)
        for opening, (kind, cure) in _FOREIGN.items():
            if head.startswith(opening):
                raise UserError(f"{flag} must name files of UTF-8 text, got {str(file)!r}, {kind}; {cure}")
        if head[257:262] == b"ustar":
            raise UserError(f"{flag} must name files of UTF-8 text, got {str(file)!r}, a tar archive; unpack it")
        if 4 * head.count(0) > len(head):
            raise UserError(
                f"{flag} must name files of UTF-8 text, got {str(file)!r}, in which {head.count(0)} of the first "
                f"{len(head)} bytes are zero; convert UTF-16 with iconv, and leave other binary files out"
            )


def first_objects(file: Path, count: int = 3, encoding: str = "utf-8") -> list[dict] | None:
    """The objects that the first lines of a file hold where it is JSON lines, else None."""
    objects = []
    with file.open("rb") as handle:
        while len(objects) < count and (line := handle.readline(1 << 22)):
            try:
                text = line.decode(encoding).removeprefix("\ufeff").strip()
                if text:
                    objects.append(json.loads(text))
            except (ValueError, RecursionError):
                return None
            if objects and not isinstance(objects[-1], dict):
                return None
    return objects or None


def refuse_json(files: list[Path], flag: str, cure: str, encoding: str = "utf-8") -> None:
    """UserError naming `flag`, the first file that holds JSON in place of text, and the cure."""
    for file in files:
        if objects := first_objects(file, encoding=encoding):
            kind = f"JSON lines with the keys {', '.join(objects[0])}; {cure}"
        else:
            with file.open("rb") as handle:
                match = _JSON.match(handle.read(512))
            if not match:
                continue
            kind = f"a JSON {'array' if match[1] else 'object'}; convert it to JSON lines or text"
        raise UserError(f"{flag} must name files of text, got {str(file)!r}, {kind}")


def parse_json(line: bytes, where: str) -> Any:
    """The value of one JSON line. DataError starting with `where` ("file:line") for what is none."""
    try:
        return json.loads(line.removeprefix(_BOM).decode())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: must be UTF-8, got {error}; convert the file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: must be one JSON object, got {line[:60]!r} ({error}); mend the line") from None


def parse_text(line: bytes, key: str, where: str, default: str | None = None) -> str:
    """Return the text under `key` of one JSON line. DataError starting with `where` ("file:line") when there is none.

    default: what an absent key stands for, if anything. A byte order mark before the object is skipped. A lone
    surrogate escape is an error: no UTF-8 can hold it.
    """
    record = parse_json(line, where)
    if isinstance(record, dict) and key not in record and default is not None:
        return default
    if not isinstance(record, dict) or key not in record:
        got = f"the keys {sorted(record)[:8]}" if isinstance(record, dict) else f"a {type(record).__name__}"
        raise DataError(f"{where}: must be a JSON object with the key {key!r}, got {got}; name the right key")
    if line.count(f'"{key}"'.encode()) > 1 and _repeats(line, key):
        raise DataError(f"{where}: must have the key {key!r} once, got it again in one object; mend the line")
    text = record[key]
    if not isinstance(text, str):
        raise DataError(f"{where}: the value of {key!r} must be a string, got {type(text).__name__}; mend the line")
    if b"\\u" in line:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: must be valid Unicode, got {error}; mend the line") from None
    return text


def _repeats(line: bytes, key: str) -> bool:
    """Whether the outermost object of a line, which is the last to be closed, has a key twice."""
    pairs = []

    def keep(members):
        nonlocal pairs
        pairs = members

    json.loads(line.removeprefix(_BOM), object_pairs_hook=keep)
    return sum(name == key for name, _ in pairs) > 1
