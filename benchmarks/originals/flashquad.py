"""FLASHQuad as its PyTorch port computes it: the opponent of models/flash_quad.py in benchmarks/train_step.py.

Source: the behaviour of JunnYu/FLASHQuad_pytorch e590261 (equations, order of operations, mask handling), in our own
code; the Toeplitz bias and the rotation follow the listings of the FLASH paper (arXiv 2202.10447, appendix). Here
stands what the port does otherwise than models/flash_quad.py; it passes the same parity cases
(tests/test_benchmark_originals.py). Letters: B batch, T tokens, D config.s, M max_position_embeddings.
"""

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.originals.masked_lm import EveryPosition
from models import layers
from models.flash_quad import (
    FLASHQuadEmbeddings,
    FLASHQuadForMaskedLM,
    FLASHQuadLayer,
    FLASHQuadModel,
    FLASHQuadPredictions,
)


def sinusoid(length, half, dtype, device):
    """Angles [length, half] of the positions 0..length-1."""
    frequencies = 10000 ** (-torch.arange(half, dtype=dtype, device=device) / half)
    return torch.einsum("n,d->nd", torch.arange(length, dtype=dtype, device=device), frequencies)


def rotate(x):
    """Turn the pairs (i, i + D/2) of x [B, T, heads, D] by their position on dimension 1."""
    angles = sinusoid(x.shape[1], x.shape[-1] // 2, x.dtype, x.device)[:, None, :]
    sin, cos = angles.sin(), angles.cos()
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def toeplitz(weights, length):
    """bias[i, j] = weights[j - i + M - 1], [1, length, length], by repeating the padded vector M times."""
    size = (weights.shape[-1] + 1) // 2
    rows = F.pad(weights, [0, size]).repeat(size)[:-size].reshape(1, size, 3 * size - 2)
    return rows[..., size - 1 : 2 * size - 1][:, :length, :length]


class ScaleNorm(layers.ScaleNorm):
    def forward(self, x):
        mean_square = torch.mean(torch.square(x), dim=-1, keepdim=True)
        return x * torch.rsqrt(mean_square + self.eps) * self.scala


class Embeddings(FLASHQuadEmbeddings):
    """The sinusoid is a table, and part of a checkpoint."""

    def __init__(self, config):
        super().__init__(config)
        self.LayerNorm = ScaleNorm(config.layer_norm_eps)
        angles = sinusoid(config.max_position_embeddings, config.hidden_size // 2, torch.float32, None)
        self.register_buffer("scaledsin_embeddings", torch.cat([angles.sin(), angles.cos()], dim=-1))
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])

    def forward(self, inputs_embeds, token_type_ids, positions):
        x = inputs_embeds + self.token_type_embeddings(token_type_ids)
        x = x + self.scaledsin_embeddings[positions] * self.scaledsin_scalar
        return F.dropout(self.LayerNorm(x), self.config.dropout, self.training)


class Layer(FLASHQuadLayer):
    """The division by M, the bias and the mask are passes over [B, T, T] of their own."""

    def __init__(self, config):
        super().__init__(config)
        self.uv = nn.Linear(config.hidden_size, sum(self.sizes))
        self.a = nn.Parameter(torch.randn(1, config.s) * config.initializer_range)  # never read, as in the original
        self.b = nn.Parameter(torch.randn(1, config.s) * config.initializer_range)
        self.LayerNorm = ScaleNorm(config.layer_norm_eps)

    def forward(self, x, mask, output_attentions, positions=None):
        """x [B, T, H] at all positions, whatever is asked for; mask [B, T]."""
        gate, value, base = torch.split(F.silu(self.uv(self.LayerNorm(x))), self.sizes, dim=-1)
        heads = rotate(torch.einsum("bnr,hr->bnhr", base, self.weight) + self.bias)
        query, key = torch.unbind(heads, dim=-2)
        scores = torch.einsum("bnd,bmd->bnm", query, key) / self.max_positions + toeplitz(self.w, x.shape[1])
        kernel = torch.square(torch.relu(scores))
        kernel = kernel * (mask.unsqueeze(1) * mask.unsqueeze(2)).type_as(kernel)
        return x + self.o(gate * torch.einsum("bnm,bme->bne", kernel, value)), kernel


class Model(FLASHQuadModel):
    def __init__(self, config):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder["layer"] = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def prepare(self, embeds, input_ids, attention_mask, token_type_ids, position_ids):
        """Layers take the mask [B, T] as it is, and make pairs and tables of their own."""
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).type_as(input_ids)
        token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        positions = self.embeddings.position_ids[:, : input_ids.shape[1]]
        return self.embeddings(embeds, token_type_ids, positions), (attention_mask,)


class Predictions(FLASHQuadPredictions):
    def __init__(self, config):
        super().__init__(config)
        self.transform.LayerNorm = ScaleNorm(config.layer_norm_eps)


class OriginalFLASHQuad(EveryPosition, FLASHQuadForMaskedLM):
    base_class, predictions_class = Model, Predictions
