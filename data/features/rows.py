"""Rows of token features: distinct texts tokenised once each, and pieces of them laid together a batch at a time.

A row is what one prediction is made from: one sequence, or for multiple choice one sequence for each choice. A record
whose text is longer than a row gets several rows at evaluation. Only the texts are kept; a row is laid out when it is
asked for, because ten choices of ChID or four of C3 share most of their tokens. The ids are those of the tokenizer
itself; what it sets around and between two texts is asked from it once, so that a row is what transformers'
tokenizer(text_a, text_b) gives.

Letters: N records, R rows, S sequences (what a model reads at once), P parts of one, T tokens of all, t of a row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from common.errors import UserError
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
        """Of some sequences; int64 indices or a mask."""
        return Slices(self.flat, self.begins[chosen], self.counts[chosen])

    def array(self, sequence: int) -> np.ndarray:
        begin = int(self.begins[sequence])
        return self.flat[begin : begin + int(self.counts[sequence])]


def index_runs(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
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
        ids[index_runs(start, part.counts)] = part.flat[index_runs(part.begins, part.counts)]
    return ids, np.repeat(np.tile(marks, len(counts)), counts.ravel()), counts.sum(1)


class Texts:
    """Distinct texts without special tokens.

    Attributes: ids int32 [T]; spans int32 [T, 2], first character of a token in its text and one past its last.
    """

    def __init__(self, backend: Tokenizer, texts: Iterable[str]):
        distinct = list(dict.fromkeys(texts))
        self._indices = {text: index for index, text in enumerate(distinct)}
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
        self.ids, self.spans, self._counts = (np.concatenate(parts) for parts in (ids, spans, counts))
        self._begins = np.cumsum(self._counts) - self._counts

    def slices(self, texts: Iterable[str]) -> Slices:
        """The ids of these texts, which must be among those given at the start."""
        chosen = np.array([self._indices[text] for text in texts], np.int64)
        return Slices(self.ids, self._begins[chosen], self._counts[chosen])


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
    for index in range(len(texts)):
        (inside,) = np.nonzero(owners == index)
        edges += [int(inside[0]), int(inside[-1]) + 1]
    edges.append(len(ids))
    pieces = [slice(*edge) for edge in pairwise(edges)]
    specials = tuple(ids[piece] for piece in pieces[::2])
    marks = tuple(int(types[piece][0]) if types[piece] else 0 for piece in pieces)
    return specials, marks


@dataclass(frozen=True)
class Building:
    """What every layout needs to know.

    frame: of the tokenizer. max_length: tokens of a row, special ones included. windowed: give a long record several
    rows instead of cutting it. training: labels must be there. token_types: rows carry token_type_ids. label_ids:
    label name -> model output. overlap: tokens that neighbouring windows of a question's context share.
    """

    tokenizer: object
    frame: Frame
    max_length: int
    windowed: bool
    training: bool
    token_types: bool
    label_ids: Mapping[str, int]
    overlap: int

    def texts(self, texts) -> Texts:
        return Texts(self.tokenizer.backend_tokenizer, texts)

    def room(self, paired: bool = True) -> int:
        """Tokens of a row without the special ones; ValueError unless two fit."""
        specials = sum(map(len, self.frame.pair if paired else self.frame.single))
        if self.max_length < specials + 2:
            raise UserError(f"--max_seq_length must be at least {specials + 2}, got {self.max_length}; raise it")
        return self.max_length - specials


@dataclass
class Features:
    """Rows of one split.

    kind: of the task. records: N. record: int64 [R], which record a row belongs to, not decreasing.
    parts, marks: pieces of each sequence in order and their token types (marks is None: rows carry none).
    bounds: int64 [R + 1], the sequences of each row; None when it is one.
    labels: [R] by row, int64 or float32; None when a record has none.
    truncated: share of the records that were cut, or that got several rows.
    """

    kind: str
    records: int
    record: np.ndarray
    parts: tuple[Slices, ...]
    marks: tuple[int, ...] | None
    truncated: float
    bounds: np.ndarray | None = None
    labels: np.ndarray | None = None

    def __post_init__(self):
        sizes = sum(part.counts for part in self.parts)
        self.lengths = sizes if self.bounds is None else np.maximum.reduceat(sizes, self.bounds[:-1])

    def __len__(self) -> int:
        return len(self.record)

    def __getitem__(self, row: int) -> dict:
        return self.rows([row])[0]

    def rows(self, indices: Sequence[int]) -> list[dict]:
        """Rows by index, as dicts of integer arrays.

        input_ids and, if the model takes them, token_type_ids [t], of multiple choice lists of these; where they are
        known labels (a number, of tagging [t]), or start_positions and end_positions.
        """
        indices = np.asarray(indices, np.int64)
        if self.bounds is None:
            counts, sequences = np.ones(len(indices), np.int64), indices
        else:
            counts = (self.bounds[1:] - self.bounds[:-1])[indices]
            sequences = np.concatenate([np.arange(*self.bounds[row : row + 2]) for row in indices.tolist()])
        arrays = self._arrays(sequences)
        if self.bounds is not None:
            edges = np.cumsum(counts)[:-1].tolist()
            arrays = {name: _split(array, edges) for name, array in arrays.items()}
        rows = [dict(zip(arrays, values, strict=True)) for values in zip(*arrays.values(), strict=True)]
        for index, row in zip(indices.tolist(), rows, strict=True):
            row |= self._targets(index, row)
        return rows

    def _arrays(self, sequences: np.ndarray) -> dict[str, list[np.ndarray]]:
        ids, types, lengths = lay_out([part[sequences] for part in self.parts], self.marks or (0,) * len(self.parts))
        edges = np.cumsum(lengths)[:-1]
        arrays = {"input_ids": np.split(ids, edges)}
        if self.marks is not None:
            arrays["token_type_ids"] = np.split(types, edges)
        return arrays

    def _targets(self, index: int, row: dict) -> dict:
        return {} if self.labels is None else {"labels": self.labels[index].tolist()}

    def combine(self, logits: Sequence[np.ndarray]):
        """See data/features/build.py."""
        if self.kind == "multiple_choice":
            counts = np.diff(self.bounds)
            rows = [np.asarray(row, np.float64)[:count] for row, count in zip(logits, counts.tolist(), strict=True)]
            by_record = np.split(np.arange(len(rows)), self._first_rows()[1:])
            return [np.mean([rows[row] for row in here], axis=0).astype(np.float32) for here in by_record]
        scores = np.asarray(logits, np.float64).reshape(len(self), -1)
        first = self._first_rows()
        means = np.add.reduceat(scores, first) / np.diff(first, append=len(self))[:, None]
        return means.astype(np.float32)[:, 0] if self.kind == "regression" else means.astype(np.float32)

    def _first_rows(self) -> np.ndarray:
        """The first row of each record; every record has one."""
        return np.searchsorted(self.record, np.arange(self.records))


def _split(items: list, edges: list[int]) -> list[list]:
    return [items[begin:end] for begin, end in zip([0, *edges], [*edges, len(items)], strict=True)]


def row_labels(task, records: Sequence[dict], building: Building) -> np.ndarray | None:
    """Labels [N] as the model wants them, int64 or (regression) float32, of several labels [N, C] float32 of 0 and 1;
    None when a record has none.

    ValueError when it is to be trained on, and for a label that the model does not know.
    """
    labels = [record["label"] for record in records]
    if None in labels:
        must_be_labelled(task, records[labels.index(None)], building)
        return None
    if task.kind == "regression":
        return np.array(labels, np.float32)
    if task.kind == "multi_label":
        numbers = [[label_id(name, building.label_ids) for name in names] for names in labels]
        return np.array([np.isin(range(len(building.label_ids)), own) for own in numbers], np.float32)
    if task.kind == "classification":
        labels = [label_id(label, building.label_ids) for label in labels]
    return np.array(labels, np.int64)


def must_be_labelled(task, record: dict, building: Building) -> None:
    """ValueError in training."""
    if building.training:
        raise UserError(f"record {record['id']} of {task.name} must have a label to train on; take it out")


def label_id(label: str, label_ids: Mapping[str, int]) -> int:
    if label not in label_ids:
        raise UserError(f"label {label} must be one that the model knows, {', '.join(label_ids)}; finetune it anew")
    return label_ids[label]
