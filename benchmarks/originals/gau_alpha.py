"""GAU-alpha computed the way its PyTorch port computes it: the opponent of models/gau.py in benchmarks/train_step.py.

Source: the behaviour of JunnYu/GAU-alpha-pytorch a7ac55f (equations, order of operations, mask handling, dropout), in
our own code. Here stands what the port does otherwise than models/gau.py; it passes the same parity cases
(tests/test_benchmark_originals.py). Letters: B batch, T tokens, H hidden_size, D attention_key_size.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.originals.masked_lm import EveryPosition
from models.gau import GatedUnit, GAUAlphaEmbeddings, GAUAlphaForMaskedLM, GAUAlphaLayer, GAUAlphaModel


def norm(x, eps):
    """Divide x [..., H] by its root mean square; no parameters."""
    variance = torch.mean(torch.square(x), dim=-1, keepdim=True)
    return x / torch.sqrt(variance + eps)


def rotate(x, sin, cos):
    """Turn the pairs (2i, 2i+1) of x [B, T, D]; the two halves of the result are not interleaved again."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)


def normalize_attention(scores, mask, method):
    """Turn scores [B, T, T] into attention weights; mask [B, 1 or T, T] is 1.0 at valid keys."""
    if method == "softmax":
        return F.softmax(scores, dim=-1)
    count = torch.sum(mask, dim=-1, keepdim=True)
    if method == "squared_relu":
        return torch.square(torch.relu(scores)) / count
    scale = torch.log(count) / math.log(512) * mask + 1 - mask
    return F.softmax(scores * scale, dim=-1)


class Embeddings(GAUAlphaEmbeddings):
    """Token types are looked up where none are given too."""

    def forward(self, inputs_embeds, token_type_ids):
        x = norm(inputs_embeds + self.token_type_embeddings(token_type_ids), self.config.layer_norm_eps)
        return F.dropout(x, self.config.hidden_dropout_prob, self.training)


class Unit(GatedUnit):
    """Every factor of the scores is a pass over [B, T, T]."""

    def __init__(self, config):
        super().__init__(config)
        self.i_dense = nn.Linear(config.hidden_size, sum(self.sizes), bias=False)

    def forward(self, x, mask, sin, cos):
        gate, value, base = torch.split(F.silu(self.i_dense(x)), self.sizes, dim=-1)
        query = rotate(self.q_scaleoffset(base), sin, cos)
        key = rotate(self.k_scaleoffset(base), sin, cos)
        scores = torch.einsum("bmd,bnd->bmn", query, key)
        if self.config.attention_scale:
            scores = scores / math.sqrt(self.sizes[-1])
        scores = scores.masked_fill(mask == 0, -1e4)
        weights = normalize_attention(scores, mask, self.config.normalization)
        weights = F.dropout(weights, self.config.attention_probs_dropout_prob, self.training)
        return self.o_dense(gate * torch.einsum("bmn,bnd->bmd", weights, value)), weights


class Layer(GAUAlphaLayer):
    def __init__(self, config):
        super().__init__(config)
        self.gau = Unit(config)

    def forward(self, x, mask, sin, cos, output_attentions, positions=None):
        """x [B, T, H] at all positions, whatever is asked for."""
        output, weights = self.gau(x, mask, sin, cos)
        x = x + F.dropout(output, self.config.hidden_dropout_prob, self.training)
        return norm(x, self.config.layer_norm_eps), weights


class Model(GAUAlphaModel):
    def __init__(self, config):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder["layer"] = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        half = config.attention_key_size // 2
        frequencies = 10000 ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(config.max_position_embeddings, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("sin", angles.sin()[None], persistent=False)
        self.register_buffer("cos", angles.cos()[None], persistent=False)

    def prepare(self, embeds, input_ids, attention_mask, token_type_ids, position_ids):
        """The mask [B, 1 or T, T] in floating point, and tables as long as the rows."""
        mask = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask
        mask = (mask[:, None, :] if mask.dim() == 2 else mask).to(embeds.dtype)
        token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        tables = (table[:, : input_ids.shape[1]] for table in (self.sin, self.cos))
        return self.embeddings(embeds, token_type_ids), (mask, *tables)


class OriginalGAUAlpha(EveryPosition, GAUAlphaForMaskedLM):
    base_class = Model
