"""FLASH computed the way its PyTorch port computes it: the opponent of models/flash.py in benchmarks/train_step.py.

Source: the behaviour of JunnYu/FLASHQuad_pytorch e590261 and of lucidrains/FLASH-pytorch 0.1.9 (equations, order of
operations, mask handling, dropout), in our own code. Here stands what they do otherwise than models/flash.py; it
passes the same parity cases (tests/test_benchmark_originals.py).
Letters: B batch, T tokens, E expanded width, D query_key_dim, G group_size, N groups.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.originals.masked_lm import EveryPosition
from models import flash
from models.flash import FLASHEmbeddings, FLASHForMaskedLM, FLASHLayer, FLASHModel, distance_buckets
from models.layers import ClampedScaleNorm


class ScaleNorm(ClampedScaleNorm):
    def forward(self, x):
        length = torch.norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
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


class RelativeBias(flash.RelativeBias):
    """Each pair of a group looks its bias up."""

    def forward(self, scores):
        keys = torch.arange(scores.shape[-1], device=scores.device)
        buckets = distance_buckets(keys[None, :] - keys[:, None], self.causal)
        return self.relative_attention_bias(buckets).squeeze(-1) * self.scale


class Embeddings(FLASHEmbeddings):
    """The sinusoid is a table."""

    def __init__(self, config):
        super().__init__(config)
        half = config.hidden_size // 2
        frequencies = 10000 ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(config.max_position_embeddings, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], dim=-1), persistent=False)

    def forward(self, inputs_embeds, positions):
        return inputs_embeds + self.table[: inputs_embeds.shape[1]] * self.scale


class Layer(FLASHLayer):
    """Rows are padded to whole groups, however short; products by einsum, each factor and mask a pass of its own."""

    def __init__(self, config):
        super().__init__(config)
        expanded, size = self.to_out.in_features, config.query_key_dim
        self.rotary_pos_emb = Rotary(min(32, size))
        self.rel_pos_bias = RelativeBias(config)
        self.norm = self.norm if config.norm_type == "layernorm" else ScaleNorm()
        self.to_hidden = nn.Sequential(nn.Linear(config.hidden_size, 2 * expanded), nn.SiLU())
        self.to_qk = nn.Sequential(nn.Linear(config.hidden_size, size), nn.SiLU())

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

    def forward(self, x, mask, output_attentions, positions=None):
        """x [B, T, H] at all positions, whatever is asked for; mask [B, T] or None."""
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
        weights = F.dropout(self.kernel(scores), self.config.dropout, self.training)
        if mask is not None:
            weights = weights.masked_fill(~mask.unflatten(1, (-1, 1, size)), 0.0)
        if self.config.causal:
            later = torch.ones((size, size), dtype=torch.bool, device=x.device).triu(1)
            weights = weights.masked_fill(later, 0.0)
        quadratic = torch.einsum("...ij,...jd->...id", weights, value)
        linear = self.linear_part(linear_query, linear_key, value, length)
        quadratic, linear = (part.flatten(1, 2)[:, :length] for part in (quadratic, linear))
        return shortcut + self.to_out(gate * (quadratic + linear)), weights


class Model(FLASHModel):
    def __init__(self, config):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder["layers"] = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def prepare(self, embeds, input_ids, attention_mask, token_type_ids, position_ids):
        """Layers take the mask [B, T] as it is."""
        mask = None if attention_mask is None else attention_mask.bool()
        return self.embeddings(embeds, position_ids), (mask,)


class OriginalFLASH(EveryPosition, FLASHForMaskedLM):
    base_class = Model
