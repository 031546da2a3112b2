"""Norms, dropout, rotary angles, Toeplitz matrices and linear layers that the gated units share."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from models.layers import UnitNorm, dropout, product, rotary_table, rotate, split_scale, toeplitz
from tests.models.small_models import batch, doubles, make


@pytest.mark.parametrize("variant", ["gau", "flash_quad", "flash"])
def test_rotary_stays_exact_in_bfloat16(variant):
    """A whole model in bf16 differs from fp32 by rounding, not by wrong angles at far positions."""
    model = make(variant, "Model", strong=False)
    ids, mask = batch((512,), 512)
    with torch.no_grad():
        exact = model(ids, mask)[0]
        rounded = model.bfloat16()(ids, mask)[0].float()
    assert (exact - rounded).norm() / exact.norm() < 0.02


def test_toeplitz_reads_the_offset_key_minus_query():
    offsets = torch.arange(9.0)
    matrix = toeplitz(offsets)
    for i in range(5):
        for j in range(5):
            assert matrix[i, j] == offsets[j - i + 4]


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("clamped", [True, False])
def test_unit_norm_has_the_gradient_of_its_output(scaled, clamped):
    hidden, scale = doubles((3, 5), (1,))
    hidden = torch.cat((hidden, 0.01 * hidden[:1])).detach().requires_grad_()  # a row below the clamp
    arguments = (hidden, scale if scaled else None, 0.1, clamped, torch.float64)
    assert gradcheck(UnitNorm.apply, arguments)


@pytest.mark.parametrize("interleaved", [False, True])
def test_compiled_rotary_in_real_numbers_is_that_of_complex_ones(monkeypatch, interleaved):
    heads = torch.randn(2, 7, 3, 8, requires_grad=True)
    table, pick = rotary_table(torch.arange(7), 8), torch.randn(2, 7, 3, 8)

    def turn():
        turned = rotate(heads, table, interleaved)
        return turned, torch.autograd.grad((turned * pick).sum(), heads)[0]

    plain = turn()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(turn(), plain)


@pytest.mark.parametrize("length", [1, 5])
def test_a_compiled_toeplitz_matrix_has_the_entries_and_gradients_of_a_window(monkeypatch, length):
    offsets = torch.randn(2 * length - 1, dtype=torch.float64, requires_grad=True)
    pick = torch.randn(length, length, dtype=torch.float64)

    def lay_out():
        matrix = toeplitz(offsets)
        return matrix, torch.autograd.grad((matrix * pick).sum(), offsets)[0]

    plain = lay_out()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(lay_out(), plain)


def test_dropout_drops_its_share_keeps_the_mean_and_repeats_with_the_seed():
    hidden = torch.ones(1000, 1001, requires_grad=True)
    torch.manual_seed(0)
    dropped = dropout(hidden, 0.1, training=True)
    share = (dropped == 0).float().mean().item()
    assert abs(share - 0.1) < 0.001
    assert abs(dropped.mean().item() - 1) < 0.001
    assert dropped.unique().numel() == 2
    dropped.sum().backward()
    assert torch.equal(hidden.grad, dropped.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(hidden, 0.1, training=True), dropped)
    assert dropout(hidden, 0.1, training=False) is hidden
    neighbours = (dropped[:, 1:] == 0) & (dropped[:, :-1] == 0)
    assert abs(neighbours.float().mean().item() - 0.01) < 0.001


@pytest.mark.parametrize("outputs", [3, 9])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("part", [None, slice(1, 3)])
def test_product_is_torchs_linear_or_a_part_of_it(outputs, bias, part):
    layer, inputs = torch.nn.Linear(5, outputs, bias=bias).double(), torch.randn(4, 7, 5, requires_grad=True)
    assert gradcheck(lambda x: product(layer, x, part), inputs.detach().double().requires_grad_())
    layer.float()
    results = []
    for compute in (lambda x: product(layer, x, part), lambda x: layer(x)[..., part or slice(None)]):
        inputs.grad = None
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = compute(inputs)
        output.square().sum().backward()
        results.append([output, inputs.grad, *(parameter.grad for parameter in layer.parameters())])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0.02)
        assert mine.dtype == theirs.dtype and (part or mine.stride() == theirs.stride())


@pytest.mark.parametrize("scale", [1 / 512, 1 / 300, 0.7, 3.0])
def test_a_split_scale_is_two_factors_of_like_size_that_round_nothing(scale):
    queries, keys = split_scale(scale)
    assert queries * keys == scale and 0.25 <= queries / keys <= 4 and math.log2(keys).is_integer()
