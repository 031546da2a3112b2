"""Logits of every row of a data set, from all processes, each row exactly once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import gather_object, send_to_device


@dataclass
class EvalRows:
    """Rows to predict.

    rows: (numbers) -> list of dicts. batches: this process's share, lists of (epoch, number) pairs. collator: of rows.
    """

    rows: Callable[[Sequence[int]], list[dict]]
    batches: Iterable[list[tuple[int, int]]]
    collator: Callable[[list[dict]], dict[str, torch.Tensor]]


def predict(trainer, data: EvalRows) -> tuple[list[int], list[np.ndarray], float | None]:
    """Run the model of a trainer over rows, without dropout.

    Every process returns the same: numbers of the rows in any order, the fp32 scores of each as the objective gives
    them (padding included), and the mean loss of the targets, None where a row has none.
    """
    objective, model = trainer.objective, trainer.model
    numbers, scores, loss, count = [], [], 0.0, 0.0
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        for batch in data.batches:
            found = [number for _, number in batch]
            inputs = send_to_device(data.collator(data.rows(found)), trainer.args.device)
            outputs = objective.scores(model, inputs)
            if "labels" in inputs or "start_positions" in inputs:
                loss += objective.loss(outputs, inputs).double().item()
                count += objective.count(inputs).double().item()
            numbers += found
            scores += list(outputs.cpu().numpy())
    if trainer.args.world_size > 1:
        numbers, scores = gather_object(numbers), gather_object(scores)
        loss, count = (sum(gather_object([value])) for value in (loss, count))
    return numbers, scores, loss / count if count else None


class Evaluator:
    """Judges the predictions of some splits; the evaluator of a Trainer.

    splits: rows by name, and what turns their numbers and scores into a verdict, which has `scores` (metrics by name,
    None without labels). merge: scores by split -> metrics of all of them.
    """

    def __init__(self, splits: Mapping[str, tuple[EvalRows, Callable]], merge: Callable):
        self.splits, self.merge = splits, merge
        self.verdicts: dict = {}  # of the last call

    def __call__(self, trainer) -> dict[str, float]:
        """Metrics, and the mean of the splits' losses where they have one; {} without labels."""
        found, losses = {}, []
        for name, (data, judge) in self.splits.items():
            numbers, scores, loss = predict(trainer, data)
            found[name] = judge(numbers, scores)
            losses += [] if loss is None else [loss]
        self.verdicts = found
        scored = {name: verdict.scores for name, verdict in found.items() if verdict.scores is not None}
        return ({"loss": float(np.mean(losses))} if losses else {}) | (self.merge(scored) if scored else {})
