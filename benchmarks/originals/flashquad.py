"""FLASHQuad as its PyTorch port computes it: the opponent of models/flash_quad.py in benchmarks/train_step.py.

Source: the behaviour of JunnYu/FLASHQuad_pytorch e590261 (equations, order of operations, mask handling), in our own
code; the Toeplitz bias and the rotation follow the listings of the FLASH paper (arXiv 2202.10447, appendix). It passes
the same parity cases as models/flash_quad.py (tests/test_benchmark_originals.py).
Letters: B batch, T tokens, H hidden_size, E expanded width, D config.s, M max_position_embeddings, V vocab_size.
"""

import torch
from torch import nn
from torch.nn import functional as F


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


class ScaleNorm(nn.Module):
    """Root mean square norm with a single learned factor."""

    def __init__(self, eps):
        super().__init__()
        self.scala = nn.Parameter(torch.ones(1))
        self.eps = eps

    def forward(self, x):
        mean_square = torch.mean(torch.square(x), dim=-1, keepdim=True)
        return x * torch.rsqrt(mean_square + self.eps) * self.scala


class Layer(nn.Module):
    """One pre-norm gated attention unit with squared ReLU attention."""

    def __init__(self, config):
        super().__init__()
        expanded = int(config.hidden_size * config.expansion_factor)
        self.sizes = [expanded, expanded, config.s]
        self.size = config.max_position_embeddings
        self.uv = nn.Linear(config.hidden_size, sum(self.sizes))
        self.weight = nn.Parameter(torch.randn(2, config.s) * config.initializer_range)
        self.bias = nn.Parameter(torch.zeros(2, config.s))
        self.w = nn.Parameter(torch.randn(2 * self.size - 1) * config.initializer_range)
        self.a = nn.Parameter(torch.randn(1, config.s) * config.initializer_range)  # never read, as in the original
        self.b = nn.Parameter(torch.randn(1, config.s) * config.initializer_range)
        self.o = nn.Linear(expanded, config.hidden_size)
        self.LayerNorm = ScaleNorm(config.layer_norm_eps)

    def forward(self, x, attention_mask):
        shortcut = x
        gate, value, base = torch.split(F.silu(self.uv(self.LayerNorm(x))), self.sizes, dim=-1)
        heads = rotate(torch.einsum("bnr,hr->bnhr", base, self.weight) + self.bias)
        query, key = torch.unbind(heads, dim=-2)
        scores = torch.einsum("bnd,bmd->bnm", query, key) / self.size + toeplitz(self.w, x.shape[1])
        kernel = torch.square(torch.relu(scores))
        pairs = (attention_mask.unsqueeze(1) * attention_mask.unsqueeze(2)).type_as(kernel)
        kernel = kernel * pairs
        return shortcut + self.o(gate * torch.einsum("bnm,bme->bne", kernel, value)), kernel


class OriginalFLASHQuad(nn.Module):
    """Masked language model: forward gives a dict of loss, logits [B, T, V] and, on demand, all layers' outputs."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        embeddings = nn.Module()
        embeddings.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        embeddings.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        embeddings.scaledsin_scalar = nn.Parameter(torch.full((1,), config.hidden_size**-0.5))
        embeddings.LayerNorm = ScaleNorm(config.layer_norm_eps)
        angles = sinusoid(config.max_position_embeddings, config.hidden_size // 2, torch.float32, None)
        embeddings.register_buffer("scaledsin_embeddings", torch.cat([angles.sin(), angles.cos()], dim=-1))
        embeddings.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])
        encoder = nn.Module()
        encoder.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.flash_quad = nn.ModuleDict({"embeddings": embeddings, "encoder": encoder})
        head = nn.Module()
        head.bias = nn.Parameter(torch.zeros(config.vocab_size))
        head.transform = nn.Module()
        head.transform.dense = nn.Linear(config.hidden_size, config.hidden_size)
        head.transform.LayerNorm = ScaleNorm(config.layer_norm_eps)
        head.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        head.decoder.weight, head.decoder.bias = embeddings.word_embeddings.weight, head.bias
        self.cls = nn.ModuleDict({"predictions": head})
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, output_all=False):
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).type_as(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        embeddings = self.flash_quad["embeddings"]
        positions = embeddings.position_ids[:, : input_ids.shape[1]]
        x = embeddings.word_embeddings(input_ids) + embeddings.token_type_embeddings(token_type_ids)
        x = x + embeddings.scaledsin_embeddings[positions] * embeddings.scaledsin_scalar
        x = self.dropout(embeddings.LayerNorm(x))
        hidden_states, attentions = [x], []
        for layer in self.flash_quad["encoder"].layer:
            x, kernel = layer(x, attention_mask)
            if output_all:
                hidden_states.append(x)
                attentions.append(kernel)
        head = self.cls["predictions"]
        logits = head.decoder(head.transform.LayerNorm(F.silu(head.transform.dense(x))))
        loss = None if labels is None else F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))
        return {"loss": loss, "logits": logits, "hidden_states": hidden_states, "attentions": attentions}
