"""Token ids of many texts, each distinct text tokenised once, and the rows that are laid together from slices of them.

The ids are those of the tokenizer itself; what it sets around and between two texts is asked from it once and set by
rows, so that a row is what transformers' tokenizer(text_a, text_b) gives.

Letters: T tokens of all texts, S sequences (what a model reads at once), P parts of a sequence.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from data.tokens.fast_tokenizer import FastTokenizer

_BATCH = 1 << 18  # characters that are tokenised at once


class Slices(NamedTuple):
    """One piece of a long array for each sequence: flat[begins[s] : begins[s] + counts[s]]."""

    flat: np.ndarray
    begins: np.ndarray  # int64 [S]
    counts: np.ndarray  # int64 [S]

    @classmethod
    def constant(cls, items: Sequence[int], sequences: int) -> "Slices":
        """The same items for each of this many sequences."""
        begins, counts = (np.broadcast_to(np.int64(value), sequences) for value in (0, len(items)))
        return cls(np.array(items, np.int32), begins, counts)

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> "Slices":
        """One array of int32 for each sequence."""
        counts = np.fromiter(map(len, arrays), np.int64, len(arrays))
        flat = np.concatenate([np.zeros(0, np.int32), *arrays])
        return cls(flat, np.cumsum(counts) - counts, counts)

    def __getitem__(self, chosen) -> "Slices":
        """Of some sequences; int64 numbers or a mask."""
        return Slices(self.flat, self.begins[chosen], self.counts[chosen])

    def array(self, sequence: int) -> np.ndarray:
        begin = int(self.begins[sequence])
        return self.flat[begin : begin + int(self.counts[sequence])]


def places(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """begins[0], begins[0] + 1, ... of counts[0] items, then those of the next one; int64."""
    return np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def lay_out(parts: Sequence[Slices], marks: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay the parts of each sequence end to end.

    Returns:
        ids int32 [T] of all sequences, marks int64 [T]: the mark of the part that an id comes from, lengths int64 [S].
    """
    counts = np.stack([part.counts for part in parts], axis=1)  # [S, P]
    ends = np.cumsum(counts)
    starts = (ends - counts.ravel()).reshape(counts.shape)
    ids = np.empty(ends[-1] if len(ends) else 0, np.int32)
    for part, start in zip(parts, starts.T, strict=True):
        ids[places(start, part.counts)] = part.flat[places(part.begins, part.counts)]
    return ids, np.repeat(np.tile(marks, len(counts)), counts.ravel()), counts.sum(1)


class Texts:
    """Distinct texts without special tokens.

    Attributes: ids int32 [T]; spans int32 [T, 2], first character of a token in its text and one past its last.
    """

    def __init__(self, backend: Tokenizer, texts: Iterable[str]):
        distinct = list(dict.fromkeys(texts))
        self._numbers = {text: number for number, text in enumerate(distinct)}
        backend.no_padding()
        backend.no_truncation()
        tokenizer = FastTokenizer(backend)
        ids, spans, counts = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int32)], [np.zeros(0, np.int64)]
        for batch in _batches(distinct):
            joined = "\n".join(batch)
            tokens = tokenizer.encode(batch, joined, np.frombuffer(joined.encode("utf-32-le"), np.uint32))
            starts = np.cumsum([0] + [len(text) + 1 for text in batch])
            sizes = np.diff(np.searchsorted(tokens.first, starts))
            ids.append(tokens.ids)
            spans.append(np.stack([tokens.first, tokens.last + 1], 1) - np.repeat(starts[:-1], sizes)[:, None])
            counts.append(sizes)
        self.ids, self.spans, self._counts = (np.concatenate(found) for found in (ids, spans, counts))
        self._begins = np.cumsum(self._counts) - self._counts

    def slices(self, texts: Iterable[str]) -> Slices:
        """The ids of these texts, which must be among those given at the start."""
        numbers = np.array([self._numbers[text] for text in texts], np.int64)
        return Slices(self.ids, self._begins[numbers], self._counts[numbers])


def _batches(texts: list[str]) -> Iterable[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text) + 1
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Frame(NamedTuple):
    """What a tokenizer sets around a text, or around and between two, with the token types of all parts."""

    single: tuple[list[int], list[int]]  # before, after
    single_marks: tuple[int, int, int]
    pair: tuple[list[int], list[int], list[int]]  # before, between, after
    pair_marks: tuple[int, int, int, int, int]


def frame_of(tokenizer) -> Frame:
    """Ask a fast tokenizer of transformers."""
    return Frame(*_frame(tokenizer, "0"), *_frame(tokenizer, "0", "0"))


def _frame(tokenizer, *texts: str) -> tuple[tuple, tuple]:
    encoded = tokenizer(*texts, return_token_type_ids=True, padding=False, truncation=False)
    owners = np.array([-1 if owner is None else owner for owner in encoded.sequence_ids(0)])
    ids, types = encoded["input_ids"], encoded["token_type_ids"]
    edges = [0]
    for number in range(len(texts)):
        (inside,) = np.nonzero(owners == number)
        edges += [int(inside[0]), int(inside[-1]) + 1]
    edges.append(len(ids))
    pieces = [slice(*edge) for edge in pairwise(edges)]
    specials = tuple(ids[piece] for piece in pieces[::2])
    marks = tuple(int(types[piece][0]) if types[piece] else 0 for piece in pieces)
    return specials, marks
