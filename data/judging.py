"""What the rows of one split say once a model has read them: outputs, predictions and scores of its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from common.errors import UserError
from data.features import Features, combine, in_order
from data.metrics import decode, is_degenerate, score
from data.task_types import Split, Task


class Verdict(NamedTuple):
    """outputs: of each record, columns in the order of task.labels. predictions: see data/metrics.py.

    scores: metrics in percent, degenerate: no better than a constant; both None without labels.
    """

    outputs: Any
    predictions: list
    scores: dict[str, float] | None
    degenerate: bool | None


@dataclass
class Judge:
    """Turns logits of rows into a verdict.

    label_ids: the model's output of each label name; options: of data.metrics.decode.
    """

    task: Task
    split: Split
    features: Features
    label_ids: Mapping[str, int]
    options: Mapping = field(default_factory=dict)

    def __call__(self, numbers: Sequence[int], logits: Sequence[np.ndarray]) -> Verdict:
        """numbers: the row of each of the logits. ValueError unless every row comes exactly once."""
        task, records = self.task, self.split.records
        outputs = combine(self.features, in_order(self.features, numbers, logits))
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


def swapped_pairs(records: Sequence[dict]) -> list[dict]:
    """The records, and each of them once more with its two texts exchanged (google-research/electra).

    ValueError for records that have no second text.
    """
    if any(record.get("text_b") is None for record in records):
        raise UserError("--swap_augment needs records of two texts, got some of one; leave it out")
    swaps = [record | {"text_a": record["text_b"], "text_b": record["text_a"]} for record in records]
    return [*records, *swaps]
