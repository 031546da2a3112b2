"""What finetuning minimises, for six kinds of task, as sums and counts in fp32.

Label smoothing: Szegedy et al. 2016, arXiv 1512.00567. R-Drop: Liang et al. 2021, arXiv 2106.14448: every batch runs
twice under different dropout, and half the symmetric divergence of both answers is a second term of the loss.
Letters: B batch, C labels or choices, T tokens.
"""

import math

import torch
from torch.nn import functional as F

from common.errors import ArgumentError
from training.objectives.base import IGNORED, Objective

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class TaskObjective(Objective):
    """What the kinds share; a kind says what its scores are, what they cost and when they are right.

    Args:
        longest: tokens of the longest row.
        label_smoothing: share of a target that is spread over all labels, in [0, 1).
        class_weights: [C], how much each label counts; None for all alike.
        r_drop: weight of the divergence of two passes; 0 for one pass.
    """

    smooths = True  # whether label_smoothing has a meaning
    weighs = True  # whether class_weights have one

    def __init__(self, longest: int, label_smoothing: float = 0.0, class_weights=None, r_drop: float = 0.0):
        super().__init__(longest)
        self.weights = {"task": 1.0} | ({"r_drop": r_drop} if r_drop else {})
        self.smoothing = label_smoothing
        # The loss is divided by the sum of weights, which is never below that of one row then.
        self.class_weights = None if class_weights is None else class_weights.float() / class_weights.float().min()

    def counts(self, inputs: dict) -> dict[str, torch.Tensor]:
        divisors = {"task": self.count(inputs), "r_drop": self.targets(inputs)}
        return {term: divisors[term].float() for term in self.weights}

    def count(self, inputs: dict) -> torch.Tensor:
        """What the sum of losses is divided by: the weight of all targets."""
        if self.class_weights is None:
            return self.targets(inputs)
        labels = inputs["labels"]
        weights = self.class_weights.to(labels.device, non_blocking=True)
        return weights[labels.clamp(min=0)].masked_fill(labels == IGNORED, 0).sum()

    def targets(self, inputs: dict) -> torch.Tensor:
        """Number of targets, int64."""
        ids = inputs["input_ids"]
        return torch.full((), len(ids), device=ids.device)  # torch.tensor would wait for a GPU

    def example(self, length: int) -> dict[str, torch.Tensor]:
        return super().example(length) | {"labels": torch.zeros(1, dtype=torch.int64)}

    def __call__(self, model, inputs: dict):
        scores = self.scores(model, inputs)
        sums = {"task": self.loss(scores, inputs)}
        metrics = self.right(scores.detach(), inputs)
        if "r_drop" in self.weights:
            other = self.scores(model, inputs)
            sums = {"task": (sums["task"] + self.loss(other, inputs)) / 2}
            sums["r_drop"] = self.divergence(scores, other, inputs)
        return sums, metrics

    def scores(self, model, inputs: dict) -> torch.Tensor:
        """What the model says, fp32: [B, C], [B, T, C] (tagging), [B, 2, T] (start and end)."""
        return model(**{name: inputs[name] for name in _INPUTS if name in inputs}).logits.float()

    def loss(self, scores: torch.Tensor, inputs: dict) -> torch.Tensor:
        """Sum over targets."""
        raise NotImplementedError

    def right(self, scores: torch.Tensor, inputs: dict) -> dict[str, tuple]:
        """Metrics of a training batch in percent, as those of evaluation: pairs of numerator and denominator."""
        raise NotImplementedError

    def divergence(self, scores: torch.Tensor, other: torch.Tensor, inputs: dict) -> torch.Tensor:
        return half_divergence(scores, other).sum()


def half_divergence(scores: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(KL(p, q) + KL(q, p)) / 2 of the softmax of both over the last dimension; as exactly 0 as p and q are equal.

    Scores of -inf are of what cannot be chosen, in both.
    """
    first, second = F.log_softmax(scores, -1), F.log_softmax(other, -1)
    difference = (first - second).masked_fill(scores == -math.inf, 0)
    return ((first.exp() - second.exp()) * difference).sum(-1) / 2


class Classification(TaskObjective):
    """Cross entropy of one label per row; also of sentences with marked words and of pairs."""

    metrics = ("accuracy",)

    def _cross_entropy(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(scores.device, non_blocking=True)
        return F.cross_entropy(
            scores, labels, weights, ignore_index=IGNORED, reduction="sum", label_smoothing=self.smoothing
        )

    def loss(self, scores, inputs):
        return self._cross_entropy(scores, inputs["labels"])

    def right(self, scores, inputs):
        return {"accuracy": (100 * (scores.argmax(-1) == inputs["labels"]).sum(), self.targets(inputs))}


class MultiLabel(TaskObjective):
    """Binary cross entropy of each label, the mean over labels; accuracy is of single labels, yes or no."""

    metrics, smooths, weighs = ("accuracy",), False, False

    def example(self, length):
        return super().example(length) | {"labels": torch.zeros(1, 1)}  # of any number of labels

    def loss(self, scores, inputs):
        labels = inputs["labels"].expand_as(scores)
        return F.binary_cross_entropy_with_logits(scores, labels, reduction="none").mean(-1).sum()

    def right(self, scores, inputs):
        return {
            "accuracy": (100 * ((scores > 0) == (inputs["labels"] > 0)).float().mean(-1).sum(), self.targets(inputs))
        }

    def divergence(self, scores, other, inputs):
        return ((scores.sigmoid() - other.sigmoid()) * (scores - other)).mean(-1).sum() / 2


class Regression(TaskObjective):
    """Squared error of one number per row."""

    smooths = False

    def example(self, length):
        return super().example(length) | {"labels": torch.zeros(1)}

    def scores(self, model, inputs):
        return super().scores(model, inputs).squeeze(-1)  # [B]

    def loss(self, scores, inputs):
        return F.mse_loss(scores, inputs["labels"].float(), reduction="sum")

    def right(self, scores, inputs):
        return {}

    def divergence(self, scores, other, inputs):
        return F.mse_loss(scores, other, reduction="sum")


class MultipleChoice(TaskObjective):
    """Cross entropy of the right choice; a choice that a row lacks (choice_mask 0) scores -inf and takes no part."""

    metrics = ("accuracy",)

    def example(self, length):
        ones = torch.ones(1, 1, length, dtype=torch.int64)
        mask = torch.ones(1, 1, dtype=torch.bool)
        return {"input_ids": ones, "attention_mask": ones, "choice_mask": mask, "labels": ones[:, 0, 0] * 0}

    def scores(self, model, inputs):
        return super().scores(model, inputs).masked_fill(~inputs["choice_mask"].bool(), -math.inf)

    def loss(self, scores, inputs):
        logs, mask = F.log_softmax(scores, -1), inputs["choice_mask"].bool()
        right = logs.gather(1, inputs["labels"].unsqueeze(1)).squeeze(1)
        if not self.smoothing:
            return -right.sum()
        mean = logs.masked_fill(~mask, 0).sum(1) / mask.sum(1)
        return -((1 - self.smoothing) * right + self.smoothing * mean).sum()

    def right(self, scores, inputs):
        return {"accuracy": (100 * (scores.argmax(-1) == inputs["labels"]).sum(), self.targets(inputs))}


class QuestionAnswering(TaskObjective):
    """Mean of the cross entropies of start and end among the real tokens of a row."""

    metrics, smooths = ("accuracy",), False

    def example(self, length):
        start = torch.zeros(1, dtype=torch.int64)
        return super().example(length) | {"start_positions": start, "end_positions": start}

    def scores(self, model, inputs):
        outputs = model(**{name: inputs[name] for name in _INPUTS if name in inputs})
        both = torch.stack((outputs.start_logits, outputs.end_logits), 1).float()
        return both.masked_fill(inputs["attention_mask"].unsqueeze(1) == 0, -math.inf)

    @staticmethod
    def _start_and_end(inputs: dict) -> torch.Tensor:
        return torch.stack((inputs["start_positions"], inputs["end_positions"]), 1)  # [B, 2]

    def loss(self, scores, inputs):
        return F.cross_entropy(scores.flatten(0, 1), self._start_and_end(inputs).flatten(), reduction="sum") / 2

    def right(self, scores, inputs):
        return {
            "accuracy": (100 * (scores.argmax(-1) == self._start_and_end(inputs)).all(1).sum(), self.targets(inputs))
        }

    def divergence(self, scores, other, inputs):
        return half_divergence(scores, other).sum() / 2


class Tagging(Classification):
    """Cross entropy of the tag of each character's first token."""

    def example(self, length):
        return super().example(length) | {"labels": torch.zeros(1, length, dtype=torch.int64)}

    def targets(self, inputs):
        return (inputs["labels"] != IGNORED).sum()

    def loss(self, scores, inputs):
        return self._cross_entropy(scores.flatten(0, 1), inputs["labels"].flatten())

    def divergence(self, scores, other, inputs):
        return half_divergence(scores, other).masked_fill(inputs["labels"] == IGNORED, 0).sum()


OBJECTIVES = {
    "classification": Classification,
    "multi_label": MultiLabel,
    "regression": Regression,
    "multiple_choice": MultipleChoice,
    "question_answering": QuestionAnswering,
    "tagging": Tagging,
}


def make_objective(kind: str, settings, longest: int, weights: torch.Tensor | None) -> TaskObjective:
    """Objective of a kind of task. settings: label_smoothing and rdrop; weights: of the labels, or None.

    ArgumentError when this kind cannot smooth its labels or weigh them.
    """
    objective = OBJECTIVES[kind]
    if settings.label_smoothing and not objective.smooths:
        raise ArgumentError(f"--label_smoothing_factor has no meaning for a task of {kind}; leave it out")
    if weights is not None and not objective.weighs:
        raise ArgumentError(f"--class_weights has no meaning for a task of {kind}; leave it out")
    return objective(longest, settings.label_smoothing, weights, settings.rdrop)
