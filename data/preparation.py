"""From documents to the shards of a corpus, in units of work that any number of processes can share and resume.

A unit of the source becomes one shard, whose bytes depend on the unit and the settings alone; a shard that exists is
finished, because it appears by a rename together with its record.
"""

import errno
import fcntl
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.script import interrupts_held
from data.blocks import Blocks, join_rows, make_blocks
from data.corpus import (
    FORMAT,
    MANIFEST,
    CorpusError,
    check_sum,
    dataset_info,
    drop_journals,
    id_dtype,
    known_checksums,
    read_manifest,
    read_shard,
    shard_name,
    write_manifest,
    write_shard,
)
from data.jsonl import DataError
from data.outputs import clear_left, is_temporary, resolve_output, telling
from data.reference import REFERENCE, ReferenceWriter
from data.segmentation import Segmenter
from data.sources import Source, Unit
from data.tokenization import FastTokenizer

_BATCH = 1 << 16  # characters tokenised at once; larger arrays leave the processor's cache
_NO_LIMIT = 2**40
_LOCK = ".lock"
_LOCK_SECONDS = 10.0


@contextmanager
def locked_output(folder: Path, flag: str = "--output_dir") -> Iterator[None]:
    """Hold the output folder for this run and its workers, and clear what a killed run left half written.

    CorpusError naming `flag` when the folder holds other things, or another run does not release it. What files and
    memory do to the inside ends in a UserError that says that the finished shards stay.
    """
    folder = resolve_output(folder)
    if folder.exists() and not folder.is_dir():
        raise CorpusError(f"{flag} must name a folder, got the file {str(folder)!r}; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    others = [path.name for path in sorted(folder.iterdir()) if path.name != _LOCK and not is_temporary(path)]
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
        for place in filter(Path.is_dir, (folder, folder / REFERENCE)):
            clear_left(place)
        try:
            with telling(f"finished shards are kept in {folder}; mend that and run the same command again to go on"):
                yield
        except UserError as error:
            if folder.is_dir():
                raise
            raise CorpusError(
                f"{flag} must stay while it is written, got {str(folder)!r} removed; run the same command again to "
                "begin anew"
            ) from error


def _try_lock(handle: IO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
            raise
    return True


def begin(folder: Path, inputs: list[dict], tokenizer: dict, settings: dict, flags: tuple[str, str]) -> dict:
    """Return the manifest of an unfinished corpus: the one in the folder, or a new one, which is written.

    flags: those that name the input and the tokenizer; the keys of `settings` are flags too.
    CorpusError naming the flag when the folder was begun with other inputs, another tokenizer or other settings.
    """
    fresh = {"format": FORMAT, "complete": False, "inputs": inputs, "tokenizer": tokenizer, "settings": settings}
    if not (folder / MANIFEST).is_file():
        write_manifest(folder, fresh)
        return fresh
    found = read_manifest(folder, "--output_dir")
    differences = [(flags[0], _describe(found["inputs"]), _describe(inputs), found["inputs"] != inputs)]
    old, new = found["tokenizer"], tokenizer
    described = [f"{made['name']} ({made['size']} entries)" for made in (old, new)]
    differences.append((flags[1], *described, old["hash"] != new["hash"]))
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
    source: Source
    max_seq_length: int
    min_chars: int = 1
    skip_errors: bool = False
    reference: ReferenceWriter | None = None
    whole: bool = False  # a row for each text, whatever its length
    lines: bool = False  # a text is a line of a document, not all of it

    def record_of(self, unit: Unit, known: dict[Path, set[int]]) -> dict | None:
        """The record of a finished unit; None when its shard is missing, or skipped lines that must now fail.

        A shard that is damaged counts as missing, with a line; all of it is read. known: of known_checksums.
        """
        path = self.folder / shard_name(unit.number)
        if not path.is_file():
            return None
        try:
            shard = read_shard(path)
            check_sum(path, known.get(path))
            if self.reference:
                self.reference.check(unit.number, known)
            record = shard.record
            if (record.get("unit"), record.get("blocks")) != (unit.number, len(shard.documents)):
                raise CorpusError(f"{path} must have the record of its rows, got another one")
        except CorpusError as error:
            print(f"making unit {unit.number} again: {error}", file=sys.stderr)
            return None
        return None if record["skipped_lines"] and not self.skip_errors else record

    def __call__(self, unit: Unit) -> dict:
        """Write the shard of a unit and return its record. DataError with file:line."""
        counts = Counter(dict.fromkeys(COUNTS, 0))
        columns = [bytearray() for _ in range(4)]  # they grow in place: a unit is never in memory twice
        dtypes = (id_dtype(self.tokenizer.vocab_size), np.uint8, np.int64, np.int64)
        references, (before, after) = [], self.tokenizer.frame
        framed = len(before) + len(after)
        capacity = _NO_LIMIT if self.whole else self.max_seq_length - framed
        for numbers, texts in self._batches(unit, counts):
            blocks, text = make_blocks(texts, self.tokenizer, self.segmenter, capacity, self.min_chars)
            _count(counts, numbers, texts, blocks)
            rows = (
                join_rows(blocks.ids, blocks.lengths, before, after),
                join_rows(blocks.continuation, blocks.lengths, [0] * len(before), [0] * len(after)),
                blocks.lengths + framed,
                np.array(numbers)[blocks.documents],
            )
            for column, values, dtype in zip(columns, rows, dtypes, strict=True):
                column += memoryview(values.astype(dtype))
            if self.reference:
                references.append(self.reference.rows(blocks, text))
        record = {"unit": unit.number, **counts}
        if self.whole:
            record |= {"stream": len(columns[1]), "grouped": False}
        if self.reference:  # first, because the shard says that the unit is finished
            self.reference.write(unit.number, references)
        arrays = map(np.frombuffer, columns, dtypes)
        write_shard(self.folder / shard_name(unit.number), *arrays, record)
        return record

    def _batches(self, unit: Unit, counts: Counter) -> Iterator[tuple[list[int], list[str]]]:
        numbers, texts, characters = [], [], 0
        for number, content, where in self.source.raw(unit):
            try:
                text = self.source.text(content, where)
            except DataError:
                if not self.skip_errors:
                    raise
                counts["skipped_lines"] += 1
                continue
            parts = text.split("\n") if self.lines else [text]
            numbers += [number] * len(parts)
            texts += parts
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


def _count(counts: Counter, numbers: list[int], texts: list[str], blocks: Blocks) -> None:
    documents = len(np.unique(numbers))
    counts["documents"] += documents
    counts["dropped_documents"] += documents - len(np.unique(np.array(numbers)[blocks.kept]))
    counts["characters"] += sum(map(len, texts))
    counts["tokens"] += len(blocks.ids)
    counts["dropped_tokens"] += blocks.dropped_tokens
    counts["words"] += blocks.words
    counts["cut_words"] += blocks.cut_words
    counts["blocks"] += len(blocks.lengths)


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


def prepare_all(
    prepare: Preparer, units: list[Unit], workers: int, report: Callable[[Unit, dict], None], flag: str
) -> None:
    """Prepare the units in `workers` processes; `report` each in order. The first error in that order is raised.

    CorpusError naming `flag`, of the number of workers, when one of them is killed.
    """
    if min(workers, len(units)) < 2:
        for unit in units:
            report(unit, prepare(unit))
        return
    # fork: the dictionary and the tokenizer are loaded once and shared; nothing here has started a thread
    context = multiprocessing.get_context("fork")
    gc.freeze()  # a collection in a worker would copy every shared page
    pool = ProcessPoolExecutor(min(workers, len(units)), context, _start_worker, (prepare,))
    try:
        with interrupts_held():
            results = pool.map(_run_worker, units)
        for unit, record in zip(units, results, strict=True):
            report(unit, record)
    except BrokenProcessPool:
        raise CorpusError(
            f"{flag} must leave each process enough memory, got {workers} and one was killed; lower it and run the "
            "same command again, which goes on behind the finished shards"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        gc.unfreeze()


def prepare_units(
    preparer: Preparer, units: list[Unit], workers: int, log_interval: int = 100, flag: str = "--workers"
) -> list[dict]:
    """Prepare the units that are not finished yet; return the records of all, in order.

    log_interval: documents between updates of the progress bar, at least; flag: that of the workers.
    """
    known = known_checksums(preparer.folder)
    records = {unit.number: record for unit in units if (record := preparer.record_of(unit, known))}
    waiting = [unit for unit in units if unit.number not in records]
    if records:
        print(f"going on: {len(records)} of {len(units)} shards are finished", file=sys.stderr)
    finished = sum(unit.size for unit in units if unit.number in records)
    bar = tqdm(total=finished + sum(unit.size for unit in waiting), initial=finished, unit="B", unit_scale=True)
    bytes_done = documents = 0

    def report(unit, record):
        nonlocal bytes_done, documents
        records[unit.number] = record
        bytes_done, documents = bytes_done + unit.size, documents + record["documents"]
        if documents >= log_interval or len(records) == len(units):
            bar.update(bytes_done)
            bytes_done = documents = 0

    with bar:
        prepare_all(preparer, waiting, workers, report, flag)
    return [records[unit.number] for unit in units]


def finish(folder: Path, manifest: dict, records: list[dict]) -> dict:
    """Write what makes the folder a finished corpus, the manifest last; return the manifest. Reads all shards again.

    CorpusError when one is damaged or gone.
    """
    counts = {name: sum(record[name] for record in records) for name in COUNTS}
    shards, known, sums = [], known_checksums(folder), {}
    for record in records:
        path = folder / shard_name(record["unit"])
        if not path.is_file():
            raise CorpusError(f"{path} must stay while the corpus is made, got it removed; run the same command again")
        shards.append({"file": path.name, "bytes": path.stat().st_size, **{name: record[name] for name in COUNTS}})
    for path in (*folder.glob("data-*.arrow"), *folder.glob(f"{REFERENCE}/data-*.arrow")):
        sums[path.relative_to(folder).as_posix()] = check_sum(path, known.get(path))
    dataset_info(folder, [shard["file"] for shard in shards])
    manifest = {**manifest, "complete": True, "counts": counts, "shards": shards}
    write_manifest(folder, manifest, dict(sorted(sums.items())))
    drop_journals(folder)
    return manifest


def describe_unknown(folder: Path, manifest: dict, unknown_id: int | None, flag: str) -> str:
    """How many tokens of a finished corpus are the unknown one, with a warning where they are more than 1 %.

    Counted in the shards, because those that earlier code has written do not say it.
    """
    tokens = manifest["counts"]["tokens"]
    found = sum(np.count_nonzero(read_shard(folder / shard["file"]).ids == unknown_id) for shard in manifest["shards"])
    share = found / max(tokens, 1)
    if share > 0.01:
        print(
            f"warning: {share:.1%} of the tokens in {folder} are unknown; name a tokenizer with {flag} that knows "
            "this text, or take out what is in other letters",
            file=sys.stderr,
        )
    return f"{found:,} unknown tokens ({share:.2%})"
