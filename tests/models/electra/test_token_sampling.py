"""Replacements are drawn from the softmax, with numbers that belong to the sample and the place."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from models.electra.token_sampling import (
    SAMPLERS,
    Sampler,
    block_reduce,
    likeliest,
    place_keys,
    sample_tokens,
    sample_uniformly,
    scrambled,
    uniforms,
)

DRAWS = 1_000_000
EVERY_SAMPLER = pytest.mark.parametrize("method", SAMPLERS)


def keys(count, seed=0):
    return place_keys(torch.tensor([seed]), torch.arange(count).unsqueeze(0)).squeeze(0)


def assert_shares(tokens, probabilities):
    """Every share within four standard deviations, and none of what is impossible."""
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    probabilities = probabilities.double()
    spread = (len(tokens) * probabilities * (1 - probabilities)).sqrt()
    assert ((counts - len(tokens) * probabilities).abs() <= 4 * spread + 1e-9).all(), counts / len(tokens)


@EVERY_SAMPLER
def test_marginals_are_the_softmax(method):
    logits = torch.tensor([4.0, 2.0, 0.0, -2.0, -8.0])
    expected = torch.tensor([0.86495, 0.11706, 0.01584, 0.00214, 0.000005])
    torch.testing.assert_close(logits.softmax(-1), expected, atol=5e-6, rtol=0)
    tokens = Sampler(method)(logits.expand(DRAWS, 5), torch.zeros(DRAWS, dtype=torch.int64), keys(DRAWS))
    assert_shares(tokens, logits.softmax(-1))


@EVERY_SAMPLER
def test_marginals_are_the_softmax_over_many_blocks(method):
    torch.manual_seed(0)
    logits, draws = torch.full((700,), -torch.inf), 30_000
    likely = torch.tensor([0, 1, 255, 256, 300, 511, 512, 699])
    logits[likely] = torch.tensor([1.0, -1.0, 0.5, 2.0, -3.0, 0.0, 1.0, 1.5])
    weights = logits.exp().expand(draws, -1)
    tokens = sample_tokens(weights, block_reduce(weights, torch.sum), keys(draws, seed=1), method)
    assert_shares(tokens, logits.softmax(-1))


def test_temperature_and_disallow_correct_change_the_softmax():
    logits, labels = torch.tensor([1.0, 0.0, -1.0]), torch.zeros(100_000, dtype=torch.int64)
    rows, numbers = logits.expand(len(labels), 3), keys(len(labels))
    assert_shares(Sampler("fp32_gumbel", temperature=0.5)(rows, labels, numbers), (logits / 0.5).softmax(-1))
    expected = torch.tensor([0.0, *logits[1:].softmax(-1)])
    assert_shares(Sampler("multinomial", disallow_correct=True)(rows, labels, numbers), expected)


def test_half_precision_gumbel_rounds_the_logits():
    logits = torch.tensor([[8.0, 8.001]]).expand(100_000, 2)  # one number in half precision
    tokens = Sampler("fp16_gumbel", temperature=1e-4)(logits, torch.zeros(100_000, dtype=torch.int64), keys(100_000))
    assert_shares(tokens, torch.tensor([0.5, 0.5]))
    assert Sampler("fp32_gumbel", temperature=1e-4)(logits[:100], torch.zeros(100).long(), keys(100)).all()


def test_uniform_replacements_are_uniform():
    assert_shares(sample_uniformly(keys(DRAWS), 50), torch.full((50,), 1 / 50))


def test_numbers_are_uniform_independent_and_never_zero_or_one():
    numbers = uniforms(keys(1000), 0, 1000).double()
    assert numbers.min() > 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 4 / 12**0.5 / 1000
    assert abs(numbers.var() - 1 / 12) < 1e-3
    for other in (numbers.roll(1, 0), numbers.roll(1, 1)):  # the next place, the next number
        assert abs(torch.corrcoef(torch.stack((numbers.flatten(), other.flatten())))[0, 1]) < 4e-3
    assert (uniforms(keys(5), 7, 3) == uniforms(keys(5), 0, 10)[:, 7:]).all()
    extreme = torch.tensor([0, 2**23 - 1]).float().add(0.5).mul(2**-23)  # the least and the largest of them
    assert extreme[0] > 0 and extreme[1] < 1 and 1 - extreme[1] > 0


def test_keys_differ_between_seeds_and_places():
    seeds = torch.tensor([0, 1, -1, 2**62])
    keys = place_keys(seeds, torch.arange(1000).expand(4, -1))
    assert keys.unique().numel() == 4000


def test_one_masked_token_is_one_sampled_token():
    weights = torch.tensor([[0.0, 1.0, 0.0]])
    for method in SAMPLERS:
        assert sample_tokens(weights, weights.sum(-1, keepdim=True), keys(1), method).tolist() == [1]


@pytest.mark.parametrize("size", [5, 256, 257, 700])
def test_likeliest_is_the_first_argmax(size):
    torch.manual_seed(0)
    logits = torch.randint(0, 9, (200, size)).float()  # many ties
    assert torch.equal(likeliest(logits, block_reduce(logits, torch.amax)), logits.argmax(-1))


def test_streams_are_those_of_splitmix64_and_no_index_is_multiplied_with_64_bits():
    """inductor keeps an index and its products in 32 bits, so that no kernel for a GPU could be made."""
    own, golden = keys(5), 0x9E3779B97F4A7C15
    numbers = [[(key + place * golden) % 2**64 for place in range(8, 11)] for key in own.tolist()]
    expected = scrambled(torch.tensor([[n - 2**64 * (n >= 2**63) for n in row] for row in numbers]))
    assert torch.equal(uniforms(own, 7, 3), ((expected >> 41 & 2**23 - 1).float() + 0.5) * 2**-23)
    graph = make_fx(lambda k: uniforms(k, 7, 3))(own).graph
    factors = {node.args[0].target: node.args[1] for node in graph.nodes if node.target is torch.ops.aten.mul.Tensor}
    assert factors and torch.ops.aten.arange.start not in factors
