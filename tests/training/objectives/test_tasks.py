"""Losses of finetuning against torch's own, missing choices, R-Drop, and sums that do not see how rows are split."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from common.errors import ArgumentError
from training.objectives.tasks import OBJECTIVES, half_divergence, make_objective


def settings(**values):
    return SimpleNamespace(**{"label_smoothing": 0.0, "rdrop": 0.0} | values)


def fixed(logits):
    """A model that gives these logits, one batch after the other."""
    waiting = list(logits)

    def model(**inputs):
        scores = waiting.pop(0)
        return SimpleNamespace(logits=scores, start_logits=scores[:, 0], end_logits=scores[:, -1])

    return model


@pytest.fixture
def logits():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def batch(labels, length=5, **more):
    ones = torch.ones(len(labels), length, dtype=torch.int64)
    return {"input_ids": ones, "attention_mask": ones, "labels": torch.tensor(labels)} | more


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 4.0]])
def test_classification_is_torchs_weighted_mean(logits, smoothing, weights):
    weights = weights and torch.tensor(weights)
    objective = make_objective("classification", settings(label_smoothing=smoothing), 5, weights)
    inputs = batch([2, 0, 0, 1])
    sums, metrics = objective(fixed([logits]), inputs)
    expected = F.cross_entropy(logits, inputs["labels"], weights, label_smoothing=smoothing)
    torch.testing.assert_close(sums["task"] / objective.counts(inputs)["task"], expected)
    hundreds, count = metrics["accuracy"]  # percent, as evaluation gives it
    assert hundreds == 100 * (logits.argmax(1) == inputs["labels"]).sum() and count == 4


def test_a_single_light_row_still_weighs_as_one(logits):
    objective = make_objective("classification", settings(), 5, torch.tensor([0.1, 1.0, 1.0]))
    inputs = batch([0])
    sums, _ = objective(fixed([logits[:1]]), inputs)
    assert objective.counts(inputs)["task"] == 1
    torch.testing.assert_close(sums["task"], F.cross_entropy(logits[:1], inputs["labels"]))


def test_regression_is_squared_error_in_fp32(logits):
    objective = make_objective("regression", settings(), 5, None)
    inputs = batch([1.0, 2.5, 0.0, 5.0])
    sums, _ = objective(fixed([logits[:, :1].to(torch.bfloat16)]), inputs)
    assert sums["task"].dtype == torch.float32
    expected = (logits[:, 0].to(torch.bfloat16).float() - inputs["labels"]).square().sum()
    torch.testing.assert_close(sums["task"], expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_choice_that_is_not_there_takes_no_part(logits, smoothing):
    logits = logits.clone().requires_grad_()
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    objective = make_objective("multiple_choice", settings(label_smoothing=smoothing, rdrop=1.0), 5, None)
    inputs = batch([2, 0, 1, 1], choice_mask=mask)
    sums, _ = objective(fixed([logits, logits + 0.1 * logits.detach()]), inputs)
    rows = [
        F.cross_entropy(row[keep].unsqueeze(0), label.unsqueeze(0), label_smoothing=smoothing)
        for row, keep, label in zip(logits, mask, inputs["labels"], strict=True)
    ]
    only = make_objective("multiple_choice", settings(label_smoothing=smoothing), 5, None)
    torch.testing.assert_close(only.loss(only.scores(fixed([logits]), inputs), inputs), sum(rows))
    (sums["task"] + sums["r_drop"]).backward()
    assert logits.grad.isfinite().all() and (logits.grad[~mask] == 0).all() and (logits.grad[mask] != 0).all()


def test_questions_see_real_tokens_only():
    scores = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(1))
    inputs = batch([0, 0], 6, start_positions=torch.tensor([1, 0]), end_positions=torch.tensor([3, 2]))
    inputs["attention_mask"] = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    objective = make_objective("question_answering", settings(), 6, None)
    sums, metrics = objective(fixed([scores]), inputs)
    expected = sum(
        F.cross_entropy(scores[row : row + 1, side, :length], position[row : row + 1]) / 2
        for row, length in ((0, 6), (1, 3))
        for side, position in enumerate((inputs["start_positions"], inputs["end_positions"]))
    )
    torch.testing.assert_close(sums["task"], expected)
    assert metrics["accuracy"][1] == 2


def test_tags_without_a_label_take_no_part():
    scores = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    inputs = batch([[0, -100, 2], [3, -100, -100]], 3)
    objective = make_objective("tagging", settings(), 3, None)
    sums, metrics = objective(fixed([scores]), inputs)
    assert objective.counts(inputs)["task"] == metrics["accuracy"][1] == 3
    torch.testing.assert_close(
        sums["task"], F.cross_entropy(scores.flatten(0, 1), inputs["labels"].flatten(), reduction="sum")
    )


def test_several_labels_cost_what_transformers_has_them_cost(logits):
    labels = (torch.arange(logits.numel()).view_as(logits) % 3 == 0).float()
    objective, inputs = make_objective("multi_label", settings(), 5, None), batch(labels.tolist())
    sums, metrics = objective(fixed([logits]), inputs)
    mean = sums["task"] / objective.counts(inputs)["task"]
    torch.testing.assert_close(mean, F.binary_cross_entropy_with_logits(logits, labels))
    right, count = metrics["accuracy"]
    torch.testing.assert_close(right / count, 100 * ((logits > 0) == (labels > 0)).float().mean())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_r_drop_of_equal_answers_adds_exactly_nothing(kind):
    shape = {"tagging": (2, 5, 3), "question_answering": (2, 2, 5), "regression": (2, 1)}.get(kind, (2, 3))
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(3)).requires_grad_()
    labels = {"tagging": [[0, 1, -100, 2, 1]] * 2, "regression": [0.5, 2.0], "multi_label": [[0.0, 1, 1], [0, 0, 1]]}
    labels = labels.get(kind, [1, 0])
    inputs = batch(labels, choice_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))
    inputs |= {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([1, 1])}
    one, two = (make_objective(kind, settings(rdrop=weight), 5, None) for weight in (0.0, 5.0))
    plain, _ = one(fixed([scores]), inputs)
    (expected,) = torch.autograd.grad(plain["task"], scores)
    sums, _ = two(fixed([scores, scores]), inputs)
    assert torch.equal(sums["task"], plain["task"]) and sums["r_drop"] == 0
    (gradient,) = torch.autograd.grad(sums["r_drop"], scores, retain_graph=True)
    assert (gradient == 0).all()
    torch.testing.assert_close(torch.autograd.grad(sums["task"], scores)[0], expected)
    assert two.counts(inputs).keys() == two.weights.keys() == {"task", "r_drop"}


def test_divergence_is_the_mean_of_both_directions(logits):
    other = logits.flip(1)
    first, second = logits.log_softmax(-1), other.log_softmax(-1)
    both = F.kl_div(second, first, log_target=True, reduction="none").sum(1)
    both = both + F.kl_div(first, second, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(half_divergence(logits, other), both / 2)
    cut = torch.tensor([0.0, 1.0, -math.inf])
    assert half_divergence(cut, cut) == 0


@pytest.mark.parametrize("kind", ["regression", "question_answering"])
def test_smoothing_needs_labels_to_spread_over(kind):
    with pytest.raises(ArgumentError, match="--label_smoothing_factor has no meaning"):
        make_objective(kind, settings(label_smoothing=0.1), 5, None)
