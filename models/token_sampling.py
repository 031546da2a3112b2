"""Tokens drawn from logits with random numbers that belong to a sample and a place, however the batch is split.

Source: ELECTRA's three samplers (google-research/electra; richarddwang/electra_pytorch). The Gumbel-max trick is done
top down (Maddison et al. 2014, arXiv 1411.0030): the maximum over a block of tokens is a Gumbel variable at the
block's log sum, so that drawing the block first and the token inside it next is the same draw with far less noise.
Letters: N drawn tokens, V vocab_size, K random numbers a token.
"""

import torch

SAMPLERS = ("fp32_gumbel", "fp16_gumbel", "multinomial")
BLOCK = 256  # tokens of a block: about the root of common vocabularies, where both stages cost the same
_GOLDEN, _FIRST, _SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def scrambled(numbers: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function (Steele et al. 2014) of int64 numbers; sums and products wrap around."""
    numbers = (numbers ^ (numbers >> 30 & 2**34 - 1)) * _FIRST
    numbers = (numbers ^ (numbers >> 27 & 2**37 - 1)) * _SECOND
    return numbers ^ (numbers >> 31 & 2**33 - 1)


def uniforms(keys: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """Uniform fp32 numbers in (0, 1), [N, count]: entries first to first + count - 1 of each key's stream.

    keys: [N] int64. Every number is an odd multiple of 2^-24, exact in fp32, so that neither it nor 1 minus it is 0.
    """
    places = torch.arange(first + 1, first + count + 1, device=keys.device)
    numbers = scrambled(keys.unsqueeze(-1) + places * _GOLDEN) >> 41 & 2**23 - 1
    return (numbers.float() + 0.5) * 2**-23


def place_keys(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """seeds [B] int64 of samples, positions [B, P] int64 in their rows -> keys [B, P] of the places' streams."""
    return scrambled(scrambled(seeds.unsqueeze(-1) + _GOLDEN) + (positions + 1) * _GOLDEN)


def sample_uniformly(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Token ids [N] int64, each of the vocabulary as likely as any other."""
    return (uniforms(keys, 0, 1).squeeze(-1).double() * vocab_size).long()


def sample_tokens(weights: torch.Tensor, keys: torch.Tensor, method: str) -> torch.Tensor:
    """Token ids [N] int64, each with probability in proportion to its weight.

    weights: [N, V] fp32, exponentials of logits, the largest of a row not 0; keys: [N] int64; method: a sampler.
    """
    whole = weights.shape[1] // BLOCK * BLOCK
    sums = [weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)]
    if whole < weights.shape[1]:
        sums.append(weights[:, whole:].sum(-1, keepdim=True))
    sums = torch.cat(sums, dim=1)
    draw = _draw_from_sums if method == "multinomial" else _draw_by_gumbel
    block = draw(sums, uniforms(keys, 0, 1 if method == "multinomial" else sums.shape[1]))
    members = block.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(1, members.clamp(max=weights.shape[1] - 1)).masked_fill_(members >= weights.shape[1], 0)
    noise = uniforms(keys, sums.shape[1], 1 if method == "multinomial" else BLOCK)
    return block * BLOCK + draw(inside, noise)


def _draw_by_gumbel(weights: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """argmax of log weight - log(-log u), which is the argmin of -log(u) / weight."""
    return (weights / -noise.log()).argmax(-1)


def _draw_from_sums(weights: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The entry in which the running sum passes a uniform share of the total; never one of weight 0."""
    sums = weights.double().cumsum(-1)
    return torch.searchsorted(sums, noise.double() * sums[:, -1:], right=True).squeeze(-1)
