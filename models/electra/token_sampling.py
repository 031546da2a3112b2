"""Tokens drawn from logits with random numbers that belong to a sample and a place, however the batch is split.

Source: ELECTRA's three samplers (google-research/electra; richarddwang/electra_pytorch). The Gumbel-max trick is done
top down (Maddison et al. 2014, arXiv 1411.0030): the maximum over a block of tokens is a Gumbel variable at the
block's log sum, so that drawing the block first and the token inside it next is the same draw with far less noise.
Letters: N drawn tokens, V vocab_size, K random numbers a token.
"""

from dataclasses import dataclass

import torch

SAMPLERS = ("fp32_gumbel", "fp16_gumbel", "multinomial")
BLOCK = 256  # tokens of a block: about the root of common vocabularies, where both stages cost the same
_GOLDEN, _FIRST, _SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_INVERSE = pow(_GOLDEN, -1, 2**64) - 2**64  # times _GOLDEN it is 1 in numbers that wrap around at 2^64


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
    # key + place * golden, but inductor multiplies an index that it knows in 32 bits, which do not hold the factor.
    products = (keys.unsqueeze(-1) * _INVERSE + places) * _GOLDEN
    numbers = scrambled(products) >> 41 & 2**23 - 1
    return (numbers.float() + 0.5) * 2**-23


def place_keys(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """seeds [B] int64 of samples, positions [B, P] int64 in their rows -> keys [B, P] of the places' streams."""
    return scrambled(scrambled(seeds.unsqueeze(-1) + _GOLDEN) + (positions + 1) * _GOLDEN)


def sample_uniformly(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Token ids [N] int64, each of the vocabulary as likely as any other."""
    return (uniforms(keys, 0, 1).squeeze(-1).double() * vocab_size).long()


def block_reduce(table: torch.Tensor, reduce) -> torch.Tensor:
    """reduce, such as torch.amax, over each block of columns: [N, V] -> [N, V / BLOCK, rounded up]."""
    whole = table.shape[1] // BLOCK * BLOCK
    parts = [reduce(table[:, :whole].unflatten(1, (-1, BLOCK)), -1)] if whole else []
    if whole < table.shape[1]:
        parts.append(reduce(table[:, whole:], -1).unsqueeze(1))
    return torch.cat(parts, dim=1)


def block_members(table: torch.Tensor, block: torch.Tensor, filler: float) -> torch.Tensor:
    """The columns of block [N] in table [N, V], [N, BLOCK or V]; filler beyond the last column."""
    members = block.unsqueeze(-1) * BLOCK + torch.arange(min(BLOCK, table.shape[1]), device=table.device)
    inside = table.gather(1, members.clamp(max=table.shape[1] - 1))
    return inside.masked_fill_(members >= table.shape[1], filler)


def likeliest(logits: torch.Tensor, maxima: torch.Tensor) -> torch.Tensor:
    """argmax of logits [N, V], given those of its blocks; argmax over a long row is slow on a CPU."""
    block = maxima.argmax(-1)
    return block * BLOCK + block_members(logits, block, -torch.inf).argmax(-1)


def sample_tokens(weights: torch.Tensor, sums: torch.Tensor, keys: torch.Tensor, method: str) -> torch.Tensor:
    """Token ids [N] int64, each with probability in proportion to its weight.

    weights: [N, V] at least fp32, exponentials of logits, the largest of a row not 0; sums: those of its blocks;
    keys: [N] int64; method: a sampler.
    """
    draw = draw_from_sums if method == "multinomial" else draw_by_gumbel
    block = draw(sums, keys, 0)
    return block * BLOCK + draw(block_members(weights, block, 0), keys, sums.shape[1])


def draw_by_gumbel(weights: torch.Tensor, keys: torch.Tensor, first: int) -> torch.Tensor:
    """Argmax of log weight - log(-log u), as that of weight / -log u, with K numbers u from the first on."""
    return (weights / -uniforms(keys, first, weights.shape[1]).log()).argmax(-1)


def draw_from_sums(weights: torch.Tensor, keys: torch.Tensor, first: int) -> torch.Tensor:
    """The entry in which the running sum of weights [N, K] passes a uniform share of the total."""
    sums = weights.double().cumsum(-1)
    return torch.searchsorted(sums, uniforms(keys, first, 1).double() * sums[:, -1:], right=True).squeeze(-1)


@dataclass(frozen=True)
class Sampler:
    """How replacements are drawn from the generator's logits; see ElectraOptions."""

    method: str
    temperature: float | torch.Tensor = 1.0
    disallow_correct: bool = False

    @property
    def takes_softmax(self) -> bool:
        """Whether the weights are the softmax itself, which the loss computes anyway."""
        is_one = not isinstance(self.temperature, torch.Tensor) and self.temperature == 1
        return self.method != "fp16_gumbel" and is_one and not self.disallow_correct

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Token ids [N] for logits [N, V] of at least fp32, labels [N] (-100 where there is none) and keys [N]."""
        if self.method == "fp16_gumbel":
            logits = logits.half().to(logits.dtype)
        if self.disallow_correct:
            logits = logits.scatter(1, labels.clamp(min=0).unsqueeze(-1), -torch.inf)
        weights = ((logits - logits.amax(-1, keepdim=True)) / self.temperature).exp_()
        return sample_tokens(weights, block_reduce(weights, torch.sum), keys, self.method)
