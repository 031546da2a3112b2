"""GAU-alpha computed the way its PyTorch port computes it: the opponent of models/gau.py in benchmarks/train_step.py.

Source: the behaviour of JunnYu/GAU-alpha-pytorch a7ac55f (equations, order of operations, mask handling, dropout), in
our own code; it passes the same parity cases as models/gau.py (tests/test_benchmark_originals.py).
Letters: B batch, T tokens, H hidden_size, E intermediate_size, D attention_key_size, V vocab_size.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


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


class ScaleOffset(nn.Module):
    """One learned factor for each of D channels."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * self.weight


class GatedAttentionUnit(nn.Module):
    """The gated attention unit: x [B, T, H] -> output [B, T, H]."""

    def __init__(self, config):
        super().__init__()
        self.sizes = [config.intermediate_size, config.intermediate_size, config.attention_key_size]
        self.i_dense = nn.Linear(config.hidden_size, sum(self.sizes), bias=False)
        self.o_dense = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.q_scaleoffset = ScaleOffset(config.attention_key_size)
        self.k_scaleoffset = ScaleOffset(config.attention_key_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.attention_scale = config.attention_scale
        self.normalization = config.normalization

    def forward(self, x, mask, sin, cos):
        gate, value, base = torch.split(F.silu(self.i_dense(x)), self.sizes, dim=-1)
        query = rotate(self.q_scaleoffset(base), sin, cos)
        key = rotate(self.k_scaleoffset(base), sin, cos)
        scores = torch.einsum("bmd,bnd->bmn", query, key)
        if self.attention_scale:
            scores = scores / math.sqrt(self.sizes[-1])
        scores = scores.masked_fill(mask == 0, -1e4)
        weights = self.dropout(normalize_attention(scores, mask, self.normalization))
        return self.o_dense(gate * torch.einsum("bmn,bnd->bmd", weights, value)), weights


class Layer(nn.Module):
    """One post-norm layer."""

    def __init__(self, config):
        super().__init__()
        self.gau = GatedAttentionUnit(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.eps = config.layer_norm_eps

    def forward(self, x, mask, sin, cos):
        output, weights = self.gau(x, mask, sin, cos)
        return norm(x + self.dropout(output), self.eps), weights


class OriginalGAUAlpha(nn.Module):
    """Masked language model: forward gives a dict of loss, logits [B, T, V] and, on demand, all layers' outputs."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        embeddings = nn.Module()
        embeddings.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        embeddings.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        encoder = nn.Module()
        encoder.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.gau_alpha = nn.ModuleDict({"embeddings": embeddings, "encoder": encoder})
        decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        decoder.weight = embeddings.word_embeddings.weight
        self.cls = nn.ModuleDict({"predictions": nn.ModuleDict({"decoder": decoder})})
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        half = config.attention_key_size // 2
        frequencies = 10000 ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(config.max_position_embeddings, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("sin", angles.sin()[None], persistent=False)
        self.register_buffer("cos", angles.cos()[None], persistent=False)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, output_all=False):
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        embeddings = self.gau_alpha["embeddings"]
        x = embeddings.word_embeddings(input_ids) + embeddings.token_type_embeddings(token_type_ids)
        x = self.dropout(norm(x, self.config.layer_norm_eps))
        mask = (attention_mask[:, None, :] if attention_mask.dim() == 2 else attention_mask).to(x.dtype)
        sin, cos = (table[:, : input_ids.shape[1]] for table in (self.sin, self.cos))
        hidden_states, attentions = [x], []
        for layer in self.gau_alpha["encoder"].layer:
            x, weights = layer(x, mask, sin, cos)
            if output_all:
                hidden_states.append(x)
                attentions.append(weights)
        logits = self.cls["predictions"]["decoder"](x)
        loss = None if labels is None else F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))
        return {"loss": loss, "logits": logits, "hidden_states": hidden_states, "attentions": attentions}
