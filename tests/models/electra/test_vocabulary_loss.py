"""The loss by chunks is torch's cross entropy, with its gradients."""

import pytest
import torch
from torch.nn import functional as F

from models.electra import vocabulary_loss
from models.electra.token_sampling import Sampler, place_keys
from models.electra.vocabulary_loss import VocabularyLoss

N, E, V = 11, 6, 300


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    labels = torch.randint(V, (N,))
    labels[[2, 7]] = -100
    shapes = ((N, E), (V, E), (V,))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes], labels


def run(tensors, labels, sampler=None, smoothing=0.0, differentiate=True):
    keys = place_keys(torch.tensor([3]), torch.arange(len(labels)).unsqueeze(0)).squeeze(0)
    return VocabularyLoss.apply(*tensors, labels, keys, sampler, smoothing, differentiate)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("parts", ["matrix and bias", "matrix", "logits"])
def test_loss_and_gradients_are_those_of_cross_entropy(inputs, smoothing, rows, parts, monkeypatch):
    monkeypatch.setitem(vocabulary_loss.CHUNK_LOGITS, "cpu", rows * V)
    (hidden, matrix, bias), labels = inputs
    tensors = {"matrix and bias": (hidden, matrix, bias), "matrix": (hidden, matrix, None)}.get(parts)
    if parts == "logits":
        hidden = torch.randn(N, V, dtype=torch.float64, requires_grad=True)
        tensors = (hidden, None, None)
    logits = hidden if parts == "logits" else F.linear(*tensors)
    expected = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    loss, correct, sampled = run(tensors, labels, smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(correct, logits.argmax(-1) == labels) and sampled is None
    leaves = [tensor for tensor in tensors if tensor is not None]
    wanted = torch.autograd.grad(3 * expected, leaves)
    for actual, gradient in zip(torch.autograd.grad(3 * loss, leaves), wanted, strict=True):
        torch.testing.assert_close(actual, gradient)


def test_sampled_tokens_do_not_depend_on_chunks(inputs, monkeypatch):
    for sampler in (Sampler("fp32_gumbel"), Sampler("multinomial"), Sampler("fp16_gumbel", 2.0, True)):
        samples = []
        for rows in (1, 3, 100):
            monkeypatch.setitem(vocabulary_loss.CHUNK_LOGITS, "cpu", rows * V)
            samples.append(run(*inputs, sampler)[2])
        assert torch.equal(samples[0], samples[1]) and torch.equal(samples[0], samples[2])
        logits = F.linear(*inputs[0]).detach()
        keys = place_keys(torch.tensor([3]), torch.arange(N).unsqueeze(0)).squeeze(0)
        assert torch.equal(samples[0], sampler(logits, inputs[1], keys))


def test_no_token_at_all_gives_loss_zero_and_zero_gradients(inputs):
    (_, matrix, bias), _ = inputs
    hidden = torch.zeros(0, E, dtype=torch.float64, requires_grad=True)
    loss, correct, sampled = run((hidden, matrix, bias), torch.zeros(0, dtype=torch.int64), Sampler("fp32_gumbel"))
    loss.backward()
    assert loss == 0 and len(correct) == 0 and len(sampled) == 0 and not matrix.grad.any() and not bias.grad.any()


def test_nothing_is_differentiated_unless_asked(inputs):
    with torch.no_grad():
        loss = run(*inputs, differentiate=False)[0]
    assert not loss.requires_grad
    torch.testing.assert_close(loss, run(*inputs)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_and_finite(dtype):
    torch.manual_seed(0)
    tensors = [torch.randn(shape, requires_grad=True) for shape in ((N, E), (V, E), (V,))]
    labels = torch.randint(V, (N,))
    exact = F.cross_entropy(F.linear(*tensors), labels, reduction="sum")
    wanted = torch.autograd.grad(exact, tensors)
    with torch.autocast("cpu", dtype):
        loss = run(tensors, labels)[0]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.01, atol=0)
    for actual, gradient in zip(torch.autograd.grad(loss, tensors), wanted, strict=True):
        assert actual.dtype == torch.float32 and (actual - gradient).norm() < 0.02 * gradient.norm()
