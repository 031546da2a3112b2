"""Rows for ELECTRA: one segment, or two, of lines that follow each other in a document.

Sources: ExampleBuilder of google-research/electra's build_pretraining_dataset.py and ELECTRADataProcessor of
richarddwang/electra_pytorch, which give the same examples for the same draws. `reference` is theirs, and cuts off what
exceeds a row; `packed` differs in one thing: what was cut off begins the document's next row, so that every token of
the corpus is in one row. Their lines are the lines of a corpus that keeps them, else its sentences.

Of a corpus that is not small, rows are made by chunks (data/batches/chunks.py), as many of each as it has slots: none
aims at a shorter length, but as many as the slots ask for are cut in two at random, which gives as many short ones.
Where a chunk has too many rows, the shortest share one, as its two segments, whatever documents they are of.

Letters: L tokens of the longest row, N rows of the corpus that are used, R rows that come of them.
Contents are the tokens of the used rows without [CLS] and [SEP], numbered through.
"""

import random
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import itemgetter

import numpy as np
from tokenizers import Tokenizer

from data.batches.chunks import Chunk, ChunkRows, by_chunks
from data.batches.sampling import PlainRows, Rows, draw
from data.corpus.arrow_shards import CorpusError
from data.corpus.sentences import row_sentence_starts, sentence_tables
from data.tokens.tokenizer_files import special_frame

_SINGLE_SHARE, _SHORT_SHARE = 0.1, 0.05  # rows of one segment only, and rows that aim at a random shorter length
_SHORTEST = 5  # tokens of the shortest length to aim at, as in the references
_CHUNK_DRAWS = 20  # a stream of draws
_NO_SECOND = 100_000  # tokens of the first segment that no row reaches, so that there is no second; theirs, too

Span = tuple[int, int]  # the first content, and how many follow each other from there
Segments = tuple[list[Span], list[Span]]  # of a row


class ExampleBuilder:
    """Puts lines into rows, with the draws of the references in their order.

    Args:
        length: L.
        seed: of Python's random generator.
        keep_overflow: carry what exceeds a row over to the next one instead of dropping it.
        short_share: of the rows, how many aim at a shorter length.
    """

    def __init__(self, length: int, seed: int, keep_overflow: bool = False, short_share: float = _SHORT_SHARE):
        self._length, self._random, self._keep = length, random.Random(seed), keep_overflow
        self._target, self._short_share = length, short_share
        self._lines: list[Span] = []
        self._size = 0

    def add(self, lines: Iterable[tuple[int, int, bool]]) -> Iterator[Segments]:
        """Rows that further lines complete: spans of the first and of the second segment.

        lines: first content, contents (at least 1), and whether the line begins a document.
        """
        for start, size, begins_document in lines:
            if begins_document:
                yield from self.end_document()
            self._lines.append((start, size))
            self._size += size
            while self._size >= self._target:
                yield self._make_row()

    def end_document(self) -> Iterator[Segments]:
        """Rows of what is left of the document."""
        while self._size:
            yield self._make_row()

    def fit(self, rows: list[Segments], count: int) -> list[Segments]:
        """Exactly so many rows of what these hold. Where even the two shortest do not fit into one, the shortest is
        dropped, or, if nothing may be lost, all rows are cut anew, alike in length."""
        while len(rows) > count:
            rows.sort(key=_size, reverse=True)
            last, other = sorted(rows[-2:])
            if _size(last) + _size(other) <= self._length - 3:
                rows[-2:] = [(sorted(chain(*last)), sorted(chain(*other)))]
            elif self._keep:
                return _cut_alike(sorted(chain(*chain(*rows))), count)
            else:
                rows.pop()
        while len(rows) < count:
            least = _SHORTEST if any(_size(row) >= 2 * _SHORTEST for row in rows) else 1
            chosen = self._random.choice([index for index, row in enumerate(rows) if _size(row) >= 2 * least])
            place = self._random.randint(least, _size(rows[chosen]) - least)
            for part in _cut(sorted(chain(*rows.pop(chosen))), place):
                self._lines = part
                rows.append(self._make_row())
        return rows

    def _make_row(self) -> Segments:
        draw = self._random.random
        first_target = _NO_SECOND if draw() < _SINGLE_SHARE else (self._target - 3) // 2
        first, second, size = [], [], 0
        for line in self._lines:
            fits = not first or size + line[1] < first_target
            if fits or (not second and size < first_target and draw() < 0.5):
                first.append(line)
                size += line[1]
            else:
                second.append(line)
        first, overflow = _cut(first, self._length - 2)
        second, more = _cut(second, max(0, self._length - min(size, self._length - 2) - 3))
        self._lines = sorted(overflow + more, key=itemgetter(0)) if self._keep else []
        self._size = sum(line[1] for line in self._lines)
        is_short = draw() < self._short_share
        self._target = self._random.randint(_SHORTEST, self._length) if is_short else self._length
        return first, second


def _size(row: Segments) -> int:
    return sum(size for _, size in chain(*row))


def _cut_alike(lines: list[Span], count: int) -> list[Segments]:
    """So many rows of all these, each of two equal segments."""
    total, rows = sum(size for _, size in lines), []
    for number in range(count):
        size = (number + 1) * total // count - number * total // count
        row, lines = _cut(lines, size)
        rows.append(_cut(row, -(-size // 2)))
    return rows


def _cut(lines: list[Span], room: int) -> tuple[list[Span], list[Span]]:
    """The first `room` contents of some lines, and the rest of them."""
    for index, (start, size) in enumerate(lines):
        if size > room:
            head = [(start, room)] if room else []
            return lines[:index] + head, [(start + room, size - room), *lines[index + 1 :]]
        room -= size
    return lines, []


class ElectraRows(Rows):
    """The rows that an ExampleBuilder makes of some rows of a corpus."""

    def __init__(self, plain: PlainRows, kind: str, length: int, backend: Tokenizer, seed: int):
        """kind: reference or packed; length: L; seed: of the builder's draws.

        CorpusError when L is too small, or the tokenizer sets no token on either side of a text.
        """
        self.corpus = plain.corpus
        self._frame = special_frame(backend)
        if length < _SHORTEST + 3:
            raise CorpusError(f"--max_seq_length must be at least {_SHORTEST + 3}, got {length}; raise it")
        if len(self._frame) != 2:
            raise CorpusError(
                f"--electra_data needs a tokenizer with one token before a text and one after it, got "
                f"{len(self._frame)} in all; use --packing concat or another tokenizer"
            )
        self._runs: list[np.ndarray] = []
        builder = ExampleBuilder(length, seed, keep_overflow=kind == "packed")
        self._store(builder, self._lines(plain, *sentence_tables(backend)))
        # [4, runs]: first content of a run, contents, its row in the corpus, where it begins there
        self._runs = np.concatenate([np.zeros((4, 0), np.int64), *self._runs], axis=1)

    def _store(self, builder: ExampleBuilder, lines: Iterator[list[tuple[int, int, bool]]]) -> None:
        """Keep the rows as flat arrays: spans, where the spans of each row begin, and the size of first segments."""
        starts, sizes, edges, firsts, lengths = array("q"), array("q"), array("q", [0]), array("q"), array("q")
        for rows in chain(map(builder.add, lines), [builder.end_document()]):
            for segments in rows:
                for segment in segments:
                    barrier = len(starts)
                    for start, size in segment:
                        if len(starts) > barrier and starts[-1] + sizes[-1] == start:
                            sizes[-1] += size
                        else:
                            starts.append(start)
                            sizes.append(size)
                first, second = (sum(size for _, size in segment) for segment in segments)
                edges.append(len(starts))
                firsts.append(first)
                lengths.append(first + 2 + (second + 1 if second else 0))
        self._starts, self._sizes, self._edges = (np.frombuffer(flat, np.int64) for flat in (starts, sizes, edges))
        self._firsts, self.lengths = np.array(firsts, np.int64), np.array(lengths, np.int64)

    def _lines(self, plain: PlainRows, kinds: np.ndarray, opens: np.ndarray) -> Iterator[list[tuple[int, int, bool]]]:
        """By shard: first content, contents, and whether it begins a document, of each line. Notes the runs."""
        contents, indices = 0, np.asarray(plain.indices)
        goes_on = (np.diff(indices, prepend=-2) == 1) & (np.diff(plain.documents, prepend=-1) == 0)
        for first, ids, marks, offsets in plain.shards():
            chosen = slice(first, first + len(offsets) - 1)
            starts, stops, row, begins = self._runs_of(ids, offsets, goes_on[chosen])
            sentences = starts[:0] if self.corpus.has_lines else row_sentence_starts(ids, marks, kinds, opens)
            firsts, lines = _lines_of(starts, stops, begins, sentences, self.corpus.is_grouped)
            self._runs.append(
                np.stack([contents + firsts, stops - starts, indices[chosen][row], starts - offsets[row]])
            )
            yield [(contents + first, size, begins_document) for first, size, begins_document in lines]
            contents += int((stops - starts).sum())

    def _runs_of(self, ids: np.ndarray, offsets: np.ndarray, goes_on: np.ndarray):
        """Runs of contents in rows end to end: where each starts and stops in ids, its row, and whether it begins a
        document, as a row does that does not go on."""
        if not self.corpus.is_grouped:
            starts, stops = offsets[:-1] + 1, offsets[1:] - 1
            kept = stops > starts
            return starts[kept], stops[kept], np.flatnonzero(kept), ~goes_on[kept]
        starts, stops, begins = _runs_of_stream(ids, offsets, self._frame)
        return starts, stops, np.searchsorted(offsets, starts, side="right") - 1, begins

    def _row(self, index: int) -> dict:
        """As Rows has them, with first_segment: the tokens of [CLS], the first segment and the [SEP] behind it."""
        spans = slice(*self._edges[index : index + 2].tolist())
        ids, marks = [], []
        for start, size in zip(self._starts[spans].tolist(), self._sizes[spans].tolist(), strict=True):
            run = int(np.searchsorted(self._runs[0], start, side="right")) - 1
            while size:
                first, contents, row_index, begin = self._runs[:, run].tolist()
                (row,) = self.corpus.rows([row_index])
                inside = slice(begin + start - first, begin + min(start - first + size, contents))
                ids.append(row["input_ids"][inside])
                marks.append(row["continuation"][inside])
                start, size, run = start + len(ids[-1]), size - len(ids[-1]), run + 1
        row = _framed(np.concatenate(ids), np.concatenate(marks), int(self._firsts[index]), self._frame)
        return {"index": index} | row


def _runs_of_stream(ids: np.ndarray, offsets: np.ndarray, frame: list[int]):
    """Runs of contents in rows that were cut anywhere from one stream of [CLS] document [SEP]: where each starts and
    stops in ids, and whether it begins a document. A run begins behind either of them, and with a row."""
    is_content = (ids != frame[0]) & (ids != frame[1])
    after_break = np.append(True, ~is_content[:-1])
    after_break[offsets[:-1][offsets[:-1] < len(ids)]] = True
    starts = np.flatnonzero(is_content & after_break)
    ends_run = np.append(~is_content[1:] | after_break[1:], True)
    stops = np.flatnonzero(is_content & ends_run) + 1
    return starts, stops, np.append(True, ~is_content)[starts]


def _lines_of(
    starts: np.ndarray, stops: np.ndarray, begins: np.ndarray, sentences: np.ndarray, is_grouped: bool
) -> tuple[np.ndarray, list[tuple[int, int, bool]]]:
    """Of runs of contents, numbered through from 0: the first of each, and lines as ExampleBuilder.add takes them.

    A sentence begins a line, and so does a run, in rows of a stream that of a document alone.
    """
    firsts = np.cumsum(stops - starts) - (stops - starts)
    is_line = begins.copy() if is_grouped else np.ones(len(starts), bool)
    is_line[:1] = True
    run = np.searchsorted(starts, sentences, side="right") - 1
    inside = (run >= 0) & (sentences < stops[run])
    within = firsts[run[inside]] + (sentences - starts[run])[inside]
    line_firsts = np.unique(np.append(firsts[is_line], within))
    sizes = np.diff(line_firsts, append=(stops - starts).sum())
    first_of_document = np.isin(line_firsts, firsts[begins])
    return firsts, list(zip(line_firsts.tolist(), sizes.tolist(), first_of_document.tolist(), strict=True))


def _framed(ids: np.ndarray, marks: np.ndarray, first: int, frame: list[int]) -> dict:
    """A row of contents, `first` of which are the first segment: [CLS] before them, [SEP] behind each segment."""
    frames, separators = [0, first], [frame[0], frame[1]]
    if first < len(ids):
        frames, separators = [*frames, len(ids)], [*separators, frame[1]]
    return {
        "input_ids": np.insert(ids, frames, separators),
        "continuation": np.insert(marks, frames, 0),
        "first_segment": first + 2,
    }


class ElectraChunks(ChunkRows):
    """As ElectraRows, of a corpus of any size."""

    reach = 64

    def __init__(self, plain: PlainRows, kind: str, length: int, backend: Tokenizer, seed: int):
        """As ElectraRows."""
        self.loses_nothing = kind == "packed"
        self.frame = 0 if plain.corpus.is_grouped else 2
        super().__init__(plain, length, length - 3, lambda some: ElectraRows(some, kind, length, backend, 0))
        self._frame, self._length, self._seed, self.tables = (
            special_frame(backend),
            length,
            seed,
            sentence_tables(backend),
        )

    def plan(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray, list[Segments]]:
        """The contents of a chunk, ids and marks, and the rows that are made of them."""
        if self.corpus.is_grouped:
            starts, stops, begins = _runs_of_stream(chunk.ids, np.maximum(chunk.begins, 0), self._frame)
        else:
            starts, stops, goes_on = chunk.contents()
            begins = ~goes_on
            begins[:1] = True
        is_content = np.zeros(len(chunk.ids) + 1, np.int8)
        np.add.at(is_content, starts, 1)
        np.add.at(is_content, stops, -1)
        is_content = np.cumsum(is_content[:-1]) > 0
        sentences = starts[:0] if self.corpus.has_lines else row_sentence_starts(chunk.ids, chunk.marks, *self.tables)
        _, lines = _lines_of(starts, stops, begins, sentences, self.corpus.is_grouped)
        seed = int(draw(self._seed, _CHUNK_DRAWS, chunk.number)[0])
        builder = ExampleBuilder(self._length, seed, self.loses_nothing, short_share=0)
        rows = builder.fit([*builder.add(lines), *builder.end_document()], chunk.slots)
        return chunk.ids[is_content], chunk.marks[is_content], sorted(rows, key=_size, reverse=True)

    def make_row(self, plan, slot: int) -> dict:
        """As ElectraRows._row, without the index."""
        ids, marks, rows = plan
        first, second = rows[slot]
        places = np.concatenate([np.arange(start, start + size) for start, size in chain(first, second)])
        return _framed(ids[places], marks[places], sum(size for _, size in first), self._frame)


def electra_rows(
    rows: PlainRows, kind: str, length: int, backend: Tokenizer, seed: int, chunked: bool = False
) -> Rows:
    """Training rows as ElectraRows makes them; chunked: make those of a corpus that is not small by chunks."""
    return (ElectraChunks if by_chunks(rows, chunked) else ElectraRows)(rows, kind, length, backend, seed)
