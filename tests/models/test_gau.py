"""GAU-alpha: its attention is the formula, written a second time, for every normalisation and with offsets."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.models.small_models import batch, make


@pytest.mark.parametrize("variant", ["gau", "gau_squared_relu", "gau_softmax_bias"])
def test_attention_is_the_formula(variant):
    model = make(variant, "Model")
    ids, mask = batch()
    config, unit = model.config, model.encoder["layer"][0].gau
    with torch.no_grad():
        outputs = model(ids, mask, output_attentions=True, output_hidden_states=True)
        base = F.silu(unit.i_dense(outputs.hidden_states[0]))[..., -8:]
        turn = torch.polar(torch.ones(12, 4), torch.arange(12.0)[:, None] * 10000 ** (-torch.arange(4) / 4))
        query, key = (
            torch.view_as_complex((base * part.weight + (0 if part.bias is None else part.bias)).unflatten(-1, (4, 2)))
            * turn
            for part in (unit.q_scaleoffset, unit.k_scaleoffset)
        )
        scores = (query @ key.mH).real / (math.sqrt(8) if config.attention_scale else 1)
    for row, length in enumerate((12, 7, 3)):
        seen = scores[row, :, :length]
        if config.normalization == "squared_relu":
            expected = F.relu(seen).square() / length
        else:
            factor = math.log(length) / math.log(512) if config.normalization == "softmax_plus" else 1
            expected = (factor * seen).softmax(-1)
        attention = outputs.attentions[0][row]
        torch.testing.assert_close(attention[:, :length], expected, atol=1e-4, rtol=1e-4)
        assert not attention[:, length:].any(), "padding is not seen"
