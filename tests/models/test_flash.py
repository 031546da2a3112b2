"""FLASH: its divisors, its causal form, its bias."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import models
from models.flash import distance_buckets
from tests.models.small_models import batch, make


def test_flash_length_divisor_counts_padding_as_the_original_does():
    model = make("flash", "Model", linear_divisor="length")
    ids, mask = batch()
    with torch.no_grad():
        short, long = model(ids, mask)[0], model(F.pad(ids, (0, 20)), F.pad(mask, (0, 20)))[0]
    assert (short[0] - long[0, :12]).abs().max() > 0.01


def test_causal_flash_hides_the_future():
    model = make("flash_causal", "Model")
    ids, mask = batch((20, 20), 20)
    changed = ids.clone()
    changed[:, 11:] = (changed[:, 11:] + 7) % 49 + 1
    with torch.no_grad():
        before, after = model(ids, mask)[0], model(changed, mask)[0]
    assert torch.equal(before[:, :11], after[:, :11])
    assert (before[:, 11:] - after[:, 11:]).abs().max() > 1e-3


@pytest.mark.parametrize("causal", [False, True])
def test_flash_buckets_equal_the_original_table(causal):
    tensors = load_file(Path(__file__).parents[1] / "fixtures" / "flash.safetensors")
    expected = tensors["rel_bucket_causal" if causal else "rel_bucket_bidirectional"]
    assert torch.equal(distance_buckets(tensors["rel_offsets_j_minus_i"], causal), expected)


def test_flash_divisor_max_position_is_padding_to_the_table(published, parity):
    """max_position gives at any padding what the original gives when padded to the table's length."""
    folder = published("flash")
    _, _, cases = parity("flash")
    config = models.FLASHConfig.from_pretrained(folder)
    assert config.linear_divisor == "length"
    original = models.FLASHForMaskedLM.from_pretrained(folder)
    ours = models.FLASHForMaskedLM.from_pretrained(folder, linear_divisor="max_position")
    ids, mask = cases[0]["input_ids"], cases[0]["attention_mask"]
    padding = (0, config.max_position_embeddings - ids.shape[1])
    with torch.no_grad():
        padded = original(torch.nn.functional.pad(ids, padding), torch.nn.functional.pad(mask, padding)).logits
        short = ours(ids, mask).logits
    torch.testing.assert_close(short[mask.bool()], padded[:, : ids.shape[1]][mask.bool()], atol=1e-4, rtol=0)


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
def test_linear_attention_is_as_exact_in_half_precision_on_long_rows(fast):
    """1 / T, applied to the keys alone, left them an error of 0.2 % at 512 tokens and 2.5 % at 8,192 in fp16."""
    config = models.FLASHConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, query_key_dim=64)
    torch.manual_seed(0)
    model = models.FLASHModel(config).train(fast)
    layer = model.layers[0]
    with torch.no_grad():  # nothing but the linear part is left, and it is large beside the residual
        layer.rel_pos_bias.relative_attention_bias.weight.zero_()
        layer.qk_offset_scale.weight[::2] = 0
        layer.qk_offset_scale.weight[1] = 1
        layer.qk_offset_scale.weight[3] *= 0.3
        for linear in (layer.to_hidden[0], layer.to_qk[0], layer.to_out):
            linear.weight.normal_(std=linear.in_features**-0.5)
    for length in (512, 2048, 8192):
        hidden, (attention,) = model.prepare(torch.randn(1, length, 32), None, None, None, None)
        results = []
        for half in (False, True):
            with torch.autocast("cpu", torch.float16, enabled=half), torch.set_grad_enabled(fast):
                output = layer(hidden, attention, False)[0] - hidden
            gradients = []
            if fast:
                outer = torch.linspace(-64, 64, output.numel()).view_as(output)
                gradients = torch.autograd.grad(output, [layer.qk_offset_scale.weight, layer.to_qk[0].weight], outer)
            results.append([output.detach(), *gradients])
        for expected, result in zip(*results, strict=True):
            assert (result - expected).norm() <= 2e-3 * expected.norm()
