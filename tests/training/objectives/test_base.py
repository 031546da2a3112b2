"""What objectives share: defaults that fit a model with a label for each token, and trials that leave no trace."""

import pytest
import torch
from torch import nn

from training.objectives.base import Objective, trying


def test_an_objective_needs_counts_and_sums_alone():
    objective = Objective(longest=7)
    assert objective.example_lengths == (3, 7) and Objective(1).example_lengths == (1, 2)
    assert {name: tensor.shape for name, tensor in objective.example(5).items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), (1, 5)
    )
    assert objective.state() == {} and objective.restore() is None
    with pytest.raises(NotImplementedError):
        objective.counts({})


@pytest.mark.parametrize("training", [True, False])
def test_a_trial_leaves_no_trace_even_where_it_fails(training):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train(training)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="as it must"), trying(model):
        torch.rand(3)
        assert not model.training and not model(torch.ones(1, 4)).requires_grad
        raise ValueError("as it must")
    assert model.training == training and torch.equal(torch.get_rng_state(), state)
