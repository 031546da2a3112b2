"""FLASHQuad: its bias and its divisor, at any length."""

import pytest
import torch
from torch.nn import functional as F

from models.layers import toeplitz
from tests.models.small_models import batch, make


def test_flash_quad_repeats_the_end_entries_of_its_bias_beyond_the_table():
    layer = make("flash_quad").flash_quad.encoder["layer"][0]
    bias = toeplitz(layer.distances(40))
    for i, j in ((0, 0), (0, 15), (15, 0), (20, 10), (0, 39), (39, 0), (5, 25)):
        assert bias[i, j] == layer.w[min(max(j - i, -15), 15) + 15]


def test_flash_quad_divides_by_the_table_length_at_any_length():
    model = make("flash_quad", "Model")
    ids, mask = batch((30,), 30)
    layer = model.encoder["layer"][0]
    with torch.no_grad():
        outputs = model(ids, mask, output_attentions=True, output_hidden_states=True)
        x = layer.LayerNorm(outputs.hidden_states[0])
        base = F.silu(layer.uv(x))[..., -8:]
        frequencies = 10000 ** (-torch.arange(4) / 4)
        turn = torch.polar(torch.ones(30, 4), torch.arange(30.0)[:, None] * frequencies)
        q, k = (
            torch.complex(*(base * w + b).chunk(2, -1)) * turn for w, b in zip(layer.weight, layer.bias, strict=True)
        )
        expected = F.relu((q @ k.mH).real / 16 + toeplitz(layer.distances(30))).square()
    torch.testing.assert_close(outputs.attentions[0], expected, atol=1e-4, rtol=1e-4)


def test_new_biases_of_distances_are_positive_and_loaded_ones_as_they_are(tmp_path):
    model = make("flash_quad", strong=False)
    biases = [p for name, p in model.named_parameters() if name.endswith(".w")]
    everything = torch.cat([bias.detach().flatten() for bias in biases])
    assert len(biases) == model.config.num_hidden_layers and everything.min() > 0
    assert everything.square().mean().sqrt().item() == pytest.approx(model.config.initializer_range, rel=0.3)
    with torch.no_grad():
        for bias in biases:
            bias.neg_()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
