"""From task records to the rows that an encoder reads, and from its logits back to one output per record.

Texts are tokenised once each; pairs are built of ids as the tokenizer itself builds them. Training cuts long texts;
evaluation reads them in windows and averages the logits, so that nothing is silently left out. Contexts of questions
and tagged records are read in windows everywhere.

Letters: N records, R rows, t tokens of one row, W windows (the rows of questions), T tokens of the longest one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from common.errors import UserError
from data.batches.masking import IGNORED
from data.batches.sampling import BUCKET_STEPS, SORTED, EvalBatches, TrainBatches
from data.features.pairs import c3_features, chid_features, swag_features, text_features
from data.features.rows import Building, Features, frame_of
from data.features.spans import Windows, span_features
from data.features.tagging import tag_features
from data.tasks.loading import Split
from data.tasks.task import Task

__all__ = ["Features", "Windows", "combine", "in_order", "make_eval_batches", "make_features", "make_train_batches"]

logger = logging.getLogger(__name__)

_LAYOUTS = {
    "text": text_features,
    "swag": swag_features,
    "c3": c3_features,
    "chid": chid_features,
    "qa": span_features,
    "characters": tag_features,
}


def make_features(
    task: Task,
    records: Sequence[dict],
    tokenizer,
    *,
    max_length: int,
    training: bool,
    token_types: bool,
    label_ids: Mapping[str, int],
    doc_stride: int = 128,
    long_rows: str = "window",
) -> Features:
    """Rows of some records of a task.

    tokenizer: a fast one of transformers. max_length: tokens of a row, special ones included. token_types: whether the
    model takes them. label_ids: the model's output of each label name. doc_stride: tokens that two windows of a
    question's context share (at most half a window). long_rows: window or truncate long texts in evaluation.
    ValueError without records, for a max_length that leaves no room, an unlabelled record in training and a label that
    the model lacks.
    """
    if not records:
        raise UserError(f"{task.name} must have records, got none")
    building = Building(
        tokenizer=tokenizer,
        frame=frame_of(tokenizer),
        max_length=max_length,
        windowed=not training and long_rows == "window",
        training=training,
        token_types=token_types,
        label_ids=label_ids,
        overlap=doc_stride,
    )
    features = _LAYOUTS[task.layout](task, records, building)
    if not training and long_rows == "truncate" and features.truncated:
        logger.warning(
            "%s: %.1f %% of the rows are longer than %d tokens and are cut; --long_rows window reads them whole",
            task.name,
            100 * features.truncated,
            max_length,
        )
    return features


def combine(features: Features, logits: Sequence[np.ndarray]):
    """Outputs of each record from the logits of each row, which come in the order of the rows.

    logits: of classification [C], of regression [1], of multiple choice [choices], of tagging [t, C], of questions
    [2, t] (start, end); padding behind choices and tokens is ignored.

    Returns:
        Means over windows, float32. Classification [N, C]; regression [N]; multiple choice a list of [choices];
        tagging a list of [characters, C]; questions Windows, which data/scoring/predictions.py turns into answers.
    """
    if len(logits) != len(features):
        raise ValueError(f"logits must be of all {len(features)} rows, got {len(logits)}")
    return features.combine(logits)


def make_train_batches(
    features: Features, micro_batch: int, accumulation: int, processes: int, process: int, *, steps: int, seed: int
) -> TrainBatches:
    """Micro-batches of rows of like length, a pure function of the seed and the place in the run.

    Rows are sorted within one epoch at most, so that a small training set is still seen in random order.
    """
    step_size = micro_batch * accumulation * processes
    return TrainBatches(
        len(features),
        micro_batch,
        accumulation,
        processes,
        process,
        steps=steps,
        seed=seed,
        lengths=features.lengths,
        pool_steps=min(BUCKET_STEPS, max(1, len(features) // step_size)),
        order=SORTED,
    )


def make_eval_batches(features: Features, batch_size: int, processes: int = 1, process: int = 0) -> EvalBatches:
    """This process's share of the evaluation, longest rows together; no row comes twice."""
    return EvalBatches(features.lengths, batch_size, processes, process)


def in_order(features: Features, indices: Sequence[int], outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of rows, gathered from all processes in any order, in the order of the rows.

    indices: the row of each output. ValueError unless every row comes exactly once.
    """
    if sorted(indices) != list(range(len(features))):
        raise ValueError(f"every one of {len(features)} rows must have one output, got {len(indices)}")
    by_row = dict(zip(indices, outputs, strict=True))
    return [by_row[index] for index in range(len(features))]


def make_all_features(
    task: Task,
    splits: Mapping[str, Split],
    flags,
    tokenizer,
    *,
    max_length: int,
    token_types: bool,
    label_ids: Mapping[str, int],
) -> dict[str, Features]:
    """Features of each split; logs the share of records that are cut or read in windows. ValueError names the flag."""
    features = {}
    for name, split in splits.items():
        training = name == task.train_split
        features[name] = make_features(
            task,
            swapped_pairs(split.records) if training and flags.swap_augment else split.records,
            tokenizer,
            max_length=max_length,
            training=training,
            token_types=token_types,
            label_ids=label_ids,
            doc_stride=flags.doc_stride,
            long_rows=flags.long_rows,
        )
        share = 100 * features[name].truncated
        logger.info("%s %s: %.1f %% of the records are longer than %d tokens", task.name, name, share, max_length)
    return features


def swapped_pairs(records: Sequence[dict]) -> list[dict]:
    """The records, and each of them once more with its two texts exchanged (google-research/electra).

    ValueError for records that have no second text.
    """
    if any(record.get("text_b") is None for record in records):
        raise UserError("--swap_augment needs records of two texts, got some of one; leave it out")
    swaps = [record | {"text_a": record["text_b"], "text_b": record["text_a"]} for record in records]
    return [*records, *swaps]


def row_tokens(features: Features) -> np.ndarray:
    """Tokens of each row when it stands in a batch, int64 [R]: those of all its choices."""
    return features.lengths * (1 if features.bounds is None else int(np.diff(features.bounds).max()))


def label_array(task: Task, split: Split, label_ids: Mapping[str, int]) -> np.ndarray:
    """The model's output that each label of a split stands for, int64; empty for kinds without names of labels."""
    if not task.labels:
        return np.array([], np.int64)
    own = (record["tags"] if "tags" in record else record["label"] for record in split.records)
    names = chain.from_iterable(names if isinstance(names, list) else [names] for names in own)
    return np.array([label_ids[name] for name in names], np.int64)


def describe_splits(splits: Mapping[str, Split], features: Mapping[str, Features]) -> dict[str, dict]:
    """What result.json says about the data: rows, their source, what was left out and what was too long."""
    return {
        name: {
            "records": len(splits[name].records),
            "rows": len(rows),
            "expected": splits[name].expected,
            "source": splits[name].source,
            "skipped": splits[name].skipped,
            "notes": splits[name].notes,
            "truncated": rows.truncated,
        }
        for name, rows in features.items()
    }


@dataclass(frozen=True)
class TaskCollator:
    """Rows of features -> the tensors of one micro-batch.

    Attributes:
        task_kind: of data/tasks/task.py.
        pad_token_id: fills input_ids on the right.
        multiple: T is rounded up to a multiple of it (8 suits half-precision matrix units).
    """

    task_kind: str
    pad_token_id: int
    multiple: int = 1

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Collate rows of one split.

        Returns:
            int64 tensors: input_ids, attention_mask and, of rows that have them, token_type_ids [B, T]. Of multiple
            choice these are [B, C, T], with choice_mask bool [B, C]; a choice that a row lacks is one padding token,
            which may be attended to, so that no model sees an empty sequence.
            Where they are known labels: int64 [B], float32 [B] of regression, float32 [B, C] of multi_label, int64
            [B, T] of tagging, -100 where nothing is asked; or start_positions and end_positions int64 [B].
        """
        choices = None
        if self.task_kind == "multiple_choice":
            choices = np.array([len(row["input_ids"]) for row in rows], np.int64)
            sequences = {name: [part for row in rows for part in row[name]] for name in _TEXTUAL if name in rows[0]}
        else:
            sequences = {name: [row[name] for row in rows] for name in _TEXTUAL if name in rows[0]}
        lengths = np.array([len(ids) for ids in sequences["input_ids"]], np.int64)
        width = -(-lengths.max() // self.multiple) * self.multiple
        real = np.arange(width) < lengths[:, None]
        arrays = {
            "input_ids": _padded(sequences["input_ids"], real, self.pad_token_id),
            "attention_mask": real.astype(np.int64),
        }
        if "token_type_ids" in sequences:
            arrays["token_type_ids"] = _padded(sequences["token_type_ids"], real, 0)
        if choices is not None:
            arrays = _by_choice(arrays, choices, self.pad_token_id)
        if self.task_kind == "tagging" and "labels" in rows[0]:
            arrays["labels"] = _padded([row["labels"] for row in rows], real, IGNORED)
        else:
            dtype = np.float32 if self.task_kind in ("regression", "multi_label") else np.int64
            targets = ("labels", "start_positions", "end_positions")
            arrays |= {name: np.array([row[name] for row in rows], dtype) for name in targets if name in rows[0]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


_TEXTUAL = ("input_ids", "token_type_ids")


def _padded(sequences: list[np.ndarray], real: np.ndarray, filling: int) -> np.ndarray:
    """int64, the shape of `real`, which says where the items of the sequences stand."""
    padded = np.full(real.shape, filling, np.int64)
    padded[real] = np.concatenate(sequences)
    return padded


def _by_choice(arrays: dict[str, np.ndarray], choices: np.ndarray, pad_token_id: int) -> dict[str, np.ndarray]:
    """[sum of choices, T] -> [B, C, T], and choice_mask [B, C]."""
    there = np.arange(choices.max()) < choices[:, None]
    shaped = {}
    for name, array in arrays.items():
        shaped[name] = np.full((*there.shape, array.shape[1]), pad_token_id if name == "input_ids" else 0, np.int64)
        shaped[name][there] = array
    shaped["attention_mask"][~there, 0] = 1
    return shaped | {"choice_mask": there}
