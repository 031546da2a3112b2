"""Training rows of several rows of a corpus: laid end to end, or kept apart.

concat is RoBERTa's FULL-SENTENCES (Liu et al. 2019, arXiv 1907.11692, section 4.2): whole sentences in the order of
the corpus, across documents, with a separator between two of these. isolated fills a row with whole corpus rows by
longest-pack-first histogram packing (Krell et al. 2021, arXiv 2107.02027); a model sees each as if it were alone.
Neither loses or repeats a token, and both depend on the corpus and the chosen rows alone. Of a small corpus all rows
are packed together; of a larger one the rows of a chunk, into as many as it has slots (data/batches/chunks.py), for
which some sentences or rows are cut.

Letters: N rows of the corpus that are used, R rows that come of them, t tokens of one of these, V vocabulary.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from data.batches.chunks import Chunk, ChunkRows, by_chunks
from data.batches.sampling import PlainRows, Rows
from data.corpus.arrow_shards import CorpusError
from data.corpus.sentences import row_sentence_starts, sentence_tables
from data.tokens.tokenizer_files import special_frame

_LOSSES = (64, 32, 16, 8, 4, 2, 0)  # tokens that a row may leave empty for a whole sentence, where room gets scarce


def pack(rows: PlainRows, packing: str, length: int, backend: Tokenizer, chunked: bool = False) -> Rows:
    """The training rows of at most `length` tokens that --packing (concat or isolated) makes of some rows of a corpus.

    chunked: make those of a corpus that is not small by chunks. Rows that create_data.py has joined already stay as
    they are under concat. CorpusError when the tokenizer does not set one token on either side of a text.
    """
    frame = special_frame(backend)
    if len(frame) != 2:
        raise CorpusError(
            f"--packing {packing} needs a tokenizer with one token before a text and one after it, got {len(frame)} "
            "in all; use --packing none"
        )
    chunked = by_chunks(rows, chunked)
    if packing == "isolated":
        return (IsolatedChunks if chunked else IsolatedRows)(rows, length, frame[0])
    return rows if rows.corpus.is_grouped else (ConcatChunks if chunked else ConcatRows)(rows, length, backend)


class ConcatRows(Rows):
    """[CLS] sentences [SEP] sentences of the next document [SEP]: as many sentences as fit into `length` tokens.

    The rows are cut from a stream of all chosen corpus rows without their frames, with a separator before each
    document. They begin where a corpus row or a sentence does, right behind the separator if there is one.
    """

    def __init__(self, plain: PlainRows, length: int, backend: Tokenizer):
        self.corpus, self._indices = plain.corpus, np.asarray(plain.indices)
        self._frame = special_frame(backend)
        same_document = np.diff(plain.documents, prepend=-1) == 0
        goes_on = np.diff(self._indices, prepend=-2) == 1
        self._separated = ~(same_document & goes_on)  # bool [N]: begins a document, or goes on after a gap
        sizes = np.asarray(plain.lengths) - 2
        self._stream_ends = np.cumsum(sizes + self._separated)  # int64 [N]
        self._stream_starts = self._stream_ends - sizes
        begins = self._possible_begins(plain, *sentence_tables(backend))
        self._starts, self._stops = self._cut(length - 2, begins)  # int64 [R] each
        self.lengths = self._stops - self._starts + 2

    def _cut(self, capacity: int, possible_begins: Iterator) -> tuple[np.ndarray, np.ndarray]:
        """Where rows begin and end in the stream."""
        starts, stops = [], []
        begins, separated = np.zeros(0, np.int64), np.zeros(0, bool)
        for more, more_separated, stream_end in possible_begins:
            begins, separated = np.concatenate([begins, more]), np.concatenate([separated, more_separated])
            before = np.append(begins - separated, stream_end)  # where a row ends that the next begin does not join
            following = np.searchsorted(before, begins + capacity, side="right") - 1
            at, following = 0, following.tolist()
            while following[at] < len(begins):
                starts.append(int(begins[at]))
                at = following[at]
                stops.append(int(before[at]))
            begins, separated = begins[at:], separated[at:]  # the row that the next shard may fill further
        return np.array([*starts, *begins[:1]], np.int64), np.array([*stops, *self._stream_ends[-1:]], np.int64)

    def _possible_begins(
        self, plain: PlainRows, ends: np.ndarray, opens: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """By shard: where a row may begin (int64, increasing), whether after a separator, and the end of the stream.

        A shard at a time, because the sentences of a large corpus do not fit into memory.
        """
        for first, ids, marks, offsets in plain.shards():
            chosen = slice(first, first + len(offsets) - 1)
            sentences = row_sentence_starts(ids, marks, ends, opens)
            row = np.searchsorted(offsets, sentences, side="right") - 1
            within = sentences - offsets[row] - 1
            inside = (within > 0) & (within < offsets[row + 1] - offsets[row] - 2)
            of_rows = self._stream_starts[chosen]
            begins = np.concatenate([of_rows, of_rows[row[inside]] + within[inside]])
            separated = np.append(self._separated[chosen], np.zeros(len(begins) - len(of_rows), bool))
            order = np.argsort(begins)
            yield begins[order], separated[order], int(self._stream_ends[chosen][-1])

    def _row(self, index: int) -> dict:
        start, stop = int(self._starts[index]), int(self._stops[index])
        first = int(np.searchsorted(self._stream_ends, start, side="right"))
        last = int(np.searchsorted(self._stream_starts, stop, side="left"))
        cls, sep = ([token] for token in self._frame)
        ids, marks = [cls], [[0]]
        for member, row in enumerate(self.corpus.rows(self._indices[first:last]), first):
            if member > first and self._separated[member]:
                ids.append(sep)
                marks.append([0])
            begin = int(self._stream_starts[member]) - 1  # of its frame
            inside = slice(max(start - begin, 1), min(stop - begin, len(row["input_ids"]) - 1))
            ids.append(row["input_ids"][inside])
            marks.append(row["continuation"][inside])
        return {
            "index": index,
            "input_ids": np.concatenate([*ids, sep]),
            "continuation": np.concatenate([*marks, [0]]),
        }


class IsolatedRows(Rows):
    """Whole corpus rows side by side, each of them, and each document in rows joined already, a piece of its own."""

    def __init__(self, plain: PlainRows, length: int, first_token: int):
        self.corpus, self._first_token = plain.corpus, first_token
        lengths = np.asarray(plain.lengths)
        members, self._edges = fill_rows(lengths, length)
        self._indices = plain.indices[members]
        ends = np.append(0, np.cumsum(lengths[members]))
        self.lengths = np.diff(ends[self._edges])

    def _row(self, index: int) -> dict:
        members = self.corpus.rows(self._indices[slice(*self._edges[index : index + 2])])
        parts = [(row["input_ids"], row["continuation"]) for row in members]
        return {"index": index} | _side_by_side(parts, self._first_token)


def _side_by_side(parts: Sequence[tuple[np.ndarray, np.ndarray]], first_token: int) -> dict:
    """A row of parts, their ids and marks, each of them and what begins with first_token in it a piece of its own."""
    ids, marks = (np.concatenate(each) for each in zip(*parts, strict=True))
    begins = ids == first_token
    begins[np.cumsum([0] + [len(part) for part, _ in parts[:-1]])] = True
    return {"input_ids": ids, "continuation": marks, "pieces": np.diff(np.flatnonzero(begins), append=len(ids))}


def fill_rows(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Put items of these lengths, [N] from 1 to capacity, into few rows of `capacity`.

    The longest item left opens a row, and the longest that still fits joins it until none does; rows of the same
    lengths are made at once, so that the time hardly depends on N.

    Returns:
        members int64 [N], items of one row after the other; edges int64 [R + 1], where in members each row begins.
    """
    items = np.argsort(lengths, kind="stable")
    counts = np.bincount(lengths, minlength=capacity + 1)
    taken = np.cumsum(counts) - counts  # where in items the next one of each length stands
    members, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    while counts.any():
        pattern, room, left = [], capacity, counts.copy()
        while room and (fitting := np.flatnonzero(left[: room + 1])).size:
            pattern.append(int(fitting[-1]))
            left[pattern[-1]] -= 1
            room -= pattern[-1]
        chosen, uses = np.unique(pattern, return_counts=True)
        times = int((counts[chosen] // uses).min())
        columns = []
        for size, use in zip(chosen.tolist(), uses.tolist(), strict=True):
            columns.append(items[taken[size] : taken[size] + use * times].reshape(times, use))
            taken[size] += use * times
            counts[size] -= use * times
        members.append(np.concatenate(columns, axis=1).ravel())
        sizes.append(np.full(times, len(pattern)))
    return np.concatenate(members), np.append(0, np.cumsum(np.concatenate(sizes)))


class ConcatChunks(ChunkRows):
    """As ConcatRows, of a corpus of any size; rows end inside of a sentence where the slots would not do otherwise."""

    reach, frame = 64, 2

    def __init__(self, plain: PlainRows, length: int, backend: Tokenizer):
        self._frame, self.longest = special_frame(backend), length
        super().__init__(plain, length, length - 2, lambda some: ConcatRows(some, length, backend))
        self.tables = sentence_tables(backend)

    def plan(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
        """The stream of a chunk, ids and marks, and where rows start and stop in it.

        Without separators if the slots have no room for them.
        """
        starts, stops, goes_on = chunk.contents()
        separated = ~goes_on
        separated[:1] = False  # a row begins there
        ids, marks, cuts = self._stream(chunk, starts, stops, separated)
        if len(cuts) > chunk.slots:
            ids, marks, cuts = self._stream(chunk, starts, stops, separated & False)
        return ids, marks, sorted(cuts, key=lambda cut: cut[0] - cut[1])

    def _stream(self, chunk: Chunk, starts: np.ndarray, stops: np.ndarray, separated: np.ndarray) -> tuple:
        """As plan, in the stream's order. starts, stops: of contents; separated: bool, what a separator precedes."""
        sizes = stops - starts
        ends = np.cumsum(sizes + separated)
        sentences = row_sentence_starts(chunk.ids, chunk.marks, *self.tables)
        row = np.searchsorted(starts, sentences, side="right") - 1
        inside = (row >= 0) & (sentences > starts[row]) & (sentences < stops[row])
        begins = np.append(ends - sizes, (ends - stops)[row[inside]] + sentences[inside])
        befores = begins - np.append(separated, np.zeros(len(begins) - len(ends), bool))
        order = np.argsort(begins)
        taken = np.repeat(stops - np.cumsum(sizes), sizes) + np.arange(sizes.sum())
        breaks = (np.cumsum(sizes) - sizes)[separated]
        ids, marks = np.insert(chunk.ids[taken], breaks, self._frame[1]), np.insert(chunk.marks[taken], breaks, 0)
        cuts = cut_stream(begins[order].tolist(), befores[order].tolist(), len(ids), self.capacity, chunk.slots)
        return ids, marks, cuts

    def make_row(self, plan, slot: int) -> dict:
        ids, marks, cuts = plan
        inside, (cls, sep) = slice(*cuts[slot]), ([token] for token in self._frame)
        marks = np.concatenate([[0], marks[inside], [0]])
        marks[1] = 0
        return {"input_ids": np.concatenate([cls, ids[inside], sep]), "continuation": marks}


def cut_stream(begins: list[int], befores: list[int], total: int, capacity: int, count: int) -> list[tuple[int, int]]:
    """Cut a stream of `total` tokens into `count` rows: where each starts and stops. More if they have no room for it.

    Rows begin at `begins` where these allow it, the first of which is 0, and the one before ends at its `befores`.
    """
    for loss in (capacity, *_LOSSES):
        cuts = _fill(begins, befores, total, capacity, loss)
        if len(cuts) <= count:
            break
    while len(cuts) < count:
        longest = max(range(len(cuts)), key=lambda number: cuts[number][1] - cuts[number][0])
        start, stop = cuts[longest]
        middle = (start + stop) // 2
        near = bisect_left(begins, middle)
        at = min(
            ((befores[i], begins[i]) for i in (near - 1, near) if 0 <= i < len(begins) and start < begins[i] < stop),
            key=lambda cut: abs(cut[1] - middle),
            default=(middle, middle),
        )
        cuts[longest : longest + 1] = [(start, at[0]), (at[1], stop)]
    return cuts


def _fill(begins: list[int], befores: list[int], total: int, capacity: int, loss: int) -> list[tuple[int, int]]:
    """Rows as full as whole sentences let them be, and cut where they leave more than `loss` tokens empty."""
    cuts, start = [], 0
    while start + capacity < total:
        limit = start + capacity
        near = bisect_right(befores, limit) - 1
        stop, following = befores[near], begins[near]
        if stop <= start or (limit - stop > loss and following < limit):
            stop = following = limit
        cuts.append((start, stop))
        start = following
    return [*cuts, (start, total)]


class IsolatedChunks(ChunkRows):
    """As IsolatedRows, of a corpus of any size; a row of the corpus is cut where no slot has room for all of it."""

    slots = 256
    reach = 8

    def __init__(self, plain: PlainRows, length: int, first_token: int):
        self._first_token, self.longest = first_token, length
        super().__init__(plain, length, length, lambda some: IsolatedRows(some, length, first_token))

    def plan(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray, list[list[tuple[int, int]]]]:
        """ids and marks of a chunk, and of each row where its parts start and stop in them."""
        starts, stops = np.maximum(chunk.begins, 0), np.minimum(chunk.ends, len(chunk.ids))
        bins = fill_bins((stops - starts).tolist(), self.capacity, chunk.slots)
        rows = [[(int(starts[item]) + first, size) for item, first, size in parts] for parts in bins]
        return chunk.ids, chunk.marks, sorted(rows, key=lambda parts: -sum(size for _, size in parts))

    def make_row(self, plan, slot: int) -> dict:
        ids, marks, rows = plan
        parts = []
        for first, size in rows[slot]:
            mark = marks[first : first + size].copy()
            mark[0] = 0
            parts.append((ids[first : first + size], mark))
        return _side_by_side(parts, self._first_token)


def fill_bins(lengths: list[int], capacity: int, count: int) -> list[list[tuple[int, int, int]]]:
    """Put items, of at most count x capacity tokens, into `count` bins: which item, from which token on, how many.

    The longest first, each where it leaves least room; an item that none has room for is cut.
    """
    bins: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
    rooms, left = [(capacity, number) for number in range(count)], []  # rooms increase
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        at = bisect_left(rooms, (lengths[item],))
        if at == count:
            left.append(item)
        else:
            room, number = rooms.pop(at)
            bins[number].append((item, 0, lengths[item]))
            insort(rooms, (room - lengths[item], number))
    for item in left:
        first = 0
        while first < lengths[item]:
            room, number = rooms.pop()
            size = min(room, lengths[item] - first)
            bins[number].append((item, first, size))
            insort(rooms, (room - size, number))
            first += size
    for parts in bins:
        if not parts:
            giver = max(bins, key=lambda other: (len(other), max((size for _, _, size in other), default=0)))
            item, first, size = giver.pop()
            kept = 0 if giver else size // 2
            giver += [(item, first, kept)] * bool(kept)
            parts.append((item, first + kept, size - kept))
    return bins
