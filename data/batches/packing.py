"""Training rows of several rows of a corpus: laid end to end, or kept apart.

concat is RoBERTa's FULL-SENTENCES (Liu et al. 2019, arXiv 1907.11692, section 4.2): whole sentences in the order of
the corpus, across documents, with a separator between two of these. isolated fills a row with whole corpus rows by
longest-pack-first histogram packing (Krell et al. 2021, arXiv 2107.02027); a model sees each as if it were alone.
Neither loses or repeats a token, and both depend on the corpus and the chosen rows alone.

Letters: N rows of the corpus that are used, R rows that come of them, t tokens of one of these, V vocabulary.
"""

from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from data.batches.sampling import PlainRows, Rows, in_shard
from data.corpus.arrow_shards import CorpusError
from data.corpus.sentences import row_sentence_starts, sentence_tables
from data.tokens.tokenizer_files import special_frame


def pack(rows: PlainRows, packing: str, length: int, backend: Tokenizer) -> Rows:
    """The training rows of at most `length` tokens that --packing (concat or isolated) makes of some rows of a corpus.

    Rows that create_data.py has joined already stay as they are under concat.
    CorpusError when the tokenizer does not set one token on either side of a text.
    """
    frame = special_frame(backend)
    if len(frame) != 2:
        raise CorpusError(
            f"--packing {packing} needs a tokenizer with one token before a text and one after it, got {len(frame)} "
            "in all; use --packing none"
        )
    if packing == "isolated":
        return IsolatedRows(rows, length, frame[0])
    return rows if rows.corpus.is_grouped else ConcatRows(rows, length, backend)


class ConcatRows(Rows):
    """[CLS] sentences [SEP] sentences of the next document [SEP]: as many sentences as fit into `length` tokens.

    The rows are cut from a stream of all chosen corpus rows without their frames, with a separator before each
    document. They begin where a corpus row or a sentence does, right behind the separator if there is one.
    """

    def __init__(self, plain: PlainRows, length: int, backend: Tokenizer):
        self.corpus, self._indices = plain.corpus, np.asarray(plain.indices)
        self._frame = special_frame(backend)
        same_document = np.diff(self.corpus.documents[self._indices], prepend=-1) == 0
        goes_on = np.diff(self._indices, prepend=-2) == 1
        self._separated = ~(same_document & goes_on)  # bool [N]: begins a document, or goes on after a gap
        sizes = np.asarray(plain.lengths) - 2
        self._stream_ends = np.cumsum(sizes + self._separated)  # int64 [N]
        self._stream_starts = self._stream_ends - sizes
        self._starts, self._stops = self._cut(length - 2, *sentence_tables(backend))  # int64 [R] each
        self.lengths = self._stops - self._starts + 2

    def _cut(self, capacity: int, ends: np.ndarray, opens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rows begin and end in the stream."""
        starts, stops = [], []
        begins, separated = np.zeros(0, np.int64), np.zeros(0, bool)
        for more, more_separated, stream_end in self._possible_begins(ends, opens):
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

    def _possible_begins(self, ends: np.ndarray, opens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """By shard: where a row may begin (int64, increasing), whether after a separator, and the end of the stream.

        A shard at a time, because the sentences of a large corpus do not fit into memory.
        """
        for first_row, ids, marks, offsets in self.corpus.shards():
            local = in_shard(self._indices, first_row, len(offsets) - 1)
            if not len(local):
                continue
            first = int(np.searchsorted(self._indices, first_row))
            chosen = slice(first, first + len(local))
            sentences = row_sentence_starts(ids, marks, ends, opens)
            row = np.searchsorted(local, np.searchsorted(offsets, sentences, side="right") - 1)
            used = local[np.minimum(row, len(local) - 1)]
            within = sentences - offsets[used] - 1
            inside = (within > 0) & (within < offsets[used + 1] - offsets[used] - 2)
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
        ids, marks = (np.concatenate([row[name] for row in members]) for name in ("input_ids", "continuation"))
        begins = ids == self._first_token
        begins[np.cumsum([0] + [len(row["input_ids"]) for row in members[:-1]])] = True
        pieces = np.diff(np.flatnonzero(begins), append=len(ids))
        return {"index": index, "input_ids": ids, "continuation": marks, "pieces": pieces}


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
