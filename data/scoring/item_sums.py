"""What each evaluated item adds to a task's primary metric, so that resampled sets of items are scored by one sum.

Every metric of data/scoring/metrics.py that comes first for a task is a function of sums over items: of hits, of hits,
predictions and labels by class, of entities, of moments. Letters: N items, K sums, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.scoring.metrics import METRICS
from data.scoring.predictions import read_predictions
from data.tasks.table import find_task
from data.tasks.tags import to_entities
from data.tasks.task import Task

_MEANS = ("accuracy", "em", "f1", "character_f1", "squad_em", "squad_f1")  # over items, except for tagging's


@dataclass(frozen=True)
class ItemSums:
    """The items of one run's evaluation.

    name: of the metric; keys: split and id of each item; sums: float64 [N, K]; metric: float64 [..., K] of summed
    items -> [...], in percent; hits: bool [N], whether the item is right, None where the metric is not accuracy.
    """

    name: str
    keys: list[tuple[str, str]]
    sums: np.ndarray
    metric: Callable[[np.ndarray], np.ndarray]
    hits: np.ndarray | None


def item_sums(task: Task, path: str | Path) -> ItemSums:
    """Read the labelled lines of an eval_preds.jsonl; its primary metric equals `metric(sums.sum(0))`.

    With several splits the metric is the mean over them. ValueError for a primary metric that is no function of sums.
    """
    by_split = read_predictions(path)
    keys = [(split, str(line["id"])) for split, lines in by_split.items() for line in lines]
    parts = [_sums(task, lines) for lines in by_split.values()]
    width, count = parts[0][0].shape[1], len(parts)
    sums = np.zeros((len(keys), count * width))  # each split has columns of its own
    first = 0
    for index, (part, _) in enumerate(parts):
        sums[first : first + len(part), index * width : (index + 1) * width] = part
        first += len(part)
    hits = None
    if task.metrics[0] == "accuracy" and task.kind in ("classification", "multiple_choice"):
        hits = np.concatenate([part[:, 0] for part, _ in parts]) > 0
    return ItemSums(task.metrics[0], keys, sums, partial(_mean_over_splits, parts[0][1], count), hits)


def _mean_over_splits(metric: Callable, count: int, sums: np.ndarray) -> np.ndarray:
    return 100 * metric(sums.reshape(*sums.shape[:-1], count, -1)).mean(-1)


def _sums(task: Task, lines: Sequence[dict]) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """float64 [N, K], and the metric of their sum, 0 to 1."""
    name, kind = task.metrics[0], task.kind
    gold, predicted = [line["label"] for line in lines], [line["prediction"] for line in lines]
    if kind == "tagging":
        return _ENTITIES[name](task, lines, gold, predicted)
    if kind == "regression" and name == "pearson":
        return _moments(gold, predicted), _pearson
    if kind == "classification" and name != "accuracy":
        return _by_class(task, gold, predicted), _OF_CLASSES[name]
    if name not in _MEANS:
        raise ValueError(f"{task.name}: the primary metric must be a function of sums over items, got {name}")
    if kind == "question_answering":
        metric, records = METRICS[kind][name], [{"answers": answers} for answers in gold]
        scores = [metric(task, [record], [answer]) for record, answer in zip(records, predicted, strict=True)]
    else:
        scores = [wanted == guess for wanted, guess in zip(gold, predicted, strict=True)]
    return np.stack([np.array(scores, dtype=np.float64), np.ones(len(lines))], 1), _ratio


def _by_class(task: Task, gold: Sequence[str], predicted: Sequence[str]) -> np.ndarray:
    """Hits, predictions and labels of each class: [N, 3 C]."""
    index = {label: i for i, label in enumerate(task.labels)}
    eye = np.eye(len(index))
    wanted, guessed = (eye[[index[label] for label in labels]] for labels in (gold, predicted))
    return np.concatenate([wanted * guessed, guessed, wanted], 1)


def _mcc(sums: np.ndarray) -> np.ndarray:
    """Matthews' correlation of any number of classes (Gorodkin 2004), 0 for a constant."""
    hits, guessed, wanted = np.split(sums, 3, -1)
    count = wanted.sum(-1)
    covariance = hits.sum(-1) * count - (guessed * wanted).sum(-1)
    spread = (count**2 - (guessed**2).sum(-1)) * (count**2 - (wanted**2).sum(-1))
    return _ratio(np.stack([covariance, np.sqrt(spread)], -1))


def _f1(sums: np.ndarray) -> np.ndarray:
    """F1 of the second class."""
    hits, guessed, wanted = np.split(sums, 3, -1)
    return _ratio(np.stack([2 * hits[..., 1], guessed[..., 1] + wanted[..., 1]], -1))


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that are predicted or there."""
    hits, guessed, wanted = np.split(sums, 3, -1)
    return _mean_ratio(np.stack([2 * hits, guessed + wanted], -1))


def _moments(gold: Sequence[float], predicted: Sequence[float]) -> np.ndarray:
    """1, x, y, xx, yy, xy with x and y centred, which costs no digits then: [N, 6]."""
    x, y = (np.array(values, dtype=np.float64) for values in (gold, predicted))
    x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1)


def _pearson(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = (n * xx - x * x).clip(0) * (n * yy - y * y).clip(0)
    return _ratio(np.stack([n * xy - x * y, np.sqrt(spread)], -1))


def _entities(task: Task, lines, gold, predicted) -> tuple[np.ndarray, Callable]:
    """Entities found right, and found and wanted ones, by type and position: [N, 2]."""
    rows = []
    for wanted_tags, guessed_tags in zip(gold, predicted, strict=True):
        wanted, guessed = set(to_entities(wanted_tags)), set(to_entities(guessed_tags))
        rows.append((2 * len(wanted & guessed), len(wanted) + len(guessed)))
    return np.array(rows, dtype=np.float64), _ratio


def _entity_strings(task: Task, lines, gold, predicted) -> tuple[np.ndarray, Callable]:
    """The same of each type's entities as sets of strings, CLUENER's way: [N, 2 C]."""
    index = {kind: i for i, kind in enumerate(sorted({label[2:] for label in task.labels if label != "O"}))}
    sums = np.zeros((len(lines), len(index), 2))
    for row, line, wanted_tags, guessed_tags in zip(sums, lines, gold, predicted, strict=True):
        wanted, guessed = (
            {(kind, "".join(line["chars"][first:end])) for kind, first, end in to_entities(tags)}
            for tags in (wanted_tags, guessed_tags)
        )
        for kind, _ in wanted & guessed:
            row[index[kind], 0] += 2
        for kind, _ in (*wanted, *guessed):
            row[index[kind], 1] += 1
    return sums.reshape(len(lines), -1), lambda sums: _mean_ratio(sums.reshape(*sums.shape[:-1], -1, 2))


def _tags(task: Task, lines, gold, predicted) -> tuple[np.ndarray, Callable]:
    pairs = zip(gold, predicted, strict=True)
    return np.array([(np.sum(np.array(g) == np.array(p)), len(g)) for g, p in pairs], dtype=np.float64), _ratio


def _ratio(sums: np.ndarray) -> np.ndarray:
    """[..., 2] -> the first over the second, 0 over 0 is 0."""
    above, below = sums[..., 0], sums[..., 1]
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _mean_ratio(sums: np.ndarray) -> np.ndarray:
    """[..., C, 2] -> mean ratio over the classes with something below the line."""
    there = sums[..., 1] > 0
    return _ratio(sums).sum(-1) / there.sum(-1).clip(1)


_OF_CLASSES = {"mcc": _mcc, "f1": _f1, "macro_f1": _macro_f1}
_ENTITIES = {"f1": _entities, "macro_f1": _entity_strings, "accuracy": _tags}


def items(name: str, path: Path) -> ItemSums:
    """What the tests over items need of a task's eval_preds.jsonl."""
    return item_sums(find_task(name), path)
