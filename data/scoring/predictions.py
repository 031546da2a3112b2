"""Predictions: decoded from what a model says of records, and on disk as a JSON line per record.

Answers of questions: the decoding of transformers' run_qa (top n_best starts and ends of a window, the best legal pair
over all windows of a question), done on arrays without a loop over questions. There is no "no answer": CMRC and DRCD
always hold one. Candidates of ChID's blanks, which a group shares: CLUE's baseline (greedy on raw scores), bert4keras'
CLUE examples (optimal assignment, Hungarian algorithm). Greedy depends on a constant added to one blank's scores, so
it wants raw logits; argmax and optimal do not.

Letters: N records, W windows, T tokens, n best starts or ends of a window, K blanks of a group, C labels, candidates.
"""

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import expit, softmax

from common.errors import UserError
from data.features.spans import Windows
from data.outputs import atomic_output
from data.tasks.loading import Split
from data.tasks.tags import legalise
from data.tasks.task import Task

logger = logging.getLogger(__name__)

BOUNDS = {"stsb": (0.0, 5.0)}  # predictions beyond are clipped, as in submissions
METHODS = ("argmax", "greedy", "optimal")  # of giving ChID's candidates to blanks
PREDICTIONS = "test_preds.jsonl"
_TEXTS = ("text", "text_a", "text_b", "context", "question")  # of a record
_WINDOWS_AT_ONCE = 1024  # holds the scores of all pairs, [windows, n, n], to a few megabytes


def decode(
    task: Task,
    records: Sequence[Mapping],
    outputs: Any,
    *,
    chid_decode: str = "optimal",
    n_best: int = 20,
    max_answer: int = 50,
) -> list:
    """Return the prediction of each record: label name or names, float, choice index, answer string or list of tags.

    outputs, as data/features/build.py combines them, columns in the order of task.labels: classification and
    multi_label float [N, C]; regression float [N]; multiple choice a list of float [choices]; question answering the
    logits of all windows (data/features/spans.py); tagging a list of float [characters, C]. ValueError when a logit is
    not finite.
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
    if task.kind == "multi_label":  # what is more likely than not
        return [[task.labels[place] for place in np.flatnonzero(row > 0).tolist()] for row in np.asarray(outputs)]
    if task.kind == "regression":
        return np.asarray(outputs, dtype=np.float64).clip(*BOUNDS.get(task.name, (None, None))).tolist()
    if task.kind == "multiple_choice":
        if task.layout == "chid":
            return decode_groups(outputs, [record["group"] for record in records], chid_decode)
        return [int(np.argmax(scores)) for scores in outputs]
    return [legalise([task.labels[best] for best in np.asarray(scores).argmax(-1)]) for scores in outputs]


def _must_be_finite(task: Task, arrays: Any) -> None:
    if not all(np.isfinite(np.asarray(array)).all() for array in arrays):
        raise UserError(
            f"{task.name}: logits must be finite, got NaN or infinity; lower --learning_rate or train in fp32"
        )


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


def assign(scores: np.ndarray, method: str) -> list[int]:
    """Return the candidate of each blank.

    scores: raw logits [K, C]. method: "argmax" lets blanks share a candidate; "greedy" takes the pairs by falling
    score and skips used blanks and candidates; "optimal" uses each candidate at most once with the largest sum.
    ValueError for another method, and when blanks outnumber the candidates that they may not share.
    """
    if method not in METHODS:
        raise UserError(f"--chid_decode must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "argmax":
        return scores.argmax(1).tolist()
    blanks, candidates = scores.shape
    if blanks > candidates:
        raise UserError(
            f"a group must have at least as many candidates as blanks, got {candidates} for {blanks};"
            " pass --chid_decode argmax"
        )
    if method == "optimal":
        return linear_sum_assignment(scores, maximize=True)[1].tolist()
    chosen = [-1] * blanks
    for flat in np.argsort(-scores, axis=None, kind="stable"):
        blank, candidate = divmod(int(flat), candidates)
        if chosen[blank] < 0 and candidate not in chosen:
            chosen[blank] = candidate
    return chosen


def decode_groups(outputs: Sequence[np.ndarray], groups: Sequence[Hashable], method: str) -> list[int]:
    """Return the candidate of every blank, in the order given.

    outputs: each blank's raw logits [C]; groups: which group it belongs to, blanks of one in any order.
    """
    members: dict[Hashable, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    chosen = [0] * len(outputs)
    for positions in members.values():
        scores = np.stack([outputs[position] for position in positions])
        for position, candidate in zip(positions, assign(scores, method), strict=True):
            chosen[position] = candidate
    return chosen


class Verdict(NamedTuple):
    """outputs: of each record, columns in the order of task.labels. predictions: see data/scoring/metrics.py.

    scores: metrics in percent, degenerate: no better than a constant; both None without labels.
    """

    outputs: Any
    predictions: list
    scores: dict[str, float] | None
    degenerate: bool | None


def write_verdicts(path: Path, task: Task, splits: Mapping[str, Split], verdicts: Mapping[str, Verdict]) -> None:
    """Write the predictions of all splits, and beside them, where a record has a row of scores, these as .npy.

    Lines of the user's own files have the texts, too, and how likely the model finds what it says.
    """
    records = [record for name in verdicts for record in splits[name].records]
    names = [name for name in verdicts for _ in splits[name].records]
    predictions = [one for verdict in verdicts.values() for one in verdict.predictions]
    more = None
    if task.columns:
        more = [one for verdict in verdicts.values() for one in _likely(task, verdict)]
    write_predictions(path, task, records, predictions, names, more)
    if task.kind in ("classification", "multi_label", "regression", "multiple_choice"):
        outputs = [np.atleast_1d(output) for verdict in verdicts.values() for output in verdict.outputs]
        table = np.full((len(outputs), max(map(len, outputs))), np.nan, np.float32)  # of choices that are not there
        for row, output in enumerate(outputs):
            table[row, : len(output)] = output
        with atomic_output(path.with_suffix(".logits.npy")) as partial, partial.open("wb") as file:
            np.save(file, table, allow_pickle=False)


def write_predictions(
    path: str | Path,
    task: Task,
    records: Sequence[Mapping],
    predictions: Sequence,
    splits: Sequence[str] | None = None,
    likely: Sequence[dict] | None = None,
) -> None:
    """Write one JSON line per record: split, id, prediction, and the label where it is known.

    splits: the split of each record, "test" without; likely: more of each line, which then has its texts, too. Lines
    of tagging hold "chars". The file appears whole or not at all.
    """
    gold = {"question_answering": "answers", "tagging": "tags"}.get(task.kind, "label")
    with atomic_output(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        splits = splits or repeat("test", len(records))
        more = repeat(None, len(records)) if likely is None else likely
        for record, prediction, split, probability in zip(records, predictions, splits, more, strict=True):
            line = {"split": split, "id": record["id"], "prediction": prediction}
            if probability is not None:
                line |= {name: record[name] for name in _TEXTS if record.get(name) is not None} | probability
            if task.kind == "tagging":
                line["chars"] = record["chars"]
            if record.get(gold) is not None and (record[gold] != [] or gold == "label"):
                line["label"] = record[gold]
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _likely(task: Task, verdict: Verdict) -> list[dict]:
    """Of each record, the probability of the predicted label, or of several labels that of each; {} of other kinds."""
    if task.kind == "multi_label":
        shares = expit(np.asarray(verdict.outputs, np.float64)).tolist()
        return [{"probability": dict(zip(task.labels, row, strict=True))} for row in shares]
    if task.kind == "classification":
        return [{"probability": row} for row in softmax(np.asarray(verdict.outputs, np.float64), -1).max(-1).tolist()]
    return [{}] * len(verdict.predictions)


def read_predictions(path: str | Path) -> dict[str, list[dict]]:
    """Return the lines of `write_predictions` by split, in the file's order. SubmissionError with file:line."""
    by_split: dict[str, list[dict]] = {}
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        if line:
            row = read_object(line, f"{path}:{number}", {"split", "id", "prediction"})
            by_split.setdefault(str(row["split"]), []).append(row)
    return by_split


class SubmissionError(UserError):
    """Predictions that must not go to a board; one line that names the flag or the file."""


def read_object(content: bytes, where: str, keys: set[str]) -> dict:
    """A JSON object that has these keys. SubmissionError that begins with `where` for anything else."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        value = error
    if not isinstance(value, dict) or not keys <= value.keys():
        raise SubmissionError(
            f"{where}: must be a JSON object with {', '.join(sorted(keys))}, got {content[:60]!r}; predict again"
        )
    return value
