"""From documents to the shards of a corpus, in units of work that any number of processes can share and resume.

A unit of the source becomes one shard, whose bytes depend on the unit and the settings alone; a shard that exists is
finished, because it appears by a rename together with its record.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.corpus.arrow_shards import CorpusError, check_sum, id_dtype, read_shard, shard_name, write_shard
from data.corpus.blocks import Blocks, join_rows, make_blocks
from data.corpus.chinese_ref_files import ReferenceWriter
from data.corpus.manifest import known_checksums
from data.corpus.sources import Source, Unit
from data.files import DataError
from data.tokens.fast_tokenizer import FastTokenizer
from data.tokens.word_segmenters import Segmenter
from data.workers import worker_results

_BATCH = 1 << 16  # characters tokenised at once; larger arrays leave the processor's cache
_NO_LIMIT = 2**40  # tokens of a row: more than any text has


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
            blocks, joined = make_blocks(texts, self.tokenizer, self.segmenter, capacity, self.min_chars)
            _count(counts, numbers, texts, blocks)
            rows = (
                join_rows(blocks.ids, blocks.lengths, before, after),
                join_rows(blocks.continuation, blocks.lengths, [0] * len(before), [0] * len(after)),
                blocks.lengths + framed,
                np.array(numbers)[blocks.texts],
            )
            for column, values, dtype in zip(columns, rows, dtypes, strict=True):
                column += memoryview(values.astype(dtype))
            if self.reference:
                references.append(self.reference.rows(blocks, joined))
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
    "documents",
    "dropped_documents",
    "characters",
    "tokens",
    "dropped_tokens",
    "words",
    "cut_words",
    "blocks",
    "skipped_lines",
)


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


def prepare_units(
    preparer: Preparer, units: list[Unit], workers: int, log_interval: int = 100, flag: str = "--workers"
) -> list[dict]:
    """Prepare the units that are not finished yet; return the records of all, in order.

    The first error in that order is raised. CorpusError naming `flag`, of the number of workers, when one is killed.
    log_interval: documents between updates of the progress bar, at least.
    """
    known = known_checksums(preparer.folder)
    records = {unit.number: record for unit in units if (record := preparer.record_of(unit, known))}
    waiting = [unit for unit in units if unit.number not in records]
    if records:
        print(f"going on: {len(records)} of {len(units)} shards are finished", file=sys.stderr)
    finished = sum(unit.size for unit in units if unit.number in records)
    bar = tqdm(total=finished + sum(unit.size for unit in waiting), initial=finished, unit="B", unit_scale=True)
    bytes_done = documents = 0
    try:
        # fork: the dictionary and the tokenizer are loaded once and shared; nothing here has started a thread
        with bar, worker_results(lambda: preparer, waiting, workers, "fork") as results:
            for unit, record in zip(waiting, results, strict=True):
                records[unit.number] = record
                bytes_done, documents = bytes_done + unit.size, documents + record["documents"]
                if documents >= log_interval or len(records) == len(units):
                    bar.update(bytes_done)
                    bytes_done = documents = 0
    except BrokenProcessPool:
        raise CorpusError(
            f"{flag} must leave each process enough memory, got {workers} and one was killed; lower it and run the "
            "same command again, which goes on behind the finished shards"
        ) from None
    return [records[unit.number] for unit in units]


def count_unknown(folder: Path, shards: list[str], unknown_id: int | None) -> int:
    """How many tokens of shards are the unknown one, by ids: shards that earlier code has written do not say it."""
    return sum(int(np.count_nonzero(read_shard(folder / name).ids == unknown_id)) for name in shards)


def describe_unknown(folder: Path, manifest: dict, unknown: int, flag: str) -> str:
    """How many tokens of a finished corpus are the unknown one, with a warning where they are more than 1 %."""
    share = unknown / max(manifest["counts"]["tokens"], 1)
    if share > 0.01:
        print(
            f"warning: {share:.1%} of the tokens in {folder} are unknown; name a tokenizer with {flag} that knows "
            "this text, or take out what is in other letters",
            file=sys.stderr,
        )
    return f"{unknown:,} unknown tokens ({share:.2%})"
