"""Where documents come from: lines of files, or a column of a table; each cut into units of work.

A unit is a run of whole documents that one process turns into one shard. Sources number documents over all input, so
that a unit's shard does not depend on who makes it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from data.files import DataError, parse_text
from data.unchanged_inputs import Stamp, open_steady, refuse_change, stamp

UNIT_BYTES = 1 << 20  # of a small input; a unit is the least that a killed run repeats, and what two workers share
_MOST_UNIT_BYTES = 16 << 20  # of a large one; a worker holds the tokens of one unit
_FEW_UNITS = 256  # in between, so many units


class Span(NamedTuple):
    """Whole lines of one file: the bytes start:end, of which the first is the beginning of line `line` (from 1).

    Of a table, its rows start:end.
    """

    path: Path
    start: int
    end: int
    line: int


class Unit(NamedTuple):
    number: int
    document: int  # number of its first document over all input
    spans: tuple[Span, ...]
    size: int  # bytes


class Source(Protocol):
    """Documents in units. DataError when a file is not as it was when its units were cut."""

    def scan(self) -> tuple[list[dict], list[Unit]]:
        """Read all input once: (name, size and SHA-256 of each part; the units)."""

    def raw(self, unit: Unit) -> Iterator[tuple[int, bytes | str, str]]:
        """Documents that are not blank: (number over all input, content, where it stands)."""

    def text(self, content: bytes | str, where: str) -> str:
        """The text of such a content. DataError starting with `where` when there is none."""


def _target(total: int) -> int:
    """Bytes of a unit of this much input."""
    return max(UNIT_BYTES, min(total // _FEW_UNITS, _MOST_UNIT_BYTES))


class LineSource:
    """One document a line; blank lines are no documents but are counted.

    Args:
        files: read in this order.
        root: the file or folder that the user named; the manifest names files below it.
        key: of the text where each line is a JSON object, else None: the line itself, without its end, is the text.
        stamps: of the files when they were scanned, by an earlier source.
    """

    def __init__(self, files: list[Path], root: Path, key: str | None, stamps: dict[Path, Stamp] | None = None):
        self.files, self.root, self.key = files, root, key
        self.stamps = stamps or {}

    def scan(self) -> tuple[list[dict], list[Unit]]:
        target = _target(sum(file.stat().st_size for file in self.files))
        inputs, units, spans = [], [], []
        filled = documents = first_document = 0

        def close(path, start, end, line):
            nonlocal filled, spans, first_document
            spans.append(Span(path, start, end, line))
            units.append(Unit(len(units), first_document, tuple(spans), _size(spans)))
            filled, spans, first_document = 0, [], documents

        for path in self.files:
            digest, position, start, line, first_line = hashlib.sha256(), 0, 0, 1, 1
            with open_steady(path) as handle:
                self.stamps[path] = stamp(handle)
                while block := handle.read(1 << 20):
                    digest.update(block)
                    done = 0
                    while (cut := block.find(b"\n", done + max(target - filled - 1, 0)) + 1) > 0:
                        lines = block.count(b"\n", done, cut)
                        documents, line = documents + lines, line + lines
                        close(path, start, position + cut, first_line)
                        start, first_line, done = position + cut, line, cut
                    lines = block.count(b"\n", done)
                    documents, line, filled = documents + lines, line + lines, filled + len(block) - done
                    position += len(block)
                    unended = not block.endswith(b"\n")
            if position > start:
                documents += unended
                spans.append(Span(path, start, position, first_line))
            inside = path != self.root and path.is_relative_to(self.root)
            name = path.relative_to(self.root).as_posix() if inside else path.name
            inputs.append({"file": name, "bytes": position, "sha256": digest.hexdigest()})
        if spans:
            units.append(Unit(len(units), first_document, tuple(spans), _size(spans)))
        return inputs, units

    def raw(self, unit: Unit) -> Iterator[tuple[int, bytes, str]]:
        number = unit.document
        for span in unit.spans:
            with open_steady(span.path, self.stamps.get(span.path)) as handle:
                handle.seek(span.start)
                remaining, line_number = span.end - span.start, span.line
                while remaining > 0:
                    line = handle.readline(remaining)
                    if not line:  # what follows tells that the file was cut short
                        break
                    remaining -= len(line)
                    if not line.isspace():
                        yield number, line, f"{span.path}:{line_number}"
                    number, line_number = number + 1, line_number + 1

    def text(self, content: bytes, where: str) -> str:
        return parse_line(content, where) if self.key is None else parse_text(content, self.key, where)


def _size(spans: list[Span]) -> int:
    return sum(span.end - span.start for span in spans)


def parse_line(line: bytes, where: str) -> str:
    """The text of a line of UTF-8 without its end and a byte order mark. DataError starting with `where`."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: must be UTF-8, got {error}; convert the file") from None
    return text.removesuffix("\n").removesuffix("\r").removeprefix("\ufeff")


class TableSource:
    """One document a row of a column of strings; missing and blank ones are no documents but are counted.

    Args:
        column: string or large_string, which may lie in a memory map.
        name: what the manifest calls it.
        files: those that the column is mapped from.
    """

    def __init__(self, column: pa.ChunkedArray, name: str, files: Iterable[Path] = ()):
        self.column, self.name = column, name
        self._stamps = {file: stamp(file) for file in files}

    def scan(self) -> tuple[list[dict], list[Unit]]:
        digest, sizes = hashlib.sha256(), []
        for chunk in self.column.chunks:
            lengths, content = _string_bytes(chunk)
            digest.update(lengths.astype(np.int64))
            digest.update(content)
            sizes.append(lengths)
        ends = np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes]))
        total = int(ends[-1]) if len(ends) else 0
        target = _target(total)
        cuts = np.searchsorted(ends, np.arange(target, max(total, target), target)) + 1
        edges = np.unique([0, *cuts, len(ends)]).tolist()
        sizes = np.diff(np.append(0, ends)[edges]).tolist()
        path = Path(self.name)
        units = [
            Unit(number, start, (Span(path, start, end, start),), size)
            for number, ((start, end), size) in enumerate(zip(pairwise(edges), sizes, strict=True))
        ]
        return [{"file": self.name, "bytes": total, "sha256": digest.hexdigest()}], units

    def raw(self, unit: Unit) -> Iterator[tuple[int, str, str]]:
        (span,) = unit.spans
        for file, before in self._stamps.items():  # to read on in one that was cut short would end the process
            refuse_change(file, before, stamp(file))
        for number, text in enumerate(self.column.slice(span.start, span.end - span.start).to_pylist(), span.start):
            if text and not text.isspace():
                yield number, text, f"{self.name}:{number}"

    def text(self, content: str, where: str) -> str:
        return content


def _string_bytes(chunk: pa.Array) -> tuple[np.ndarray, memoryview]:
    """Bytes of each string of a chunk (int64), and all of them one after the other."""
    _, offsets, content = chunk.buffers()
    kind = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
    edges = np.frombuffer(offsets, kind)[chunk.offset : chunk.offset + len(chunk) + 1]
    if content is None or not len(edges):
        return np.zeros(len(chunk), np.int64), memoryview(b"")
    return np.diff(edges).astype(np.int64), memoryview(content)[edges[0] : edges[-1]]


class Part:
    """The documents of a source whose number `keep` chooses, in the source's own units."""

    def __init__(self, source: Source, keep: Callable[[int], bool]):
        self._source, self._keep = source, keep
        self.scan, self.text = source.scan, source.text

    def raw(self, unit: Unit) -> Iterator[tuple[int, bytes | str, str]]:
        return (item for item in self._source.raw(unit) if self._keep(item[0]))


class CleanedLines:
    """The documents of a source without some of their lines, and those left without white space at their ends.

    Source: filter_out and clean of ELECTRADataProcessor (richarddwang/electra_pytorch), which drops lines of less than
    80 characters of Wikipedia and every "()", what a link in brackets leaves behind, of all text.

    Args:
        least: characters of a line that stays, white space at its ends included.
        brackets: whether "()" stays.
    """

    def __init__(self, source: Source, least: int, brackets: bool):
        self._source, self._least, self._brackets = source, least, brackets
        self.scan, self.raw = source.scan, source.raw

    def text(self, content: bytes | str, where: str) -> str:
        lines = [line.strip() for line in self._source.text(content, where).split("\n") if len(line) >= self._least]
        text = "\n".join(lines)
        return text if self._brackets else text.replace("()", "")


def held_out(number: int, share: float) -> bool:
    """Whether the document of this number is among the `share` that is held out; a fixed random choice."""
    return int.from_bytes(hashlib.blake2b(str(number).encode(), digest_size=7).digest()) < share * 2**56
