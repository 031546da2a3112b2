"""FLASH computed the way its PyTorch port computes it: the opponent of models/flash.py in benchmarks/train_step.py.

Source: the behaviour of JunnYu/FLASHQuad_pytorch e590261 and of lucidrains/FLASH-pytorch 0.1.9 (equations, order of
operations, mask handling, dropout), in our own code; it passes the same parity cases as models/flash.py
(tests/test_benchmark_originals.py).
Letters: B batch, T tokens, H hidden_size, E expanded width, D query_key_dim, G group_size, N groups, V vocab_size.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class ScaleNorm(nn.Module):
    """x / max(root mean square, eps), times a single learned factor."""

    def __init__(self, size, eps=1e-5):
        super().__init__()
        self.scale, self.eps = size**-0.5, eps
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x):
        length = torch.norm(x, dim=-1, keepdim=True) * self.scale
        return x / length.clamp(min=self.eps) * self.g


class Rotary(nn.Module):
    """Turns the pairs (2i, 2i+1) of the first 32 channels; the angles are repeated, not the pairs split."""

    def __init__(self, size):
        super().__init__()
        frequencies = 10000 ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
        self.freqs = nn.Parameter(frequencies, requires_grad=False)

    def forward(self, x):
        positions = torch.arange(x.shape[-2], device=x.device)
        angles = torch.einsum("n,f->nf", positions.type(self.freqs.dtype), self.freqs)
        angles = torch.repeat_interleave(angles, 2, dim=-1)
        turned, rest = x[..., : angles.shape[-1]], x[..., angles.shape[-1] :]
        first, second = turned.unflatten(-1, (-1, 2)).unbind(dim=-1)
        crossed = torch.stack((-second, first), dim=-1).flatten(-2)
        return torch.cat((turned * angles.cos() + crossed * angles.sin(), rest), dim=-1)


class RelativeBias(nn.Module):
    """T5's relative bias of one head, times a factor."""

    def __init__(self, scale, causal, buckets=32, max_distance=128):
        super().__init__()
        self.scale, self.causal, self.buckets, self.max_distance = scale, causal, buckets, max_distance
        self.relative_attention_bias = nn.Embedding(buckets, 1)

    def bucket(self, distance):
        buckets, offset = self.buckets, 0
        if self.causal:
            distance = torch.clamp(distance, min=0)
        else:
            buckets //= 2
            offset = (distance < 0).long() * buckets
            distance = distance.abs()
        exact = buckets // 2
        share = torch.log(distance.float() / exact) / math.log(self.max_distance / exact)
        far = torch.clamp(exact + (share * (buckets - exact)).long(), max=buckets - 1)
        return offset + torch.where(distance < exact, distance, far)

    def forward(self, scores):
        queries = torch.arange(scores.shape[-2], device=scores.device)
        keys = torch.arange(scores.shape[-1], device=scores.device)
        values = self.relative_attention_bias(self.bucket(queries[:, None] - keys[None, :]))
        return values.squeeze(-1) * self.scale


class Layer(nn.Module):
    """One pre-norm mixed chunk attention layer."""

    def __init__(self, config):
        super().__init__()
        expanded = int(config.hidden_size * config.expansion_factor)
        self.config, size = config, config.query_key_dim
        self.rotary_pos_emb = Rotary(min(32, size))
        self.rel_pos_bias = RelativeBias(math.sqrt(size), config.causal)
        self.norm = (
            nn.LayerNorm(config.hidden_size) if config.norm_type == "layernorm" else ScaleNorm(config.hidden_size)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.to_hidden = nn.Sequential(nn.Linear(config.hidden_size, 2 * expanded), nn.SiLU())
        self.to_qk = nn.Sequential(nn.Linear(config.hidden_size, size), nn.SiLU())
        self.qk_offset_scale = nn.Module()
        self.qk_offset_scale.weight = nn.Parameter(torch.randn(4, size) * config.initializer_range)
        self.qk_offset_scale.bias = nn.Parameter(torch.zeros(4, size))
        self.to_out = nn.Linear(expanded, config.hidden_size)

    def kernel(self, scores):
        if self.config.laplace_attn_fn:
            mean, deviation = math.sqrt(0.5), math.sqrt(0.25 / math.pi)
            return 0.5 * (1 + torch.erf((scores - mean) / (deviation * math.sqrt(2))))
        return torch.relu(scores) ** 2

    def linear_part(self, query, key, value, length):
        """Attention over whole sequences without a kernel: inputs [B, N, G, D or E] -> [B, N, G, E]."""
        if self.config.causal:
            states = torch.einsum("bgnd,bgne->bgde", key, value) / query.shape[2]
            states = F.pad(states.cumsum(dim=1), (0, 0, 0, 0, 1, -1))
            return torch.einsum("bgde,bgnd->bgne", states, query)
        if self.config.reduce_group_non_causal_attn:
            return torch.einsum("bgnd,bde->bgne", query, torch.einsum("bgnd,bgne->bde", key, value) / length)
        return torch.einsum("bgnd,bgde->bgne", query, torch.einsum("bgnd,bgne->bgde", key, value) / length)

    def forward(self, x, mask):
        shortcut, length, size = x, x.shape[1], self.config.group_size
        x = self.norm(x)
        if self.config.shift_tokens:
            delayed, same = x.chunk(2, dim=-1)
            x = torch.cat((F.pad(delayed, (0, 0, 1, -1)), same), dim=-1)
        value, gate = self.to_hidden(x).chunk(2, dim=-1)
        offset_scale = self.qk_offset_scale
        heads = torch.einsum("...d,hd->...hd", self.to_qk(x), offset_scale.weight) + offset_scale.bias
        quad_query, linear_query, quad_key, linear_key = heads.unbind(dim=-2)
        if mask is not None:
            linear_key = linear_key.masked_fill(~mask[..., None], 0.0)
        parts = [self.rotary_pos_emb(part) for part in (quad_query, linear_query, quad_key, linear_key)]
        padding = -length % size
        if padding:
            parts = [F.pad(part, (0, 0, 0, padding)) for part in parts]
            value = F.pad(value, (0, 0, 0, padding))
            mask = torch.ones(x.shape[:2], device=x.device, dtype=torch.bool) if mask is None else mask
            mask = F.pad(mask, (0, padding), value=False)
        quad_query, linear_query, quad_key, linear_key = (part.unflatten(1, (-1, size)) for part in parts)
        value = value.unflatten(1, (-1, size))
        scores = torch.einsum("...id,...jd->...ij", quad_query, quad_key) / size
        scores = scores + self.rel_pos_bias(scores)
        weights = self.dropout(self.kernel(scores))
        if mask is not None:
            weights = weights.masked_fill(~mask.unflatten(1, (-1, 1, size)), 0.0)
        if self.config.causal:
            later = torch.ones((size, size), dtype=torch.bool, device=x.device).triu(1)
            weights = weights.masked_fill(later, 0.0)
        quadratic = torch.einsum("...ij,...jd->...id", weights, value)
        linear = self.linear_part(linear_query, linear_key, value, length)
        quadratic, linear = (part.flatten(1, 2)[:, :length] for part in (quadratic, linear))
        return shortcut + self.to_out(gate * (quadratic + linear)), weights


class OriginalFLASH(nn.Module):
    """Masked language model: forward gives a dict of loss, logits [B, T, V] and, on demand, all layers' outputs."""

    def __init__(self, config):
        super().__init__()
        embeddings = nn.Module()
        embeddings.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        embeddings.scale = nn.Parameter(torch.ones(1))
        half = config.hidden_size // 2
        frequencies = 10000 ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(config.max_position_embeddings, dtype=torch.float32)[:, None] * frequencies
        table = torch.cat([angles.sin(), angles.cos()], dim=-1)
        embeddings.register_buffer("table", table, persistent=False)
        encoder = nn.Module()
        encoder.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.flash = nn.ModuleDict({"embeddings": embeddings, "encoder": encoder})
        head = nn.Module()
        head.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        head.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        head.decoder.weight = embeddings.word_embeddings.weight
        self.cls = nn.ModuleDict({"predictions": head})

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, output_all=False):
        del token_type_ids  # the model has none
        embeddings = self.flash["embeddings"]
        x = embeddings.word_embeddings(input_ids) + embeddings.table[: input_ids.shape[1]] * embeddings.scale
        mask = None if attention_mask is None else attention_mask.bool()
        hidden_states, attentions = [x], []
        for layer in self.flash["encoder"].layers:
            x, weights = layer(x, mask)
            if output_all:
                hidden_states.append(x)
                attentions.append(weights)
        head = self.cls["predictions"]
        logits = head.decoder(head.LayerNorm(x))
        loss = None if labels is None else F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))
        return {"loss": loss, "logits": logits, "hidden_states": hidden_states, "attentions": attentions}
