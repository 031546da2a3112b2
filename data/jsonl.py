"""JSON lines as every data script reads them: which files, which text.

Lines end at b"\\n" and nowhere else: str.splitlines and text mode also split at U+2028, U+0085 or a lone carriage
return, all of which occur inside real documents.
"""

import json
import os
from pathlib import Path

from common.errors import UserError

_BOM = b"\xef\xbb\xbf"


class DataError(UserError):
    """Data that cannot be used; the message starts with file:line."""


def input_files(path: str | Path, flag: str, suffix: str = ".jsonl") -> list[Path]:
    """Return the regular files that `path` stands for.

    A file stands for itself, whatever its name. A folder stands for every file below it whose name ends in `suffix`
    ("" for all), sorted by the parts of their paths, so that the order does not depend on the file system. Folders
    behind symbolic links are not entered. ValueError naming `flag` when there is no such file.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"{flag} must name an existing file or folder, got {str(path)!r}; check the path")
    walk = os.walk(root, onerror=_refuse)  # os.walk leaves unreadable folders out in silence
    found = [Path(folder, name) for folder, _, names in walk for name in names if name.endswith(suffix)]
    files = sorted((file for file in found if file.is_file()), key=lambda file: file.parts)
    if not files:
        what = f"a file ending in {suffix!r}" if suffix else "a file"
        raise UserError(f"{flag} must hold at least {what}, got the folder {str(path)!r}; check the path")
    return files


def _refuse(error: OSError) -> None:
    raise error


def parse_text(line: bytes, key: str, where: str, default: str | None = None) -> str:
    """Return the text under `key` of one JSON line. DataError starting with `where` ("file:line") when there is none.

    default: what an absent key stands for, if anything. A byte order mark before the object is skipped. A lone
    surrogate escape is an error: no UTF-8 can hold it.
    """
    try:
        record = json.loads(line.removeprefix(_BOM).decode())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: must be UTF-8, got {error}; convert the file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: must be one JSON object, got {line[:60]!r} ({error}); mend the line") from None
    if isinstance(record, dict) and key not in record and default is not None:
        return default
    if not isinstance(record, dict) or key not in record:
        got = f"the keys {sorted(record)[:8]}" if isinstance(record, dict) else f"a {type(record).__name__}"
        raise DataError(f"{where}: must be a JSON object with the key {key!r}, got {got}; name the right key")
    text = record[key]
    if not isinstance(text, str):
        raise DataError(f"{where}: the value of {key!r} must be a string, got {type(text).__name__}; mend the line")
    if b"\\u" in line:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: must be valid Unicode, got {error}; mend the line") from None
    return text
