"""Training rows of a corpus of any size, made of a chunk of it where they are asked for: no array over its rows.

A shard's rows are weighed by their tokens, and by what a row costs besides; a weight of `unit` is one training row, so
that the manifest tells how many rows each shard gives and at which weights its chunks of some slots begin. A chunk
gives exactly as many rows as it has slots, whatever lies in it: every token is in one of them, and which row has which
index needs a look at nothing else. What a row costs is set by a sample, of which rows are made as of a small corpus,
so that those of chunks are as many and as full.

Letters: K slots of a chunk; C tokens that a row can hold.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np

from data.batches.sampling import PlainRows, Rows, permuted
from data.corpus.arrow_shards import CorpusError
from data.corpus.sentences import row_sentence_starts
from data.corpus.store import AllBut, Corpus, Shard

_RANKS = 64  # of the rows of a chunk by length
_PART = 256  # of a token, in which weights are counted
_SAMPLES, _SAMPLE = 19, 32  # stream of draws of the sampled places, and how many there are
_SAMPLE_ROWS = 512  # training rows' worth of tokens from each of them
_SMALL_SHARD = 1 << 20  # bytes up to which a shard's tokens are counted; those of a larger one follow from its size
_KEPT = 16  # chunks that a process keeps, of which one made rows lately


class Chunk:
    """Used rows of a shard, cut at both ends where the chunk begins and ends.

    Attributes: number, among all chunks; slots; ids, marks [t], views of the shard; first, the place of ids[0] there;
    begins, ends int64 [n], of each used row within ids (outside where the chunk cuts it); rows int64 [n], its number
    in the shard; goes_on bool [n], whether the row before it is used and of the same document.
    """

    def __init__(self, number: int, slots: int, shard: Shard, held: np.ndarray, start: int, stop: int):
        self.number, self.slots, self.first = number, slots, start
        self.ids, self.marks = shard.ids[start:stop], shard.marks[start:stop]
        low = int(np.searchsorted(shard.offsets, start, side="right")) - 1
        high = int(np.searchsorted(shard.offsets, stop, side="left"))
        self.rows = np.setdiff1d(np.arange(low, high), held, assume_unique=True)
        self.begins, self.ends = (shard.offsets[self.rows + more].astype(np.int64) - start for more in (0, 1))
        documents = shard.documents[self.rows]
        self.goes_on = (np.diff(self.rows, prepend=-2) == 1) & (np.diff(documents, prepend=-1) == 0)

    def contents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each row that has any starts and stops in ids without its frame, and goes_on of these."""
        starts, stops = np.maximum(self.begins + 1, 0), np.minimum(self.ends - 1, len(self.ids))
        kept = stops > starts
        return starts[kept], stops[kept], self.goes_on[kept]


class _Used:
    """The used rows of a shard, numbered through: their weights up to each."""

    def __init__(self, shard: Shard, held: np.ndarray, held_tokens: np.ndarray, row_cost: int):
        """held: numbers of the rows left out, int64; held_tokens: of them up to each, and of all."""
        self.shard, self.held, self.size = shard, held, len(shard.documents) - len(held)
        self._before, self._held_tokens, self._row_cost = held - np.arange(len(held)), held_tokens, row_cost
        self.total = _PART * (int(shard.offsets[-1]) - int(held_tokens[-1])) + row_cost * self.size

    def weight(self, used: int) -> int:
        """Of all used rows before this one."""
        skipped = int(np.searchsorted(self._before, used, side="right")) if len(self._before) else 0
        tokens = int(self.shard.offsets[used + skipped]) - int(self._held_tokens[skipped])
        return _PART * tokens + self._row_cost * used

    def place_of(self, weight: int) -> tuple[int, int, int]:
        """The token at a weight below the total, and where its row begins and ends: places in the shard."""
        used = bisect_right(range(self.size), weight, key=self.weight) - 1
        row = used + int(np.searchsorted(self._before, used, side="right"))
        begin, end = self.shard.offsets[row : row + 2].tolist()
        return min(begin + (weight - self.weight(used)) // _PART, end), begin, end


class ChunkRows(Rows):
    """Rows that chunks of a corpus give; a subclass says which.

    Attributes: slots, K (a shard's only chunk may have fewer, others less than twice as many); capacity, C; reach,
    tokens that the edge of a chunk may move for the next sentence, or word without `tables` (sentence_tables); frame,
    tokens of a row of the corpus that take no room; loses_nothing, whether rows hold every other token; longest, most
    tokens of a row of the corpus, None for any number.
    """

    slots = 64
    reach = frame = 0
    loses_nothing = True
    longest: int | None = None
    tables: tuple[np.ndarray, np.ndarray] | None = None

    def __init__(self, plain: PlainRows, length: int, capacity: int, made_whole: Callable[[PlainRows], Rows]):
        """plain: with indices of AllBut; length: most tokens of a row; made_whole: makes rows with arrays of them."""
        self.corpus, self.capacity = plain.corpus, capacity
        self._held = plain.indices.without
        self._held_tokens = np.append(0, np.cumsum(self.corpus.lengths_of(self._held)))
        self._held_edges = np.searchsorted(self._held, self.corpus.first_rows)
        sample = _sample(plain, capacity)
        if self.longest is not None and (longest := int(np.asarray(sample.lengths).max())) > self.longest:
            raise CorpusError(
                f"--max_seq_length must be at least the {longest} tokens of a row of {self.corpus.folder}, got "
                f"{length}; raise it or prepare the corpus with shorter rows"
            )
        self._weigh(sample, made_whole(sample))
        self._slots = self._count()  # int64 of each shard
        self._chunks = np.where(self._slots, np.maximum(1, self._slots // self.slots), 0)
        self._first_slots, self._first_chunks = (np.append(0, np.cumsum(each)) for each in (self._slots, self._chunks))
        self.lengths = ChunkLengths(self, length)
        self._plans: dict[int, Any] = {}  # the oldest first

    def _weigh(self, sample: PlainRows, made: Rows) -> None:
        """What a row of the corpus weighs besides its tokens, and what a training row weighs."""
        lengths = np.sort(np.asarray(made.lengths))[::-1]
        places = (np.arange(_RANKS) + 0.5) / _RANKS * len(lengths)
        self.mean_length, self.typical = float(lengths.mean()), lengths[places.astype(np.int64)]
        tokens, rows = int(np.asarray(sample.lengths).sum()), len(sample)
        room = _PART * self.capacity - _PART * (self.reach + 2) // self.slots  # but for what edges move
        least = -_PART * self.frame
        self._row_cost = max(least, (room * len(lengths) - _PART * tokens) // rows)
        is_denser = self._row_cost == least and not self.loses_nothing
        self._unit = (_PART * tokens + least * rows) // len(lengths) if is_denser else room

    def _count(self) -> np.ndarray:
        """Training rows of each shard."""
        maps, rows = self.corpus.maps, np.diff(self.corpus.first_rows)
        tokens = np.array([self._tokens_of(number) for number in range(len(maps))], np.int64)
        used = rows - np.diff(self._held_edges)
        weights = _PART * (tokens - np.diff(self._held_tokens[self._held_edges])) + self._row_cost * used
        return np.where(used > 0, -(-weights // self._unit), 0)

    def _tokens_of(self, number: int) -> int:
        """Of a shard, or hardly more."""
        size, rows = self.corpus.maps.size_of(number), self.corpus.maps.rows[number]
        if size <= _SMALL_SHARD:
            return int(self.corpus.maps[number].offsets[-1])
        return int((size - 16 * rows) // self.corpus.token_bytes)

    def __len__(self) -> int:
        return int(self._first_slots[-1])

    def places_of(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows by index -> their shards, chunks of these, slots of the chunks, and how many slots these have."""
        shards = np.searchsorted(self._first_slots, indices, side="right") - 1
        within, slots, chunks = indices - self._first_slots[shards], self._slots[shards], self._chunks[shards]
        chunk = ((within + 1) * chunks - 1) // slots
        first, stop = chunk * slots // chunks, (chunk + 1) * slots // chunks
        return shards, chunk, within - first, stop - first

    def chunk(self, number: int, index: int) -> Chunk:
        """The index-th chunk of a shard."""
        edges = slice(*self._held_edges[number : number + 2].tolist())
        held = self._held[edges] - self.corpus.first_rows[number]
        held_tokens = self._held_tokens[edges.start : edges.stop + 1] - self._held_tokens[edges.start]
        shard, slots, chunks = self.corpus.maps[number], int(self._slots[number]), int(self._chunks[number])
        used = _Used(shard, held, held_tokens, self._row_cost)
        first, stop = index * slots // chunks, (index + 1) * slots // chunks
        start, end = (self._edge(used, edge * used.total // slots) for edge in (first, stop))
        chunk = Chunk(int(self._first_chunks[number]) + index, stop - first, shard, held, start, end)
        if not 0 <= start < end <= len(shard.ids) or (chunk.ends < chunk.begins).any():
            raise self.corpus.maps.damaged(number, "rows that end before they begin")
        return chunk

    def _edge(self, used: _Used, weight: int) -> int:
        """Where in a shard the chunk that a weight begins does: at a row, sentence or word, not far behind it."""
        if weight >= used.total:
            return int(used.shard.offsets[-1])
        place, begin, end = used.place_of(weight)
        if place <= begin + 1 or weight == 0:
            return begin
        near = slice(place, min(place + self.reach + 1, end - 1))
        marks = used.shard.marks[near]
        if self.tables is None:
            nearest = np.flatnonzero(marks == 0)
        else:
            row = slice(begin, end)
            nearest = row_sentence_starts(used.shard.ids[row], used.shard.marks[row], *self.tables) + begin - place
            nearest = nearest[(nearest >= 0) & (nearest < len(marks))]
        if len(nearest):
            return place + int(nearest[0])
        return end if place + self.reach >= end - 1 else place

    def _row(self, index: int) -> dict:
        (shard,), (chunk,), (slot,), _ = (each.tolist() for each in self.places_of(np.array([index])))
        number = int(self._first_chunks[shard]) + chunk
        if number not in self._plans:
            while len(self._plans) >= _KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[number] = self.plan(self.chunk(shard, chunk))
        return {"index": index} | self.make_row(self._plans[number], slot)

    def plan(self, chunk: Chunk):
        """What make_row makes the rows of a chunk of, as many as it has slots, the longest first."""
        raise NotImplementedError

    def make_row(self, plan, slot: int) -> dict:
        """As _row of Rows, without the index."""
        raise NotImplementedError

    @property
    def ranked_lengths(self) -> "TypicalLengths":
        return TypicalLengths(self)


class ChunkLengths:
    """Tokens of rows made of chunks, each worked out where it is asked for; the longest is what a row may have, the
    mean that of a sample."""

    is_small = False
    looked_at = 128  # rows that tell the share of padding: each takes a chunk

    def __init__(self, rows: ChunkRows, length: int):
        self._rows, self._length = rows, length

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places) -> np.ndarray:
        """int64 places -> int64 tokens."""
        places = np.asarray(places, np.int64)
        lengths = [len(row["input_ids"]) for row in self._rows.rows(places.ravel())]
        return np.array(lengths, np.int64).reshape(places.shape)

    def max(self) -> int:
        return self._length

    def mean(self) -> float:
        return self._rows.mean_length


class TypicalLengths:
    """What a row of its rank in its chunk has of tokens in the sample: rows are sorted by it, for nothing."""

    def __init__(self, rows: ChunkRows):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places) -> np.ndarray:
        """int64 places -> int64 tokens."""
        _, _, slots, of = self._rows.places_of(np.asarray(places, np.int64))
        return self._rows.typical[slots * _RANKS // of]


def by_chunks(plain: PlainRows, wanted: bool) -> bool:
    """Whether training rows of these are made by chunks: those of a corpus that is not small, if the run does so."""
    return wanted and isinstance(plain.indices, AllBut) and not plain.corpus.maps.is_small


def _sample(plain: PlainRows, capacity: int) -> PlainRows:
    """Some used rows that follow each other, from several places that depend on their number alone."""
    corpus: Corpus = plain.corpus
    count = max(1, round(_SAMPLE_ROWS * capacity / max(1.0, corpus.mean_length)))
    places = permuted(np.arange(min(_SAMPLE, len(plain))), len(plain), 0, np.zeros(min(_SAMPLE, len(plain))), _SAMPLES)
    some = np.unique(places[:, None] + np.arange(count))
    return PlainRows(corpus, plain.indices[some[some < len(plain)]])
