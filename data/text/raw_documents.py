"""Raw text files as documents: read in byte ranges, so that several processes can share one large file.

A document is a run of lines up to a separator line (blank by default), one line, or one field of a JSON line.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from data.files import DataError, parse_text
from data.text.streams import Streamed
from data.unchanged_inputs import Stamp, open_steady, stamp

UNIT_BYTES = 8 << 20  # one unit of work: what a process reads before it writes
_BLANK = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"  # what str.strip removes, as far as it is ASCII
_WIDE_BLANK = b"\xc2\xe1\xe2\xe3"  # first UTF-8 bytes of the rest, such as the ideographic space


class Unit(NamedTuple):
    """A byte range of one file, whose stamp is of the time of cutting. `base`: number of bytes in all files before.

    A packed file is one unit, of what is in it.
    """

    path: Path | Streamed
    start: int
    end: int
    base: int
    stamp: Stamp | None = None


def split_units(files: Sequence[Path | Streamed], stamps: dict[Path | Streamed, Stamp] | None = None) -> list[Unit]:
    """Cut `files` into ranges of at most UNIT_BYTES, in order. stamps: of the files when others cut them."""
    units, base = [], 0
    for path in files:
        now = stamps[path] if stamps else stamp(path)
        size, most = now.size, UNIT_BYTES
        if isinstance(path, Streamed):
            size, most = path.length, UNIT_BYTES if path.sought else max(path.length, 1)
        units += [Unit(path, start, min(start + most, size), base, now) for start in range(0, size, most)]
        base += size
    return units


@dataclass(frozen=True)
class Layout:
    """How documents lie in a file.

    spliter: the line, blanks around it removed, that ends a document; "line" makes each line a document.
    json_field: the key to read where each line is a JSON object, else None.
    encoding: any in which a newline is the single byte 0x0A; ValueError otherwise.
    """

    spliter: str = ""
    json_field: str | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        try:
            name = codecs.lookup(self.encoding).name.removesuffix("-sig")  # a byte order mark is removed anyway
            newline = "\n".encode(name)
        except LookupError:
            newline = b""
        if newline != b"\n":
            raise UserError(
                "--encoding must be an encoding that Python knows and in which a newline is one byte, "
                f"got {self.encoding!r}; convert the files to UTF-8, for example with iconv"
            )
        if self.json_field is not None and self.spliter:
            raise UserError(
                f"--doc_spliter must be left out with --json_field, got {self.spliter!r}; a JSON line is a document"
            )
        if self.spliter != self.spliter.strip():
            raise UserError(
                f"--doc_spliter must not begin or end with white space, got {self.spliter!r}; lines are stripped first"
            )
        object.__setattr__(self, "encoding", name)
        marker = self.spliter.encode(name)
        object.__setattr__(self, "_marker", marker)
        # What a separator can begin with: most lines are told from one by their first byte.
        wide = _WIDE_BLANK if name == "utf-8" else range(0x80, 0x100)
        object.__setattr__(self, "_openings", frozenset((*_BLANK, *wide, *marker[:1])))

    def _is_blank(self, line: bytes) -> bool:
        """Whether nothing of `line` is left when it is decoded and stripped as Python strips strings."""
        return not line.strip(_BLANK) or not line.decode(self.encoding, errors="replace").strip()

    def _ends_document(self, line: bytes) -> bool:
        if not self.spliter:
            return self._is_blank(line)
        return self._marker in line and line.decode(self.encoding, errors="replace").strip() == self.spliter

    def raw_documents(self, unit: Unit) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the file, bytes) of every document of `unit`, in order.

        A document belongs to the unit in which the separator before it, or the line that it is, begins. So every
        document of a file belongs to exactly one unit, and the last one is read beyond the end of its unit. DataError
        when the file changes.
        """
        with open_steady(unit.path, unit.stamp) as file:
            offset = unit.start
            if offset:  # the line that reaches over the boundary is the previous unit's
                file.seek(offset - 1)
                skipped = file.readline(unit.end - offset + 1)
                if not skipped.endswith(b"\n"):
                    return
                offset += len(skipped) - 1
            if self.json_field is not None or self.spliter == "line":
                for line in file:
                    if offset >= unit.end:
                        return
                    if line[0] not in self._openings or not self._is_blank(line):
                        yield offset, line
                    offset += len(line)
                return
            begin, lines, owned = offset, [], unit.start == 0
            for line in file:
                if line[0] in self._openings and self._ends_document(line):
                    if lines:
                        yield begin, b"".join(lines)
                    if offset >= unit.end:
                        return
                    begin, lines, owned = offset + len(line), [], True
                elif owned:
                    lines.append(line)
                elif offset >= unit.end:
                    return
                offset += len(line)
            if lines:
                yield begin, b"".join(lines)

    def text(self, raw: bytes, path: Path, offset: int) -> str:
        """Return the text of a raw document that begins at byte `offset` of `path`.

        "\\r\\n" and "\\r" become "\\n", as in Python's text files. A document of several lines keeps its newlines, a
        line loses its own. DataError with file:line on bytes that cannot be decoded and on unusable JSON.
        """
        try:
            if self.json_field is not None:
                line = raw if self.encoding == "utf-8" else raw.decode(self.encoding).encode()
                return parse_text(line, self.json_field, "")
            text = raw.decode(self.encoding)
            if self.encoding != "utf-8":
                text.encode()  # some encodings can write half of a character
        except UnicodeError as error:
            where = f"{path}:{_line_number(path, offset + getattr(error, 'start', 0))}"
            message = f"{where}: must be {self.encoding}, got {error}; check --encoding or use --on_error skip"
            raise DataError(message) from None
        except DataError as error:
            raise DataError(f"{path}:{_line_number(path, offset)}{error}") from None
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if offset == 0:
            text = text.removeprefix("\ufeff")
        return text.removesuffix("\n") if self.spliter == "line" else text


def _line_number(path: Path, offset: int) -> int:
    """Count lines up to byte `offset`; read again on an error only, since a byte range does not know its lines."""
    with path.open("rb") as file:
        number = 1
        while offset > 0:
            chunk = file.read(min(offset, 1 << 20))
            if not chunk:
                break
            number += chunk.count(b"\n")
            offset -= len(chunk)
    return number
