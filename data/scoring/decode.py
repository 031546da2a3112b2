"""Turn start and end logits of all windows of all questions into answer strings, without a loop over questions.

Source: the decoding of transformers' run_qa (top n_best starts and ends of a window, the best legal pair over all
windows of a question), done on arrays. There is no "no answer": CMRC and DRCD always hold one. Letters: W windows,
T tokens, Q questions, n best starts or ends of a window.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.errors import UserError
from data.features.spans import Windows
from data.scoring.cloze import decode_groups
from data.tasks.table import Task
from data.tasks.tags import legalise

_WINDOWS_AT_ONCE = 1024  # holds the scores of all pairs, [windows, n, n], to a few megabytes


def decode_answers(windows: Windows, contexts: Sequence[str], *, n_best: int = 20, max_answer: int = 50) -> list[str]:
    """Return the answer of each question, "" for one whose windows allow no span.

    contexts: the text of each question. A span ends where it starts or later and holds at most `max_answer` tokens;
    starts and ends are sought among the `n_best` of their window; its score is the sum of the two logits. Equal
    scores: the earlier window wins.
    """
    spans = [
        _best_spans(windows, slice(first, first + _WINDOWS_AT_ONCE), n_best, max_answer)
        for first in range(0, len(windows.record), _WINDOWS_AT_ONCE)
    ]
    if not spans:
        return [""] * len(contexts)
    scores, firsts, lasts = (np.concatenate(parts) for parts in zip(*spans, strict=True))
    record = np.asarray(windows.record)
    order = np.lexsort((-np.arange(len(record)), scores, record))  # by question, then by rising score
    is_best = np.append(record[order][1:] != record[order][:-1], True)
    answers = [""] * len(contexts)
    for window in order[is_best].tolist():
        if np.isfinite(scores[window]):
            begin = windows.offsets[window, firsts[window], 0]
            answers[record[window]] = contexts[record[window]][begin : windows.offsets[window, lasts[window], 1]]
    return answers


def _best_spans(
    windows: Windows, rows: slice, n_best: int, max_answer: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, first and last token of the best span of each window, all [W]; the score is -inf without a span."""
    allowed = np.asarray(windows.allowed[rows])
    starts, start_scores = _top(windows.start[rows], allowed, n_best)
    ends, end_scores = _top(windows.end[rows], allowed, n_best)
    scores = start_scores[:, :, None] + end_scores[:, None, :]  # [W, n, n]
    extent = ends[:, None, :] - starts[:, :, None]
    scores[(extent < 0) | (extent >= max_answer)] = -np.inf
    pairs = scores.reshape(len(scores), -1)
    best = pairs.argmax(1)
    row = np.arange(len(best))
    return pairs[row, best], starts[row, best // ends.shape[1]], ends[row, best % ends.shape[1]]


def _top(logits: np.ndarray, allowed: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the largest allowed logits of each row in text order, and the logits, both [W, n]."""
    logits = np.where(allowed, np.asarray(logits, dtype=np.float64), -np.inf)
    count = min(count, logits.shape[1])
    positions = np.sort(np.argpartition(logits, -count, axis=1)[:, -count:], axis=1)
    return positions, np.take_along_axis(logits, positions, axis=1)


logger = logging.getLogger(__name__)


BOUNDS = {"stsb": (0.0, 5.0)}  # predictions beyond are clipped, as in submissions


def decode(
    task: Task,
    records: Sequence[Mapping],
    outputs: Any,
    *,
    chid_decode: str = "optimal",
    n_best: int = 20,
    max_answer: int = 50,
) -> list:
    """Return the prediction of each record: label name, float, choice index, answer string or list of tags.

    outputs, as data/features/build.py combines them, columns in the order of task.labels: classification float [N, C];
    regression float [N]; multiple choice a list of float [choices]; question answering the logits of all windows
    (data/scoring/decode.py); tagging a list of float [characters, C]. ValueError when a logit is not finite.
    """
    if task.kind == "question_answering":
        allowed = np.asarray(outputs.allowed)
        _must_be_finite(task, [np.asarray(outputs.start)[allowed], np.asarray(outputs.end)[allowed]])
        contexts = [record["context"] for record in records]
        answers = decode_answers(outputs, contexts, n_best=n_best, max_answer=max_answer)
        if empty := answers.count(""):
            logger.warning("%s: %d of %d questions got no answer", task.name, empty, len(records))
        return answers
    _must_be_finite(task, outputs)
    if task.kind == "classification":
        return [task.labels[best] for best in np.asarray(outputs).argmax(-1).tolist()]
    if task.kind == "regression":
        return np.asarray(outputs, dtype=np.float64).clip(*BOUNDS.get(task.name, (None, None))).tolist()
    if task.kind == "multiple_choice":
        if task.layout == "chid":
            return decode_groups(outputs, [record["group"] for record in records], chid_decode)
        return [int(np.argmax(scores)) for scores in outputs]
    return [legalise([task.labels[best] for best in np.asarray(scores).argmax(-1)]) for scores in outputs]


def _must_be_finite(task: Task, arrays: Any) -> None:
    if not all(np.isfinite(np.asarray(array)).all() for array in arrays):
        raise UserError(f"{task.name}: logits must be finite, got NaN or infinity; lower --lr or train in fp32")
