"""From JSON lines to the shards of a corpus, in units of work that any number of processes can share and resume.

A unit is a run of whole lines of the input. It becomes one shard, whose bytes depend on the unit and the settings
alone; a shard that exists is finished, because it appears by a rename together with its record.
"""

import errno
import fcntl
import gc
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from data.blocks import Blocks, join_rows, make_blocks
from data.corpus import (
    FORMAT,
    MANIFEST,
    CorpusError,
    dataset_info,
    id_dtype,
    read_manifest,
    read_record,
    shard_name,
    write_manifest,
    write_shard,
)
from data.jsonl import DataError, parse_text
from data.reference import REFERENCE, ReferenceWriter
from data.segmentation import Segmenter
from data.tokenization import FastTokenizer

UNIT_BYTES = 1 << 20  # of a small input; a unit is the least that a killed run repeats, and what two workers share
_MOST_UNIT_BYTES = 16 << 20  # of a large one; a worker holds the tokens of one unit
_FEW_UNITS = 256  # in between, so many units
_BATCH = 1 << 16  # characters tokenised at once; larger arrays leave the processor's cache
_LOCK = ".lock"
_LOCK_SECONDS = 10.0


class Span(NamedTuple):
    """Whole lines of one file: the bytes start:end, of which the first is the beginning of line `line` (from 1)."""

    path: Path
    start: int
    end: int
    line: int


class Unit(NamedTuple):
    number: int
    document: int  # number of its first line over all files
    spans: tuple[Span, ...]

    @property
    def size(self) -> int:
        return sum(span.end - span.start for span in self.spans)


def scan(files: list[Path], root: Path) -> tuple[list[dict], list[Unit]]:
    """Read all inputs once: (name below `root`, bytes and SHA-256 of each file; the units of work)."""
    total = sum(file.stat().st_size for file in files)
    target = max(UNIT_BYTES, min(total // _FEW_UNITS, _MOST_UNIT_BYTES))
    inputs, units, spans = [], [], []
    filled = documents = first_document = 0

    def close(path, start, end, line):
        nonlocal filled, spans, first_document
        spans.append(Span(path, start, end, line))
        units.append(Unit(len(units), first_document, tuple(spans)))
        filled, spans, first_document = 0, [], documents

    for path in files:
        digest, position, start, line, first_line = hashlib.sha256(), 0, 0, 1, 1
        with path.open("rb") as handle:
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
        name = path.relative_to(root).as_posix() if path != root else path.name
        inputs.append({"file": name, "bytes": position, "sha256": digest.hexdigest()})
    if spans:
        units.append(Unit(len(units), first_document, tuple(spans)))
    return inputs, units


@contextmanager
def locked_output(folder: Path, flag: str = "--output_dir") -> Iterator[None]:
    """Hold the output folder for this run and its workers, and clear what a killed run left half written.

    CorpusError naming `flag` when the folder holds other things, or another run does not release it.
    """
    if folder.exists() and not folder.is_dir():
        raise CorpusError(f"{flag} must name a folder, got the file {str(folder)!r}; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    others = [name for name in sorted(os.listdir(folder)) if name not in (_LOCK, f".{MANIFEST}.partial")]
    if others and not (folder / MANIFEST).is_file():
        raise CorpusError(
            f"{flag} must be new, empty or a corpus, got {str(folder)!r} with {others[0]!r} in it; "
            "choose another folder"
        )
    with (folder / _LOCK).open("a") as handle:  # workers inherit the lock: no new run while an orphan still writes
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise CorpusError(f"{flag} must be free, got {str(folder)!r} held by another run; wait for it to end")
            time.sleep(0.05)
        for place in (folder, folder / REFERENCE):
            for partial in place.glob(".*.partial"):
                partial.unlink()
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


def begin(folder: Path, inputs: list[dict], tokenizer: dict, settings: dict) -> dict:
    """Return the manifest of an unfinished corpus: the one in the folder, or a new one, which is written.

    CorpusError naming the flag when the folder was begun with other inputs, another tokenizer or other settings.
    """
    fresh = {"format": FORMAT, "complete": False, "inputs": inputs, "tokenizer": tokenizer, "settings": settings}
    if not (folder / MANIFEST).is_file():
        write_manifest(folder, fresh)
        return fresh
    found = read_manifest(folder, "--output_dir")
    differences = [("--input_path", _describe(found["inputs"]), _describe(inputs), found["inputs"] != inputs)]
    old, new = found["tokenizer"], tokenizer
    described = [f"{made['name']} ({made['size']} entries)" for made in (old, new)]
    differences.append(("--model_name", *described, old["hash"] != new["hash"]))
    for name, value in settings.items():
        differences.append((f"--{name}", found["settings"].get(name), value, found["settings"].get(name) != value))
    for flag, before, now, differs in differences:
        if differs:
            raise CorpusError(
                f"{flag} must be the same as when {folder} was begun, {before}, got {now}"
                f"{' with other content' if before == now else ''}; go back to it or choose another --output_dir"
            )
    return found


def _describe(inputs: list[dict]) -> str:
    return f"{len(inputs)} files of {sum(file['bytes'] for file in inputs):,} bytes"


@dataclass
class Preparer:
    """Turns one unit into one shard; everything a worker needs."""

    folder: Path
    tokenizer: FastTokenizer
    segmenter: Segmenter
    reference: ReferenceWriter | None
    json_key: str
    max_seq_length: int
    min_chars: int
    skip_errors: bool

    def record_of(self, unit: Unit) -> dict | None:
        """The record of a finished unit; None when its shard is missing, or skipped lines that must now fail."""
        path = self.folder / shard_name(unit.number)
        record = read_record(path) if path.is_file() else None
        return None if record and record["skipped_lines"] and not self.skip_errors else record

    def __call__(self, unit: Unit) -> dict:
        """Write the shard of a unit and return its record. DataError with file:line."""
        counts = Counter(dict.fromkeys(COUNTS, 0))
        columns = [bytearray() for _ in range(4)]  # they grow in place: a unit is never in memory twice
        dtypes = (id_dtype(self.tokenizer.vocab_size), np.uint8, np.int64, np.int64)
        references = []
        for numbers, texts in self._batches(unit, counts):
            blocks, text = make_blocks(texts, self.tokenizer, self.segmenter, self.max_seq_length - 2, self.min_chars)
            _count(counts, texts, blocks)
            rows = (
                join_rows(blocks.ids, blocks.lengths, *self.tokenizer.frame),
                join_rows(blocks.continuation, blocks.lengths, 0, 0),
                blocks.lengths + 2,
                np.array(numbers)[blocks.documents],
            )
            for column, values, dtype in zip(columns, rows, dtypes, strict=True):
                column += memoryview(values.astype(dtype))
            if self.reference:
                references.append(self.reference.rows(blocks, text))
        record = {"unit": unit.number, **counts}
        if self.reference:  # first, because the shard says that the unit is finished
            self.reference.write(unit.number, references)
        arrays = map(np.frombuffer, columns, dtypes)
        write_shard(self.folder / shard_name(unit.number), *arrays, record)
        return record

    def _batches(self, unit: Unit, counts: Counter) -> Iterator[tuple[list[int], list[str]]]:
        numbers, texts, characters = [], [], 0
        for number, line, path, line_number in _lines(unit):
            try:
                text = parse_text(line, self.json_key, f"{path}:{line_number}")
            except DataError:
                if not self.skip_errors:
                    raise
                counts["skipped_lines"] += 1
                continue
            numbers.append(number)
            texts.append(text)
            characters += len(text)
            if characters >= _BATCH:
                yield numbers, texts
                numbers, texts, characters = [], [], 0
        if texts:
            yield numbers, texts


COUNTS = (
    "documents", "dropped_documents", "characters", "tokens", "dropped_tokens", "words", "cut_words", "blocks",
    "skipped_lines",
)  # fmt: skip


def _count(counts: Counter, texts: list[str], blocks: Blocks) -> None:
    counts["documents"] += len(texts)
    counts["dropped_documents"] += int(np.count_nonzero(~blocks.kept))
    counts["characters"] += sum(map(len, texts))
    counts["tokens"] += len(blocks.ids)
    counts["dropped_tokens"] += blocks.dropped_tokens
    counts["words"] += blocks.words
    counts["cut_words"] += blocks.cut_words
    counts["blocks"] += len(blocks.lengths)


def _lines(unit: Unit) -> Iterator[tuple[int, bytes, Path, int]]:
    """Lines that are not blank: (number over all files, line, file, number in the file)."""
    number = unit.document
    for span in unit.spans:
        with span.path.open("rb") as handle:
            handle.seek(span.start)
            remaining, line_number = span.end - span.start, span.line
            while remaining > 0:
                line = handle.readline(remaining)
                remaining -= len(line)
                if not line.isspace():
                    yield number, line, span.path, line_number
                number, line_number = number + 1, line_number + 1


_prepare: Preparer  # of a worker


def _start_worker(prepare: Preparer) -> None:
    """A worker leaves Ctrl-C to its parent and ends when the parent does, however that ends."""
    global _prepare
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    _prepare = prepare


def _run_worker(unit: Unit) -> dict:
    return _prepare(unit)


def prepare_all(prepare: Preparer, units: list[Unit], workers: int, report: Callable[[Unit, dict], None]) -> None:
    """Prepare the units in `workers` processes; `report` each in order. The first error in that order is raised."""
    if min(workers, len(units)) < 2:
        for unit in units:
            report(unit, prepare(unit))
        return
    # fork: the dictionary and the tokenizer are loaded once and shared; nothing here has started a thread
    context = multiprocessing.get_context("fork")
    gc.freeze()  # a collection in a worker would copy every shared page
    pool = ProcessPoolExecutor(min(workers, len(units)), context, _start_worker, (prepare,))
    try:
        for unit, record in zip(units, pool.map(_run_worker, units), strict=True):
            report(unit, record)
    except BrokenProcessPool:
        raise CorpusError(
            f"--workers must leave each process enough memory, got {workers} and one was killed; lower it and run "
            "the same command again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        gc.unfreeze()


def finish(folder: Path, manifest: dict, records: list[dict]) -> dict:
    """Write what makes the folder a finished corpus, the manifest last; return the manifest."""
    counts = {name: sum(record[name] for record in records) for name in COUNTS}
    shards = []
    for record in records:
        path = folder / shard_name(record["unit"])
        shards.append({"file": path.name, "bytes": path.stat().st_size, **{name: record[name] for name in COUNTS}})
    dataset_info(folder, [shard["file"] for shard in shards])
    manifest = {**manifest, "complete": True, "counts": counts, "shards": shards}
    write_manifest(folder, manifest)
    return manifest
