"""Norms, position tables and rotary embeddings that the GAU family shares, all computed in fp32.

Sources: GAU-alpha (ZhuiyiTechnology/GAU-alpha, JunnYu/GAU-alpha-pytorch), FLASH (Hua et al. 2022, arXiv 2202.10447;
JunnYu/FLASHQuad_pytorch, lucidrains/FLASH-pytorch), RoPE (Su et al. 2021, arXiv 2104.09864). Tables are functions of
the length and are made anew in each forward pass: no length limit, and nothing that loading could leave unfilled.
Letters: B batch, T tokens, H hidden_size, D query/key width.
"""

import torch
from torch import nn
from torch.nn import functional as F


def rms_norm(hidden: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, without weights; fp32 inside, dtype kept."""
    x = hidden.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)).to(hidden.dtype)


class ScaleNorm(nn.Module):
    """FLASHQuad's norm: x / sqrt(mean(x^2) + eps) times one learned scalar (parameter `scala`, as published)."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps
        self.scala = nn.Parameter(torch.ones(1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        x = hidden.float()
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.scala.float()
        return (x * scale).to(hidden.dtype)


class ClampedScaleNorm(nn.Module):
    """FLASH's norm: x / max(|x| / sqrt(H), eps) times one learned scalar (parameter `g`, as published)."""

    def __init__(self, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        x = hidden.float()
        # The clamp stands on the mean square, inside the root, so that a row of zeros has a finite gradient.
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True).clamp(min=self.eps**2)) * self.g.float()
        return (x * scale).to(hidden.dtype)


def position_angles(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Angles t * 10000^(-2i/dim) of integer positions [...], as fp32 [..., dim/2] in radians."""
    frequencies = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32).mul(-1 / dim)
    return positions.float().unsqueeze(-1) * torch.pow(10000.0, frequencies)


def sinusoid_table(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoidal position embedding: all sines, then all cosines; fp32 [..., dim]."""
    angles = position_angles(positions, dim)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def rotary_tables(positions: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin) for `rotate`, fp32 [..., 1, dim/2]; the axis of length one runs over heads."""
    angles = position_angles(positions, dim).unsqueeze(-2)
    return angles.cos(), angles.sin()


def rotate(heads: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor], interleaved: bool) -> torch.Tensor:
    """Turns the first R = 2 * tables width channels of fp32 `heads` [..., heads, D] by their position's angle.

    Pairs are (2i, 2i+1) when `interleaved`, else (i, i + R/2). The turned halves come back one after the other: every
    use is a dot product of two tensors that went through here, which does not see the order of channels.
    """
    cos, sin = tables
    width = 2 * cos.shape[-1]
    turned, rest = heads[..., :width], heads[..., width:]
    first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def affine_heads(base: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """base [..., D] times each row of weight [heads, D] plus bias [heads, D]; fp32 [..., heads, D]."""
    heads = base.float().unsqueeze(-2) * weight.float()
    return heads if bias is None else heads + bias.float()


def toeplitz(offsets: torch.Tensor) -> torch.Tensor:
    """[T, T] matrix whose entry (i, j) is offsets[j - i + T - 1]; offsets [2T-1]."""
    length = (offsets.shape[0] + 1) // 2
    return offsets.unfold(0, length, 1).flip(0)


def masked_softmax(scores: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis with invalid columns at -1e4, the original's value; overwrites the scores.

    A row without a valid column comes out uniform, never NaN. The kernel sums in fp32 whatever dtype it stores.
    """
    scores = scores.masked_fill_(~valid, -1e4)
    with torch.autocast(scores.device.type, enabled=False):
        return torch.softmax(scores, dim=-1)


def dropout(hidden: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """F.dropout that costs nothing at probability 0."""
    return F.dropout(hidden, probability, training) if training and probability else hidden
