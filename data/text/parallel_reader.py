"""Read raw text in parallel: documents that can be read, are long enough and repeat no evaluation text go to buckets.

Each process reads units of work (byte ranges) and writes bucket files of its own; nothing here depends on which
process reads what.
"""

from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from json import JSONEncoder
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from data.files import DataError
from data.text.external_sort import RECORD, Buckets, content_keys, position_keys, random_keys, sorted_indices
from data.text.overlap import Overlap
from data.text.raw_documents import Layout, Unit
from data.text.streams import Streamed
from data.workers import worker_results

_SEARCHED_CHARACTERS = 1 << 18  # documents are compared with evaluation texts in batches of about this size
_WRITTEN_CHARACTERS = 1 << 21  # and written in those of this size: of a unit that is a packed file there may be many


@dataclass(frozen=True)
class Job:
    """What a reading process must know. `bucket_count` buckets in `folder`; `total` bytes in all inputs."""

    layout: Layout
    key: str
    min_length: int
    skip_errors: bool
    dedup: bool
    shuffle: bool
    seed: int
    overlap: Path | None
    folder: Path
    bucket_count: int
    total: int


@dataclass
class Counts:
    """Documents not written, by reason; `per_file`: excluded documents of each --exclude file; `runs` that were met.

    `characters` of all documents that could be read, of the `largest` one, and the `lines` of that.
    """

    short: int = 0
    skipped: int = 0
    duplicates: int = 0
    excluded: int = 0
    characters: int = 0
    largest: int = 0
    lines: int = 0
    per_file: np.ndarray | int = 0
    runs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def plain(self) -> dict:
        """As JSON holds it."""
        return {name: np.asarray(value).tolist() for name, value in vars(self).items()}

    @classmethod
    def of_plain(cls, counts: dict) -> "Counts":
        arrays = {name: np.array(counts[name], np.int64) for name in ("per_file", "runs")}
        return cls(**counts | arrays)

    def add(self, other: "Counts") -> None:
        """Add what another unit of work counted."""
        for name in ("short", "skipped", "duplicates", "excluded", "characters", "per_file"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest, self.lines = max((self.largest, self.lines), (other.largest, other.lines))
        self.runs = np.union1d(self.runs, other.runs)


def _documents(job: Job, unit: Unit, counts: Counts) -> Iterator[tuple[int, str]]:
    """Yield (position in all inputs, text) of the documents of `unit` that can be read and are long enough."""
    for offset, raw in job.layout.raw_documents(unit):
        try:
            text = job.layout.text(raw, unit.path, offset)
        except DataError:
            if not job.skip_errors:
                raise
            counts.skipped += 1
            continue
        counts.characters += len(text)
        if len(text) > counts.largest:
            counts.largest, counts.lines = len(text), text.count("\n", 0, -1) + 1
        if len(text) > job.min_length:
            yield unit.base + offset, text
        else:
            counts.short += 1


def _without_overlap(
    documents: Iterator[tuple[int, str]], overlap: Overlap, counts: Counts
) -> Iterator[tuple[int, str]]:
    """Drop and count the documents that repeat a text of the evaluation files."""
    counts.per_file = np.zeros(len(overlap.line_counts), np.int64)
    for batch in _batches(documents, _SEARCHED_CHARACTERS):
        repeating, runs = overlap.find([text for _, text in batch])
        pairs = np.unique(np.stack((repeating, overlap.run_files[runs])), axis=1)
        counts.per_file += np.bincount(pairs[1], minlength=len(counts.per_file))
        counts.runs = np.union1d(counts.runs, runs)
        dropped = set(repeating.tolist())
        counts.excluded += len(dropped)
        yield from (document for i, document in enumerate(batch) if i not in dropped)


def _batches(documents: Iterator[tuple[int, str]], most: int) -> Iterator[list[tuple[int, str]]]:
    """Lists of documents of about `most` characters."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document[1])
        if characters >= most:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def distribute(job: Job, overlap: Overlap | None, unit: Unit) -> Counts:
    """Read one unit of work and add its documents, ready to be written, to the buckets."""
    counts, encode = Counts(), JSONEncoder(ensure_ascii=False).encode
    start = f"{{{encode(job.key)}: "
    documents = _documents(job, unit, counts)
    if overlap is not None:
        documents = _without_overlap(documents, overlap, counts)
    buckets = Buckets(job.folder, job.bucket_count)
    for batch in _batches(documents, _WRITTEN_CHARACTERS):
        payloads = [f"{start}{encode(text)}}}\n".encode() for _, text in batch]
        records = np.zeros(len(payloads), RECORD)
        records["position"] = [position for position, _ in batch]
        records["characters"] = [len(text) for _, text in batch]
        if job.dedup:
            content_keys(records, payloads, job.seed)
            first = np.sort(sorted_indices(records, distinct=True))  # fewer copies on disk of what is repeated often
            counts.duplicates += len(records) - len(first)
            records, payloads = records[first], [payloads[i] for i in first.tolist()]
        elif job.shuffle:
            random_keys(records, job.seed)
        else:
            position_keys(records, job.total)
        buckets.add(records, payloads)
    return counts


def _worker(job: Job) -> Callable[[Unit], Counts]:
    overlap = Overlap.load(job.overlap) if job.overlap else None
    return lambda unit: distribute(job, overlap, unit)


def read_all(job: Job, units: list[Unit], workers: int, log_interval: float) -> Counts:
    """Distribute all units, in `workers` processes; the first error in the order of the units is raised.

    UserError naming --workers when a process is killed.
    """
    counts, total = Counts(), sum(unit.end - unit.start for unit in units)
    with (
        tqdm(total=total, desc="reading", unit="B", unit_scale=True, mininterval=log_interval) as bar,
        _results(partial(_worker, job), units, workers) as results,
    ):
        for unit, result in zip(units, results, strict=True):
            counts.add(result)
            bar.update(unit.end - unit.start)
    return counts


def count_lengths(files: list[Path | Streamed], workers: int, log_interval: float) -> list[Path | Streamed]:
    """The same files, where what lies in packed ones has been read once to count its bytes, in `workers` processes."""
    streams = [file for file in files if isinstance(file, Streamed)]
    counted, bar = {}, {"unit": "file", "mininterval": log_interval, "disable": not streams}
    with _results(_counter, streams, workers) as results:
        for file, result in tqdm(zip(streams, results, strict=True), "counting", len(streams), **bar):
            counted[file] = result
    return [counted.get(file, file) for file in files]


def _counter() -> Callable[[Streamed], Streamed]:
    return Streamed.counted


@contextmanager
def _results(make_work: Callable[[], Callable], units: list, workers: int) -> Iterator[Iterator]:
    """Of `worker_results`; UserError naming --workers when a process is killed."""
    try:
        with worker_results(make_work, units, workers, "spawn") as results:
            yield results
    except BrokenProcessPool:
        raise UserError(
            f"--workers must leave each process enough memory, got {workers} and one was killed; lower it and run the "
            "same command again"
        ) from None
