"""Sums over batches and processes."""

from types import MappingProxyType, SimpleNamespace

import pytest
import torch

from common.errors import ArgumentError
from training.loop.metric_sums import MetricSums, SumEvaluator
from training.objectives.base import Objective


def test_what_a_group_counts_it_counts_once():
    sums = MetricSums()
    sums.count("tokens", 7)
    sums.add("loss", torch.tensor(1.5))
    three_groups_of_two = SimpleNamespace(device="cpu", reduce=lambda tensor, kind: 6 * tensor)
    assert sums.totals(three_groups_of_two, copies=2) == {"tokens": 21, "loss": 4.5}


class OneTerm(Objective):
    weights, metrics, perplexity_of = MappingProxyType({"term": 1.0}), ("share",), "term"


@pytest.mark.parametrize("name", ["loss", "share", "perplexity", None])
def test_the_best_step_is_chosen_by_a_number_that_there_is(name):
    SumEvaluator(SimpleNamespace(metric_for_best_model=name), OneTerm(4), None, None, None)


def test_other_numbers_are_refused_with_those_that_there_are():
    with pytest.raises(ArgumentError, match="must be one of loss, share, perplexity, got term_loss"):
        SumEvaluator(SimpleNamespace(metric_for_best_model="term_loss"), OneTerm(4), None, None, None)
