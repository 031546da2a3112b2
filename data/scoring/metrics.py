"""Scores of predictions as the GLUE and CLUE boards compute them, in percent, and of what a model says of a split.

Sources: gluebenchmark.com/faq (metrics, means), cluebenchmarks.com, score.py of CLUENER2020 (macro F1), and
data/scoring/answer_scores.py for questions. Letters: N records, C labels.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from scipy import stats
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from common.errors import UserError
from data.features.build import Features, combine, in_order
from data.scoring.answer_scores import best_over_answers, character_f1, cmrc_exact, cmrc_f1, squad_exact, squad_f1
from data.scoring.predictions import METHODS, Verdict, decode
from data.tasks.loading import Split
from data.tasks.tags import legalise, to_entities
from data.tasks.task import Task

logger = logging.getLogger(__name__)


def score(
    task: Task,
    records: Sequence[Mapping],
    predictions: Sequence,
    outputs: Any = None,
    parts: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Return the task's metrics in percent, the primary one first.

    predictions: as `decode` gives them; None in place of an answer counts 0 and is reported.
    outputs: with those of ChID, its accuracy by every way to decode, too ("accuracy_greedy").
    parts: number of records of each file that they come from, for the primary metric of each if there are several
    ("accuracy_d-dev.json"). ValueError without records, and when a record has no label.
    """
    primary = task.metrics[0]
    scores = {name: _evaluate(task, name, records, predictions) for name in task.metrics}
    if task.layout == "chid" and outputs is not None:
        for method in METHODS:
            decoded = decode(task, records, outputs, chid_decode=method)
            scores[f"{primary}_{method}"] = _evaluate(task, primary, records, decoded)
    end = 0
    for part, size in parts.items() if parts and len(parts) > 1 else ():
        rows = slice(end, end := end + size)
        scores[f"{primary}_{part}"] = _evaluate(task, primary, records[rows], predictions[rows])
    return scores


def is_degenerate(task: Task, records: Sequence[Mapping], predictions: Sequence) -> bool:
    """Whether the predictions are no better than the best constant one by the task's primary metric.

    That constant is the most useful label or choice; without labels to choose from, it scores 0. Records that all
    share one label tell nothing: False.
    """
    evaluate = partial(_evaluate, task, task.metrics[0], records)
    level = 0.0
    if task.kind in ("classification", "multiple_choice"):
        labels = set(gold_labels(task, records))
        if len(labels) == 1:
            return False
        level = max(evaluate([label] * len(records)) for label in labels)
    return len(set(map(str, predictions))) == 1 < len(records) or evaluate(predictions) <= level


def merge_splits(task: Task, by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return one set of scores for a task with several evaluation splits, such as MNLI's matched and mismatched.

    A metric's own name holds the unweighted mean over the splits, name_split that of one ("accuracy_matched").
    """
    if len(by_split) == 1:
        return dict(*by_split.values())
    merged = {name: float(np.mean([scores[name] for scores in by_split.values()])) for name in task.metrics}
    for split, scores in by_split.items():
        merged |= {f"{name}_{split.removeprefix('validation_')}": value for name, value in scores.items()}
    return merged


def gold_labels(task: Task, records: Sequence[Mapping]) -> list:
    """The label of each record, of questions the list of answer strings."""
    key = {"question_answering": "answers", "tagging": "tags"}.get(task.kind, "label")
    unknown = sum(record[key] is None or (key == "answers" and not record[key]) for record in records)
    if unknown or not records:
        raise UserError(
            f"{task.name}: records to score must have their {key}, got {unknown} of {len(records)} without"
        )
    if key == "answers":
        return [[answer["text"] for answer in record["answers"]] for record in records]
    return [record[key] for record in records]


def _evaluate(task: Task, name: str, records: Sequence[Mapping], predictions: Sequence) -> float:
    if len(predictions) != len(records):
        raise ValueError(
            f"{task.name}: predictions must be as many as records, got {len(predictions)}, {len(records)}"
        )
    return 100 * float(METRICS[task.kind][name](task, records, predictions))


def _accuracy(task: Task, records: Sequence[Mapping], predictions: Sequence) -> float:
    return accuracy_score(gold_labels(task, records), predictions)


def _f1(task: Task, records: Sequence[Mapping], predictions: Sequence) -> float:
    """F1 of the second label, the positive one of MRPC and QQP."""
    return f1_score(gold_labels(task, records), predictions, pos_label=task.labels[1], zero_division=0)


def _macro_f1(task: Task, records: Sequence[Mapping], predictions: Sequence) -> float:
    return f1_score(gold_labels(task, records), predictions, average="macro", zero_division=0)


def _labels_score(
    function: Callable[..., float], task: Task, records: Sequence[Mapping], predictions: Sequence
) -> float:
    """Of matrices [N, C] of which labels each record has."""
    gold, predicted = (
        np.array([[label in names for label in task.labels] for names in rows])
        for rows in (gold_labels(task, records), predictions)
    )
    return function(gold, predicted)


def _mcc(task: Task, records: Sequence[Mapping], predictions: Sequence) -> float:
    return matthews_corrcoef(gold_labels(task, records), predictions)  # 0 for a constant


def _correlation(
    function: Callable[[Sequence, Sequence], tuple[float, float]],
    task: Task,
    records: Sequence[Mapping],
    predictions: Sequence,
) -> float:
    gold = gold_labels(task, records)
    for name, values in (("labels", gold), ("predictions", predictions)):
        if np.ptp(values) == 0:
            logger.warning("%s: all %s are %s, so their correlation counts 0", task.name, name, values[0])
            return 0.0
    return function(gold, predictions)[0]


def _answers(
    rule: Callable[[str, str], float], task: Task, records: Sequence[Mapping], predictions: Sequence
) -> float:
    if missing := sum(prediction is None for prediction in predictions):
        logger.warning("%s: %d of %d questions have no prediction and count 0", task.name, missing, len(records))
    return np.mean(best_over_answers(rule, predictions, gold_labels(task, records)))


def _tag_accuracy(task: Task, records: Sequence[Mapping], predictions: Sequence) -> float:
    return accuracy_score(list(chain(*gold_labels(task, records))), list(chain(*predictions)))


def _entity_f1(task: Task, records: Sequence[Mapping], predictions: Sequence) -> float:
    """Micro F1 over entities by type and position; an I- that continues nothing begins an entity."""
    gold, predicted = (list(map(legalise, rows)) for rows in (gold_labels(task, records), predictions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that there are no entities
        return seqeval_f1(gold, predicted, mode="strict", scheme=IOB2, zero_division=0)


def _macro_entity_f1(task: Task, records: Sequence[Mapping], predictions: Sequence) -> float:
    """CLUENER's board: mean over types of the F1 of each text's set of entity strings, positions disregarded.

    A type that is either never predicted or never there scores 0, where the board's own script divides by zero; one
    that is neither has nothing to score and is left out.
    """
    common, total = Counter(), Counter()
    for record, gold, predicted in zip(records, gold_labels(task, records), predictions, strict=True):
        wanted, guessed = (_entity_strings(record["chars"], tags) for tags in (gold, predicted))
        common.update(kind for kind, _ in wanted & guessed)
        total.update(kind for kind, _ in (*wanted, *guessed))
    return np.mean([2 * common[kind] / total[kind] for kind in total]) if total else 0.0


def _entity_strings(chars: Sequence[str], tags: Sequence[str]) -> set[tuple[str, str]]:
    return {(kind, "".join(chars[first:end])) for kind, first, end in to_entities(tags)}


METRICS: dict[str, dict[str, Callable[[Task, Sequence[Mapping], Sequence], float]]] = {
    "classification": {"accuracy": _accuracy, "f1": _f1, "macro_f1": _macro_f1, "mcc": _mcc},
    "multi_label": {
        "micro_f1": partial(_labels_score, partial(f1_score, average="micro", zero_division=0)),
        "macro_f1": partial(_labels_score, partial(f1_score, average="macro", zero_division=0)),
        "accuracy": partial(_labels_score, accuracy_score),
    },
    "regression": {
        "pearson": partial(_correlation, stats.pearsonr),
        "spearman": partial(_correlation, stats.spearmanr),
    },
    "multiple_choice": {"accuracy": _accuracy},
    "question_answering": {
        "em": partial(_answers, cmrc_exact),
        "f1": partial(_answers, cmrc_f1),
        "character_f1": partial(_answers, character_f1),
        "squad_em": partial(_answers, squad_exact),
        "squad_f1": partial(_answers, squad_f1),
    },
    "tagging": {"f1": _entity_f1, "macro_f1": _macro_entity_f1, "accuracy": _tag_accuracy},
}


@dataclass(frozen=True)
class SplitScorer:
    """Turns logits of rows into a verdict.

    label_ids: the model's output of each label name; options: of data.scoring.predictions.decode.
    """

    task: Task
    split: Split
    features: Features
    label_ids: Mapping[str, int]
    options: Mapping = field(default_factory=dict)

    def __call__(self, indices: Sequence[int], logits: Sequence[np.ndarray]) -> Verdict:
        """indices: the row of each of the logits. ValueError unless every row comes exactly once."""
        task, records = self.task, self.split.records
        outputs = combine(self.features, in_order(self.features, indices, logits))
        columns = [self.label_ids[label] for label in task.labels]
        if task.kind in ("classification", "multi_label"):
            outputs = outputs[:, columns]
        elif task.kind == "tagging":
            outputs = [scores[:, columns] for scores in outputs]
        predictions = decode(task, records, outputs, **self.options)
        if not self.split.labelled:
            return Verdict(outputs, predictions, None, None)
        scores = score(task, records, predictions, outputs, self.split.parts)
        return Verdict(outputs, predictions, scores, is_degenerate(task, records, predictions))
