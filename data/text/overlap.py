"""Find documents that repeat texts of an evaluation set, so that they can be kept out of pretraining.

Compared are letters and digits only. A document repeats a text when both are equal or share a run of RUN characters.
Any run of RUN characters holds a whole block of BLOCK characters that starts at a multiple of BLOCK, so a document
is looked up by its blocks, one hash for BLOCK characters, and only hits are compared by all their runs. Equality is
that of 64-bit hashes: a false hit has a chance of about (runs of the texts) / 2**64 per run looked up.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.files import DataError

RUN = 30
BLOCK = 15  # 2 * BLOCK - 1 <= RUN
_CHUNK = 1 << 16  # windows copied at a time
_ARRAYS = ("kept", "table", "blocks", "runs", "run_files", "lines", "line_runs", "first_lines")


class Overlap:
    """The texts of evaluation files, indexed.

    A line is a text, and so is each tab-separated field of it, or each string of it where it is JSON; a file that is
    one JSON document as a whole has one line per string.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.kept, self.table, self.blocks, self.runs, self.run_files = (arrays[name] for name in _ARRAYS[:5])
        self._shift = np.uint64(64 - (len(self.table).bit_length() - 1))

    @classmethod
    def build(cls, files: list[Path]) -> "Overlap":
        """Read and index `files` (UTF-8). DataError with file:line on bytes that are not UTF-8."""
        kept = _letters_and_digits()
        texts, lines, first_lines = [], [], [0]
        for file in files:
            number = first_lines[-1]
            for strings in _line_texts(file):
                texts += strings
                lines += [number] * len(strings)
                number += 1
            first_lines.append(number)
        clean, ends = _clean(texts, kept)
        everything = np.ones(len(texts), bool)
        hashes, owners = _comparable(clean, ends, everything)
        order = np.argsort(hashes, kind="stable")
        hashes, lines = hashes[order], np.array(lines, np.int64)[owners[order]]
        files_of = np.searchsorted(first_lines, lines, side="right") - 1
        new = np.append(True, (hashes[1:] != hashes[:-1]) | (files_of[1:] != files_of[:-1]))[: len(hashes)]
        blocks = np.unique(_windows_within(clean, np.diff(ends, prepend=0), BLOCK, everything)[0])
        bits = min(28, max(10, (8 * len(blocks)).bit_length()))  # a byte each; most blocks need one look only
        table = np.zeros(1 << bits, bool)
        table[blocks >> np.uint64(64 - bits)] = True
        values = (kept, table, blocks, hashes[new], files_of[new], lines, np.cumsum(new) - 1, np.array(first_lines))
        return cls(dict(zip(_ARRAYS, values, strict=True)))

    @property
    def line_counts(self) -> np.ndarray:
        """Number of lines of each file, int64 [files]."""
        return np.diff(self.arrays["first_lines"])

    def lines_found(self, runs: np.ndarray) -> np.ndarray:
        """Return of each file how many lines hold one of `runs`, int64 [files]; `runs` as `find` gives them."""
        chosen = np.zeros(len(self.runs), bool)
        chosen[runs] = True
        lines = np.unique(self.arrays["lines"][chosen[self.arrays["line_runs"]]])
        return np.diff(np.searchsorted(lines, self.arrays["first_lines"]))

    def save(self, folder: Path) -> None:
        """Write the index as .npy files, for `load` in other processes."""
        folder.mkdir()
        for name, array in self.arrays.items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> "Overlap":
        """Map the index that `save` wrote into memory; processes on one machine share the pages."""
        return cls({name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in _ARRAYS})

    def find(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return what repeats what: indices of texts and of runs, two int64 arrays [N] of distinct pairs.

        A run stands once for each file that holds it; `run_files[runs]` are the numbers of these files.
        """
        clean, ends = _clean(texts, self.kept)
        hashes = _hash(clean[: len(clean) // BLOCK * BLOCK].reshape(-1, BLOCK))
        hits = np.flatnonzero(self.table[hashes >> self._shift])
        hits = hits[_locate(self.blocks, hashes[hits])[1]]
        suspect = np.zeros(len(texts), bool)
        suspect[np.searchsorted(ends, hits * BLOCK, side="right")] = True
        hashes, owners = _comparable(clean, ends, suspect)
        first, present = _locate(self.runs, hashes)
        # A document may hold a run many times: distinct pairs before they are multiplied by the files.
        size = max(len(texts), 1)
        first, owners = np.divmod(np.unique(first[present] * size + owners[present]), size)
        counts = np.searchsorted(self.runs, self.runs[first], side="right") - first
        begins = np.repeat(first - np.cumsum(counts) + counts, counts)
        return np.repeat(owners, counts), begins + np.arange(len(begins))


@functools.cache
def _letters_and_digits() -> np.ndarray:
    """Return for every code point whether it is compared, bool [0x110000]."""
    return np.fromiter(map(str.isalnum, map(chr, range(0x110000))), bool, 0x110000)


def _line_texts(file: Path) -> Iterator[list[str]]:
    """Yield the texts of each line of an evaluation file."""
    raw = file.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}:{line}: must be UTF-8, got {error}; convert the file") from None
    if content.lstrip().startswith(("{", "[")):
        try:
            strings = list(_strings(json.loads(content)))
            yield from ([string] for string in strings)
            return
        except (ValueError, RecursionError):  # more than one JSON document, so lines of JSON or lines of text
            pass
    for line in content.removesuffix("\n").split("\n"):
        yield _line_strings(line)


def _line_strings(line: str) -> list[str]:
    if line.startswith(("{", "[", '"')):
        try:
            return list(_strings(json.loads(line)))
        except (ValueError, RecursionError):  # text that begins with a bracket or a quotation mark
            pass
    return [line, *line.split("\t")] if "\t" in line else [line]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode("utf-8", "replace").decode()  # a lone surrogate escape becomes "?"
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _clean(texts: list[str], kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the letters and digits of all texts, uint32 [C], and where each text ends among them, int64 [texts]."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
    keep = kept[codes]
    counts = np.append(0, np.cumsum(keep))
    return codes[keep], counts[np.cumsum([len(text) for text in texts], dtype=np.int64)]


def _comparable(clean: np.ndarray, ends: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hash what is compared: all runs within each wanted text, and every text shorter than a run as a whole.

    Returns the hashes, uint64 [N], and the indices of the texts, int64 [N].
    """
    lengths = np.diff(ends, prepend=0)
    runs, owners = _windows_within(clean, lengths, RUN, wanted)
    short = np.flatnonzero((lengths < RUN) & (lengths > 0))
    columns = np.arange(RUN - 1)
    inside = columns < lengths[short, None]
    padded = np.where(inside, clean[np.where(inside, (ends - lengths)[short, None] + columns, 0)], 0)
    return np.append(runs, _hash(padded)), np.append(owners, short)


def _windows_within(
    clean: np.ndarray, lengths: np.ndarray, width: int, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Hash every window of `width` characters that lies within one wanted text; return the hashes and the texts."""
    if len(clean) < width:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.flatnonzero((owners[: len(owners) - width + 1] == owners[width - 1 :]) & wanted[owners[: 1 - width]])
    windows = np.lib.stride_tricks.sliding_window_view(clean, width)
    parts = [_hash(windows[starts[at : at + _CHUNK]]) for at in range(0, len(starts), _CHUNK)]
    return np.concatenate([np.zeros(0, np.uint64), *parts]), owners[starts]


def _hash(windows: np.ndarray) -> np.ndarray:
    """Hash each row of `windows`, uint32 [N, width], to uint64 [N]: a polynomial modulo 2**64, its high bits mixed."""
    hashes = np.zeros(len(windows), np.uint64)
    for column in range(windows.shape[1]):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += windows[:, column]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    return hashes


def _locate(table: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each value would stand in the sorted table, int64 [N], and whether it is there, bool [N]."""
    indices = np.searchsorted(table, values)
    if not len(table):
        return indices, np.zeros(len(values), bool)
    return indices, table[np.minimum(indices, len(table) - 1)] == values
