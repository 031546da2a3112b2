"""What the rows of one split say once a model has read them: outputs, predictions and scores of its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from data.features.build import Features, combine, in_order
from data.scoring.decode import decode
from data.scoring.metrics import is_degenerate, score
from data.tasks.task import Split, Task


class Verdict(NamedTuple):
    """outputs: of each record, columns in the order of task.labels. predictions: see data/scoring/metrics.py.

    scores: metrics in percent, degenerate: no better than a constant; both None without labels.
    """

    outputs: Any
    predictions: list
    scores: dict[str, float] | None
    degenerate: bool | None


@dataclass(frozen=True)
class SplitScorer:
    """Turns logits of rows into a verdict.

    label_ids: the model's output of each label name; options: of data.scoring.decode.decode.
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
        if task.kind == "classification":
            outputs = outputs[:, columns]
        elif task.kind == "tagging":
            outputs = [scores[:, columns] for scores in outputs]
        predictions = decode(task, records, outputs, **self.options)
        if not self.split.labelled:
            return Verdict(outputs, predictions, None, None)
        scores = score(task, records, predictions, outputs, self.split.parts)
        return Verdict(outputs, predictions, scores, is_degenerate(task, records, predictions))
