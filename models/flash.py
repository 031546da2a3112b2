"""FLASH: gated units with squared-ReLU attention inside groups of tokens and linear attention across them.

Source: FLASH (Hua et al. 2022, arXiv 2202.10447; lucidrains/FLASH-pytorch 0.1.9, JunnYu/FLASHQuad_pytorch).
Parameters keep the published checkpoints' names. We differ in: any length, `linear_divisor`, first-token pooling,
groups never longer than the row. Letters: B batch, T tokens, N groups, G group_size, H hidden_size, E expanded width,
D query/key width.
"""

import math
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .base import (
    MOST_EXPANSION,
    Encoder,
    StrictPreTrainedModel,
    check_choice,
    check_even,
    check_padding,
    check_range,
    check_sizes,
)
from .gated import ChunkAttention, MixedChunkAttention, laplace
from .heads import (
    MaskedLMHead,
    MultipleChoiceHead,
    Predictions,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    TokenClassificationHead,
)
from .layers import (
    ClampedScaleNorm,
    affine_heads,
    compute_dtype,
    dropout,
    gather_positions,
    is_exporting,
    may_be_fast,
    product,
    project,
    rotary_table,
    rotate,
    sinusoid_table,
    split_scale,
    squared_relu,
    toeplitz,
)

ROTARY_WIDTH = 32  # channels that turn with position; the others pass through
BIAS_BUCKETS = 32
BIAS_MAX_DISTANCE = 128


class FLASHConfig(PreTrainedConfig):
    """Shape of FLASH; defaults are those of junnyu/flash_small_wwm_cluecorpussmall.

    linear_divisor says what the linear attention's sum over keys is divided by: `length` (the padded T, so that
    padding changes the result: the original), `max_position` (max_position_embeddings, which is what a published
    checkpoint gives when padded to 512) or `valid` (the number of valid keys: what new models should use).
    causal, shift_tokens, laplace_attn_fn and reduce_group_non_causal_attn are lucidrains' options.
    """

    model_type = "flash"

    vocab_size: int = 12000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    max_position_embeddings: int = 512
    group_size: int = 256
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 0
    expansion_factor: int | float = 2
    query_key_dim: int = 128
    norm_type: str = "scalenorm"
    dropout: float | int = 0.0
    classifier_dropout: float | int = 0.1
    linear_divisor: str = "length"
    causal: bool = False
    shift_tokens: bool = False
    laplace_attn_fn: bool = False
    reduce_group_non_causal_attn: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_choice("norm_type", self.norm_type, ("scalenorm", "layernorm"))
        check_choice("linear_divisor", self.linear_divisor, ("length", "max_position", "valid"))
        check_sizes(self, "vocab_size", "hidden_size", "max_position_embeddings", "group_size", "query_key_dim")
        check_even("hidden_size", self.hidden_size)
        check_even("query_key_dim", self.query_key_dim)
        check_range(self, 1 / self.hidden_size, MOST_EXPANSION, "expansion_factor")
        check_range(self, 0, 1, "dropout", "classifier_dropout")
        check_padding(self)


def distance_buckets(offsets: torch.Tensor, causal: bool) -> torch.Tensor:
    """T5's bucket of each offset j - i (key minus query): exact when near, logarithmic up to BIAS_MAX_DISTANCE."""
    buckets = BIAS_BUCKETS if causal else BIAS_BUCKETS // 2
    distances = (-offsets).clamp(min=0) if causal else offsets.abs()
    exact = buckets // 2
    far = (distances.clamp(min=1).float() / exact).log() / math.log(BIAS_MAX_DISTANCE / exact) * (buckets - exact)
    result = torch.where(distances < exact, distances, (exact + far.long()).clamp(max=buckets - 1))
    return result if causal else result + buckets * (offsets > 0)


class RelativeBias(nn.Module):
    """T5 bias inside a group, times sqrt(D); one head, table of the published name."""

    def __init__(self, config: FLASHConfig):
        super().__init__()
        self.causal = config.causal
        self.scale = math.sqrt(config.query_key_dim)
        self.relative_attention_bias = nn.Embedding(BIAS_BUCKETS, 1)

    def forward(self, length: int) -> torch.Tensor:
        """Bias of each key minus query, [2 length - 1]."""
        table = self.relative_attention_bias
        offsets = torch.arange(1 - length, length, device=next(table.parameters()).device)
        return table(distance_buckets(offsets, self.causal)).squeeze(-1) * self.scale


class OffsetScale(nn.Module):
    """Scales and offsets of the four heads: quadratic query, linear query, quadratic key, linear key."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, width))
        self.bias = nn.Parameter(torch.zeros(4, width))

    def forward(self, base: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """base [..., D] and a factor of each head [4, 1] -> [..., 4, D], at least fp32."""
        return affine_heads(base, self.weight * scales, self.bias * scales)


class FLASHEmbeddings(nn.Module):
    """Word plus scaled sinusoid."""

    def __init__(self, config: FLASHConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs_embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        table = sinusoid_table(positions, inputs_embeds.shape[-1]) * self.scale.float()
        return (inputs_embeds + table).to(inputs_embeds.dtype)


class FLASHLayer(GradientCheckpointingLayer):
    """X + (U * (A V + q'(Z) (k'(Z)^T V) / n)) Wo of U, V = silu(norm(X) Wh) and Z = silu(norm(X) Wqk).

    The mixed chunk attention of Hua et al. 2022 (arXiv 2202.10447), equations 5, 6 and 8 of Su's account,
    spaces.ac.cn/archives/8934: A = relu(q(Z) k(Z)^T / G + b)^2 inside each group, linear attention across groups, the
    sum over their keys divided by n tokens. q, k, q', k' scale and shift the channels of Z and turn them by their
    position; b is T5's bias of each distance.
    """

    def __init__(self, config: FLASHConfig):
        super().__init__()
        self.config = config
        expanded = int(config.hidden_size * config.expansion_factor)
        self.norm = nn.LayerNorm(config.hidden_size) if config.norm_type == "layernorm" else ClampedScaleNorm()
        # Lists only for the published names to_hidden.0 and to_qk.0; their activation stands in forward.
        self.to_hidden = nn.ModuleList([nn.Linear(config.hidden_size, 2 * expanded)])
        self.to_qk = nn.ModuleList([nn.Linear(config.hidden_size, config.query_key_dim)])
        self.qk_offset_scale = OffsetScale(config.query_key_dim)
        self.rel_pos_bias = RelativeBias(config)
        self.to_out = nn.Linear(expanded, config.hidden_size)

    def forward(self, hidden, attention: ChunkAttention, output_attentions: bool, positions=None):
        """hidden [B, T, H] -> hidden [B, T, H], at positions [B, P] if given; A [B, N, G, G] if asked for."""
        residual = hidden if positions is None else gather_positions(hidden, positions)
        hidden = self.norm(hidden)
        if self.config.shift_tokens:
            shifted, kept = hidden.chunk(2, dim=-1)
            hidden = torch.cat((F.pad(shifted, (0, 0, 1, -1)), kept), dim=-1)
        if not output_attentions and may_be_fast(self, self.to_hidden[0], self.to_qk[0], self.to_out):
            return residual + self.fast_forward(hidden, attention, positions), None
        dtype, (batch, length, _) = compute_dtype(hidden), hidden.shape
        value, gate = self.to_hidden[0](hidden).chunk(2, dim=-1)
        value = attention.grouped(F.silu(value))
        heads = self.qk_offset_scale(F.silu(self.to_qk[0](hidden)), attention.scales)
        heads = rotate(heads, attention.table, interleaved=True)
        quad_query, lin_query, quad_key, lin_key = attention.separate(heads, dtype)
        bias = toeplitz(self.rel_pos_bias(attention.group)).to(dtype)
        weights = torch.baddbmm(bias, quad_query, quad_key.transpose(-1, -2))
        weights = laplace(weights) if self.config.laplace_attn_fn else squared_relu(weights)
        weights = dropout(attention.hide(weights), attention.dropout, self.training)
        mixed = attention.add_linear(weights @ value, lin_query, attention.context(lin_key, value, batch))
        mixed = attention.ungrouped(mixed, batch, length)
        if positions is not None:
            gate, mixed = gather_positions(gate, positions), gather_positions(mixed, positions)
        weights = weights.unflatten(0, (batch, -1)) if output_attentions else None
        return residual + self.to_out(mixed.mul_(F.silu(gate))), weights

    def fast_forward(self, hidden: torch.Tensor, attention: ChunkAttention, positions) -> torch.Tensor:
        """What `forward` adds to the residual, with the backward pass of gated.py; hidden is normed and shifted."""
        expanded = self.to_out.in_features
        inputs = project(self.to_hidden[0], hidden, positions, slice(expanded, None), slice(0, expanded))
        narrow = (self.qk_offset_scale.weight, self.qk_offset_scale.bias, self.rel_pos_bias(attention.group))
        base, output = product(self.to_qk[0], hidden), (self.to_out.weight, self.to_out.bias)
        return MixedChunkAttention.apply(*inputs, base, *output, *narrow, positions, attention)


class FLASHPreTrainedModel(StrictPreTrainedModel):
    family = "FLASH"
    config_class = FLASHConfig
    base_model_prefix = "flash"
    takes_pair_masks = False  # linear attention sums over keys before it meets a query
    _no_split_modules = ("FLASHLayer",)
    _keys_to_ignore_on_load_unexpected = (r"(^|\.)position_ids$", r"(^|\.)rotary_pos_emb\.freqs$")

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ClampedScaleNorm):
            init.ones_(module.g)
        elif isinstance(module, FLASHEmbeddings):
            init.ones_(module.scale)
        elif isinstance(module, OffsetScale):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)


class FLASHModel(Encoder, FLASHPreTrainedModel):
    """attention_mask is [B, T]; None masks nothing, pad ids included, as in the original.

    token_type_ids are taken, since BERT tokenizers give them, and unused: the model has no token types.
    position_ids [B, T] move the sinusoid only. Returned attentions [B, N, G, G] are the quadratic part.
    """

    def __init__(self, config: FLASHConfig):
        super().__init__(config)
        self.embeddings = FLASHEmbeddings(config)
        layers = nn.ModuleList(FLASHLayer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.post_init()

    def scales(self, valid: torch.Tensor | None, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of the four heads [4, 1], and besides of linear keys [B or 1, T or 1, 1], 0 at padding; fp32.

        Those of linear attention together are 1 over the divisor, split as `split_scale` does it, the power of two
        being the queries' here: 1 / T alone would bring the keys of a long row below the least numbers of fp16.
        """
        config, length = self.config, embeds.shape[1]
        divisor = torch.full((1, 1), length, dtype=torch.float32, device=embeds.device)
        # ONNX has no frexp.
        exporting = is_exporting()
        exponent = divisor.log2().floor() + 1 if exporting else torch.frexp(divisor).exponent
        lin_query = torch.ldexp(torch.ones_like(divisor), -(exponent // 2))
        if config.causal:
            divisor = torch.full_like(divisor, config.group_size)
        elif config.linear_divisor == "max_position":
            divisor = torch.full_like(divisor, config.max_position_embeddings)
        elif config.linear_divisor == "valid" and valid is not None:
            divisor = valid.sum(-1, keepdim=True).clamp(min=1).float()
        lin_key = (1 if valid is None else valid) / divisor / lin_query
        quad_query, quad_key, one = (torch.full_like(lin_query, x) for x in (*split_scale(1 / config.group_size), 1))
        return torch.cat((quad_query, lin_query, quad_key, one)), lin_key.unsqueeze(-1)

    def groups(self, length: int) -> tuple[int, int]:
        """Tokens of a group and how many groups hold a row; a short row is one group of its own length.

        An exported program takes rows of any length, so that none of its sizes may depend on whether there is one
        group or whether the last one is full: there are two or more, and the last one never is.
        """
        group = self.config.group_size
        if is_exporting():
            return group, torch.sym_max(length // group + 1, 2)
        group = min(group, length)
        return group, -(-length // group)

    def prepare(self, embeds, input_ids, attention_mask, token_type_ids, position_ids):
        positions = torch.arange(embeds.shape[1], device=embeds.device)
        hidden = self.embeddings(embeds, positions if position_ids is None else position_ids)
        valid = None if attention_mask is None else attention_mask.bool()
        width = self.config.query_key_dim
        scales, key_scale = self.scales(valid, embeds)
        group, groups = self.groups(embeds.shape[1])
        attention = ChunkAttention(
            table=rotary_table(positions, min(ROTARY_WIDTH, width), width),
            group=group,
            groups=groups,
            scales=scales,
            key_scale=key_scale,
            unseen=None if valid is None else ~valid,
            causal=self.config.causal,
            per_group=not self.config.reduce_group_non_causal_attn,
            laplace=self.config.laplace_attn_fn,
            dropout=self.config.dropout,
        )
        return hidden, (attention,)


class FLASHPredictions(Predictions):
    """Layer norm, tied word matrix, bias."""

    def __init__(self, config: FLASHConfig):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.LayerNorm(hidden))


class FLASHForMaskedLM(MaskedLMHead, FLASHPreTrainedModel):
    base_class, predictions_class = FLASHModel, FLASHPredictions
    _tied_weights_keys: ClassVar = {"cls.predictions.decoder.weight": "flash.embeddings.word_embeddings.weight"}


class FLASHForSequenceClassification(SequenceClassificationHead, FLASHPreTrainedModel):
    base_class = FLASHModel


class FLASHForTokenClassification(TokenClassificationHead, FLASHPreTrainedModel):
    base_class = FLASHModel


class FLASHForMultipleChoice(MultipleChoiceHead, FLASHPreTrainedModel):
    base_class = FLASHModel


class FLASHForQuestionAnswering(QuestionAnsweringHead, FLASHPreTrainedModel):
    base_class = FLASHModel
