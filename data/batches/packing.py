"""Which tokens make up a training row: a row of the corpus as it is, several laid end to end, or several kept apart.

concat is RoBERTa's FULL-SENTENCES (Liu et al. 2019, arXiv 1907.11692, section 4.2): whole sentences in the order of
the corpus, across documents, with a separator between two of these. isolated fills a row with whole corpus rows by
longest-pack-first histogram packing (Krell et al. 2021, arXiv 2107.02027); a model sees each as if it were alone.
Neither loses or repeats a token, and both depend on the corpus and the chosen rows alone.

Letters: N rows of the corpus that are used, R rows that come of them, t tokens of one of these, V vocabulary.
"""

import logging
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from data.corpus.sentences import row_sentence_starts, sentence_tables
from data.corpus.store import Corpus, CorpusError
from data.tokens.tokenizer_files import special_frame

logger = logging.getLogger(__name__)

HELD_OUT_SEED = 0  # the same documents and masks are evaluated on, whatever the seed of the run


class Rows:
    """Rows to train on, made of some rows of a corpus; a subclass says how.

    Attributes: corpus; lengths int64 [R], tokens of each row.
    """

    corpus: Corpus
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, indices) -> list[dict]:
        """Rows by index -> dicts: index (int, what random draws for the row depend on), input_ids, continuation [t].

        Isolated rows also have pieces, int64: the lengths of the parts that must not see each other; they sum to t.
        """
        return [self._row(index) for index in np.asarray(indices, np.int64).tolist()]

    def _row(self, index: int) -> dict:
        raise NotImplementedError


class PlainRows(Rows):
    """Some rows of a corpus as they are, which keep the index that they have there.

    Attributes: indices int64 [N], increasing, of the rows in the corpus.
    """

    def __init__(self, corpus: Corpus, indices: np.ndarray):
        self.corpus, self.indices = corpus, np.asarray(indices, np.int64)
        self.lengths = corpus.lengths[self.indices].astype(np.int64)

    def rows(self, indices) -> list[dict]:
        return self.corpus.rows(self.indices[np.asarray(indices, np.int64)])


def load_rows(
    train_dir: str, validation_dir: str | None, validation_split: float | None, backend: Tokenizer
) -> tuple[PlainRows, PlainRows | None]:
    """Training rows, and held-out rows if there are any. CorpusError unless this tokenizer made the corpora."""

    def load(folder, flag):
        corpus = Corpus(folder, flag)
        corpus.check_tokenizer(backend, "--tokenizer_name")
        if not len(corpus):
            raise CorpusError(f"{flag} {folder} must hold text, got an empty corpus; prepare it from other input")
        return corpus

    corpus = load(train_dir, "--train_dir")
    if validation_split is not None:
        train, held_out = corpus.split_documents(validation_split, HELD_OUT_SEED)
        return PlainRows(corpus, train), PlainRows(corpus, held_out)
    every = PlainRows(corpus, np.arange(len(corpus)))
    if validation_dir is None:
        return every, None
    held_out = load(validation_dir, "--validation_dir")
    return every, PlainRows(held_out, np.arange(len(held_out)))


def check_maskable(rows: PlainRows, special_ids: list[int], flag: str) -> None:
    """CorpusError naming `flag` when all tokens of the rows are special or unknown, so that there is nothing to mask.

    The shards are looked at one by one, up to the first that has a token to mask.
    """
    for first_row, ids, _, offsets in rows.corpus.shards():
        used = np.zeros(len(offsets) - 1, bool)
        used[in_shard(rows.indices, first_row, len(used))] = True
        if (np.repeat(used, np.diff(offsets)) & ~np.isin(ids, special_ids)).any():
            return
    raise CorpusError(
        f"{flag} must hold tokens to mask, got only special and unknown ones in {rows.corpus.folder}; prepare the "
        "corpus with a tokenizer that knows its text"
    )


def in_shard(indices: np.ndarray, first_row: int, rows: int) -> np.ndarray:
    """Those of some indices of corpus rows, increasing, that lie in a shard, counted from its first row."""
    begin, end = np.searchsorted(indices, [first_row, first_row + rows])
    return indices[begin:end] - first_row


def pack(rows: PlainRows, packing: str, length: int | None, backend: Tokenizer) -> Rows:
    """The training rows that --packing (none, concat or isolated) makes of some rows of a corpus.

    length: most tokens of a row, by default those that the corpus was prepared for.
    Rows that create_data.py has joined already stay as they are under concat.
    CorpusError when a row of the corpus is longer, or the tokenizer does not set one token on either side of a text.
    """
    corpus = rows.corpus
    longest = int(rows.lengths.max(initial=0))
    if length is None:
        length = max(longest, corpus.manifest.get("settings", {}).get("max_seq_length", 0))
    if length < longest:
        raise CorpusError(
            f"--max_seq_length must be at least the {longest} tokens of the longest row of {corpus.folder}, got "
            f"{length}; raise it or prepare the corpus with shorter rows"
        )
    if packing == "none":
        return rows
    frame = special_frame(backend)
    if len(frame) != 2:
        raise CorpusError(
            f"--packing {packing} needs a tokenizer with one token before a text and one after it, got {len(frame)} "
            "in all; use --packing none"
        )
    if packing == "isolated":
        return IsolatedRows(rows, length, frame[0])
    return rows if corpus.is_grouped else ConcatRows(rows, length, backend)


class ConcatRows(Rows):
    """[CLS] sentences [SEP] sentences of the next document [SEP]: as many sentences as fit into `length` tokens.

    The rows are cut from a stream of all chosen corpus rows without their frames, with a separator before each
    document. They begin where a corpus row or a sentence does, right behind the separator if there is one.
    """

    def __init__(self, plain: PlainRows, length: int, backend: Tokenizer):
        self.corpus, self._indices = plain.corpus, plain.indices
        self._frame = special_frame(backend)
        same_document = np.diff(self.corpus.documents[self._indices], prepend=-1) == 0
        goes_on = np.diff(self._indices, prepend=-2) == 1
        self._separated = ~(same_document & goes_on)  # bool [N]: begins a document, or goes on after a gap
        sizes = plain.lengths - 2
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
        members, self._edges = fill_rows(plain.lengths, length)
        self._indices = plain.indices[members]
        ends = np.append(0, np.cumsum(plain.lengths[members]))
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
