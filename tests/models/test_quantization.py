"""Dynamic int8 quantisation of every family by torchao: every linear layer, and the model says the same."""

import pytest
import torch

from tests.models.families import EVERY_CASE, make, rows, said

torchao = pytest.importorskip("torchao.quantization", reason="torchao: pip install -r requirements-extras.txt")


@EVERY_CASE
def test_a_model_of_int8_weights_runs_and_says_what_it_said(family, ending):
    model, inputs = make(family, ending), rows(ending, labels=False)
    expected = said(model, **inputs).detach()
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert all(type(linear.weight).__module__.startswith("torchao") for linear in linears)
    with torch.no_grad():
        difference = said(model, **inputs) - expected
    assert 0 < difference.norm() < 0.1 * expected.norm()
