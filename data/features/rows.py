"""Rows of token features: pieces of tokenised texts, laid together a batch at a time.

A row is what one prediction is made from: one sequence, or for multiple choice one sequence for each choice. A record
whose text is longer than a row gets several rows at evaluation. Only the texts are kept; a row is laid out when it is
asked for, because ten choices of ChID or four of C3 share most of their tokens.

Letters: N records, R rows, S sequences, t tokens of one row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from data.features.token_texts import Frame, Slices, Texts, lay_out


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
            raise UserError(f"--max_length must be at least {specials + 2}, got {self.max_length}; raise it")
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

    def rows(self, numbers: Sequence[int]) -> list[dict]:
        """Rows by number, as dicts of integer arrays.

        input_ids and, if the model takes them, token_type_ids [t], of multiple choice lists of these; where they are
        known labels (a number, of tagging [t]), or start_positions and end_positions.
        """
        numbers = np.asarray(numbers, np.int64)
        if self.bounds is None:
            counts, sequences = np.ones(len(numbers), np.int64), numbers
        else:
            counts = (self.bounds[1:] - self.bounds[:-1])[numbers]
            sequences = np.concatenate([np.arange(*self.bounds[row : row + 2]) for row in numbers.tolist()])
        arrays = self._arrays(sequences)
        if self.bounds is not None:
            edges = np.cumsum(counts)[:-1].tolist()
            arrays = {name: _split(found, edges) for name, found in arrays.items()}
        rows = [dict(zip(arrays, values, strict=True)) for values in zip(*arrays.values(), strict=True)]
        for number, row in zip(numbers.tolist(), rows, strict=True):
            row |= self._targets(number, row)
        return rows

    def _arrays(self, sequences: np.ndarray) -> dict[str, list[np.ndarray]]:
        ids, types, lengths = lay_out([part[sequences] for part in self.parts], self.marks or (0,) * len(self.parts))
        edges = np.cumsum(lengths)[:-1]
        arrays = {"input_ids": np.split(ids, edges)}
        if self.marks is not None:
            arrays["token_type_ids"] = np.split(types, edges)
        return arrays

    def _targets(self, number: int, row: dict) -> dict:
        return {} if self.labels is None else {"labels": self.labels[number].item()}

    def combine(self, logits: Sequence[np.ndarray]):
        """See data/features/build.py."""
        if self.kind == "multiple_choice":
            counts = np.diff(self.bounds)
            rows = [np.asarray(row, np.float64)[:count] for row, count in zip(logits, counts.tolist(), strict=True)]
            by_record = np.split(np.arange(len(rows)), self._first_rows()[1:])
            return [np.mean([rows[row] for row in found], axis=0).astype(np.float32) for found in by_record]
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
    """Labels [N] as the model wants them, int64 or (regression) float32; None when a record has none.

    ValueError when it is to be trained on, and for a label that the model does not know.
    """
    labels = [record["label"] for record in records]
    if None in labels:
        must_be_labelled(task, records[labels.index(None)], building)
        return None
    if task.kind == "regression":
        return np.array(labels, np.float32)
    if task.kind == "classification":
        labels = [label_number(label, building.label_ids) for label in labels]
    return np.array(labels, np.int64)


def must_be_labelled(task, record: dict, building: Building) -> None:
    """ValueError in training."""
    if building.training:
        raise UserError(f"record {record['id']} of {task.name} must have a label to train on; take it out")


def label_number(label: str, label_ids: Mapping[str, int]) -> int:
    if label not in label_ids:
        raise UserError(f"label {label} must be one that the model knows, {', '.join(label_ids)}; finetune it anew")
    return label_ids[label]
