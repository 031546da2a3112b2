"""From task records to the rows that an encoder reads, and from its logits back to one output per record.

Texts are tokenised once each; pairs are built of ids as the tokenizer itself builds them. Training cuts long texts;
evaluation reads them in windows and averages the logits, so that nothing is silently left out. Contexts of questions
and tagged records are read in windows everywhere.

Letters: N records, R rows, t tokens of one row, W windows (the rows of questions), T tokens of the longest one.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from common.errors import UserError
from data.feature_rows import Building, Features
from data.pair_features import c3_features, chid_features, swag_features, text_features
from data.sampling import BUCKET_STEPS, EvalBatches, TrainBatches
from data.span_features import Windows, span_features
from data.tag_features import tag_features
from data.task_types import Task
from data.token_texts import frame_of

__all__ = ["Features", "Windows", "combine", "in_order", "make_eval_batches", "make_features", "make_train_batches"]

logger = logging.getLogger(__name__)

LONG_ROWS = ("window", "truncate")
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
    question's context share (at most half a window). long_rows: what evaluation does with long texts, of LONG_ROWS.
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
            *(task.name, 100 * features.truncated, max_length),
        )
    return features


def combine(features: Features, logits: Sequence[np.ndarray]):
    """Outputs of each record from the logits of each row, which come in the order of the rows.

    logits: of classification [C], of regression [1], of multiple choice [choices], of tagging [t, C], of questions
    [2, t] (start, end); padding behind choices and tokens is ignored.

    Returns:
        Means over windows, float32. Classification [N, C]; regression [N]; multiple choice a list of [choices];
        tagging a list of [characters, C]; questions Windows, which data/answers.py turns into answers.
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
        np.arange(len(features)),
        *(micro_batch, accumulation, processes, process),
        steps=steps,
        seed=seed,
        lengths=features.lengths,
        pool_steps=min(BUCKET_STEPS, max(1, len(features) // step_size)),
    )


def make_eval_batches(features: Features, batch_size: int, processes: int = 1, process: int = 0) -> EvalBatches:
    """This process's share of the evaluation, longest rows together; no row comes twice."""
    return EvalBatches(np.arange(len(features)), features.lengths, batch_size, processes, process)


def in_order(features: Features, numbers: Sequence[int], outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of rows, gathered from all processes in any order, in the order of the rows.

    numbers: the row of each output. ValueError unless every row comes exactly once.
    """
    if sorted(numbers) != list(range(len(features))):
        raise ValueError(f"every one of {len(features)} rows must have one output, got {len(numbers)}")
    found = dict(zip(numbers, outputs, strict=True))
    return [found[number] for number in range(len(features))]
