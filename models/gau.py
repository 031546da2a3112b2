"""GAU-alpha and FLASHQuad: encoders of gated attention units over the whole n x n score matrix.

Sources: GAU-alpha (Su 2022; ZhuiyiTechnology/GAU-alpha, JunnYu/GAU-alpha-pytorch), FLASH-Quad (Hua et al. 2022,
arXiv 2202.10447, section 3; JunnYu/FLASHQuad_pytorch). Parameters keep the published names, so checkpoints load as
they are and our folders load in the original code. We differ in: any length, no dead parameters a and b, first-token
pooling, FLASHQuad's 3-D masks. Letters: B batch, T tokens, H hidden_size, E expanded width, D query/key width,
M max_position_embeddings.
"""

import math
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .base import Encoder, StrictPreTrainedModel, attention_mask_or_pads, check_choice, check_even
from .gated import Attention, GatedAttention
from .heads import (
    MaskedLMHead,
    MultipleChoiceHead,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    TokenClassificationHead,
)
from .layers import Linear, ScaleNorm, dropout, gather_positions, project, rms_norm, rotary_table, sinusoid_table


class GAUAlphaConfig(PreTrainedConfig):
    """Shape of GAU-alpha; defaults are those of junnyu/chinese_GAU-alpha-char_L-24_H-768."""

    model_type = "gau_alpha"

    vocab_size: int = 12000
    hidden_size: int = 768
    intermediate_size: int = 1536
    num_hidden_layers: int = 24
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    attention_key_size: int = 128
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    hidden_act: str = "swish"
    classifier_dropout: float | int = 0.1
    use_bias: bool = False
    normalization: str = "softmax_plus"
    attention_scale: bool = True
    embedding_size: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_choice("hidden_act", self.hidden_act, ("swish", "silu"))
        check_choice("normalization", self.normalization, ("softmax_plus", "softmax", "squared_relu"))
        check_even("attention_key_size", self.attention_key_size)
        if self.embedding_size not in (None, self.hidden_size):
            raise ValueError(
                f"config field embedding_size must equal hidden_size {self.hidden_size}, got {self.embedding_size}; "
                "leave it out"
            )


class FLASHQuadConfig(PreTrainedConfig):
    """Shape of FLASHQuad; junnyu/flashquad_small_wwm_cluecorpussmall differs by num_hidden_layers 12 only."""

    model_type = "flash_quad"

    vocab_size: int = 12000
    hidden_size: int = 768
    num_hidden_layers: int = 24
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 0
    expansion_factor: int | float = 2
    s: int = 128
    norm_type: str = "scale_norm"
    dropout: float | int = 0.0
    hidden_act: str = "silu"
    classifier_dropout: float | int = 0.1
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_even("s", self.s)
        check_even("hidden_size", self.hidden_size)


class ScaleOffset(nn.Module):
    """A learned scale per channel, published as `q_scaleoffset` and `k_scaleoffset`; with a bias only if use_bias."""

    def __init__(self, width: int, use_bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if use_bias else None


class GAUAlphaEmbeddings(nn.Module):
    """Word plus token type, normed, dropped out."""

    def __init__(self, config: GAUAlphaConfig):
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)

    def forward(self, inputs_embeds: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        types = self.token_type_embeddings
        hidden = inputs_embeds + (types.weight[0] if token_type_ids is None else types(token_type_ids))
        hidden = rms_norm(hidden, self.config.layer_norm_eps)
        return dropout(hidden, self.config.hidden_dropout_prob, self.training)


class GatedAttentionUnit(nn.Module):
    """o_dense(u * A v), where A attends from and to one shared base of width D (spec: GAU-alpha, section 2.1)."""

    def __init__(self, config: GAUAlphaConfig):
        super().__init__()
        self.config = config
        width = 2 * config.intermediate_size + config.attention_key_size
        self.i_dense = Linear(config.hidden_size, width, bias=config.use_bias)
        self.o_dense = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.q_scaleoffset = ScaleOffset(config.attention_key_size, config.use_bias)
        self.k_scaleoffset = ScaleOffset(config.attention_key_size, config.use_bias)

    def forward(self, hidden, attention: Attention, output_attentions: bool, positions: torch.Tensor | None):
        scale = torch.stack((self.q_scaleoffset.weight, self.k_scaleoffset.weight))
        offset = torch.stack((self.q_scaleoffset.bias, self.k_scaleoffset.bias)) if self.config.use_bias else None
        output, expanded = self.o_dense, self.config.intermediate_size
        inputs = project(self.i_dense, hidden, positions, slice(0, expanded), slice(expanded, None))
        narrow = (output.weight, output.bias, scale, offset, None)
        attention = attention if positions is None else attention.at(positions)
        return GatedAttention.apply(*inputs, *narrow, attention, self.training, output_attentions)


class GAUAlphaLayer(GradientCheckpointingLayer):
    """Post-norm residual around one gated attention unit."""

    def __init__(self, config: GAUAlphaConfig):
        super().__init__()
        self.config = config
        self.gau = GatedAttentionUnit(config)

    def forward(self, hidden, attention: Attention, output_attentions: bool, positions=None):
        output, weights = self.gau(hidden, attention, output_attentions, positions)
        hidden = hidden if positions is None else gather_positions(hidden, positions)
        output = dropout(output, self.config.hidden_dropout_prob, self.training)
        return rms_norm(hidden + output, self.config.layer_norm_eps), weights


class GAUAlphaPreTrainedModel(StrictPreTrainedModel):
    family = "GAUAlpha"
    config_class = GAUAlphaConfig
    base_model_prefix = "gau_alpha"
    _no_split_modules = ("GAUAlphaLayer",)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ScaleOffset):
            init.ones_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)


class GAUAlphaModel(Encoder, GAUAlphaPreTrainedModel):
    """attention_mask is [B, T], or [B, T, T] (query, key) for any pattern; by default it is where ids are not padding.

    position_ids [B, T] turn the rotary embedding; only their differences matter.
    """

    def __init__(self, config: GAUAlphaConfig):
        super().__init__(config)
        self.embeddings = GAUAlphaEmbeddings(config)
        layers = nn.ModuleList(GAUAlphaLayer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.post_init()

    def prepare(self, embeds, input_ids, attention_mask, token_type_ids, position_ids):
        config = self.config
        valid = attention_mask_or_pads(attention_mask, input_ids, embeds, config.pad_token_id)
        valid = valid if valid.dim() == 3 else valid.unsqueeze(1)  # [B, 1 or T, T]
        # A row without a valid key counts as one, so that its logarithm and its quotient stay finite.
        counts = valid.sum(-1, keepdim=True).clamp(min=1).float()
        query_scale = torch.ones_like(counts)
        if config.attention_scale:
            query_scale = query_scale / math.sqrt(config.attention_key_size)
        if config.normalization == "softmax_plus":
            query_scale = query_scale * counts.log() / math.log(512)  # 512 is the method's constant, not M
        positions = torch.arange(embeds.shape[1], device=embeds.device) if position_ids is None else position_ids
        attention = Attention(
            table=rotary_table(positions, config.attention_key_size),
            interleaved=True,
            query_scale=query_scale,
            unseen=~valid,
            softmax=config.normalization != "squared_relu",
            divisor=counts if config.normalization == "squared_relu" else None,
            dropout=config.attention_probs_dropout_prob,
        )
        return self.embeddings(embeds, token_type_ids), (attention,)


class GAUAlphaPredictions(nn.Module):
    """The tied word matrix alone: no bias, no transform."""

    def __init__(self, config: GAUAlphaConfig):
        super().__init__()
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.decoder(hidden)


class GAUAlphaForMaskedLM(MaskedLMHead, GAUAlphaPreTrainedModel):
    base_class, predictions_class = GAUAlphaModel, GAUAlphaPredictions
    _tied_weights_keys: ClassVar = {"cls.predictions.decoder.weight": "gau_alpha.embeddings.word_embeddings.weight"}


class GAUAlphaForSequenceClassification(SequenceClassificationHead, GAUAlphaPreTrainedModel):
    base_class = GAUAlphaModel


class GAUAlphaForTokenClassification(TokenClassificationHead, GAUAlphaPreTrainedModel):
    base_class = GAUAlphaModel


class GAUAlphaForMultipleChoice(MultipleChoiceHead, GAUAlphaPreTrainedModel):
    base_class = GAUAlphaModel


class GAUAlphaForQuestionAnswering(QuestionAnsweringHead, GAUAlphaPreTrainedModel):
    base_class = GAUAlphaModel


def flash_quad_norm(config: FLASHQuadConfig) -> nn.Module:
    """Any norm_type but "layer_norm" is ScaleNorm, as in the original."""
    if config.norm_type == "layer_norm":
        return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    return ScaleNorm(config.layer_norm_eps)


class FLASHQuadEmbeddings(nn.Module):
    """Word plus token type plus scaled sinusoid, normed, dropped out."""

    def __init__(self, config: FLASHQuadConfig):
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.scaledsin_scalar = nn.Parameter(torch.full((1,), config.hidden_size**-0.5))
        self.LayerNorm = flash_quad_norm(config)

    def forward(
        self, inputs_embeds: torch.Tensor, token_type_ids: torch.Tensor | None, positions: torch.Tensor
    ) -> torch.Tensor:
        table = sinusoid_table(positions, self.config.hidden_size) * self.scaledsin_scalar.float()
        types = self.token_type_embeddings
        hidden = inputs_embeds + (types.weight[0] if token_type_ids is None else types(token_type_ids))
        hidden = self.LayerNorm((hidden + table).to(hidden.dtype))
        return dropout(hidden, self.config.dropout, self.training)


class FLASHQuadLayer(GradientCheckpointingLayer):
    """Pre-norm gated unit with A = relu(q k / M + Toeplitz bias)^2, divided by M and never by T (spec 2.2)."""

    def __init__(self, config: FLASHQuadConfig):
        super().__init__()
        self.max_positions = config.max_position_embeddings
        expanded = int(config.hidden_size * config.expansion_factor)
        self.weight = nn.Parameter(torch.empty(2, config.s))
        self.bias = nn.Parameter(torch.zeros(2, config.s))
        self.w = nn.Parameter(torch.empty(2 * self.max_positions - 1))
        self.uv = Linear(config.hidden_size, 2 * expanded + config.s)
        self.o = nn.Linear(expanded, config.hidden_size)
        self.LayerNorm = flash_quad_norm(config)

    def distances(self, length: int) -> torch.Tensor:
        """Bias of each key minus query, [2T-1]; beyond the table of 2M-1 its end entries go on."""
        offsets = torch.arange(1 - length, length, device=self.w.device) + self.max_positions - 1
        return self.w.index_select(0, offsets.clamp(0, self.w.shape[0] - 1))

    def forward(self, hidden, attention: Attention, output_attentions: bool, positions=None):
        expanded = self.o.in_features
        inputs = project(self.uv, self.LayerNorm(hidden), positions, slice(0, expanded), slice(expanded, None))
        narrow = (self.o.weight, self.o.bias, self.weight, self.bias, self.distances(hidden.shape[1]))
        attention = attention if positions is None else attention.at(positions)
        output, weights = GatedAttention.apply(*inputs, *narrow, attention, self.training, output_attentions)
        return (hidden if positions is None else gather_positions(hidden, positions)) + output, weights


class FLASHQuadPreTrainedModel(StrictPreTrainedModel):
    family = "FLASHQuad"
    config_class = FLASHQuadConfig
    base_model_prefix = "flash_quad"
    _no_split_modules = ("FLASHQuadLayer",)
    # Tables that we compute, and a, b: used only by the original's branch for M > 512, which crashes.
    _keys_to_ignore_on_load_unexpected = (
        r"(^|\.)position_ids$",
        r"(^|\.)scaledsin_embeddings$",
        r"(^|\.)encoder\.layer\.\d+\.[ab]$",
    )

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ScaleNorm):
            init.ones_(module.scala)
        elif isinstance(module, FLASHQuadEmbeddings):
            init.constant_(module.scaledsin_scalar, self.config.hidden_size**-0.5)
        elif isinstance(module, FLASHQuadLayer):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.normal_(module.w, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, FLASHQuadPredictions) and module.bias is not None:
            init.zeros_(module.bias)


class FLASHQuadModel(Encoder, FLASHQuadPreTrainedModel):
    """attention_mask is [B, T], or [B, T, T] (query, key) for any pattern; by default it is where ids are not padding.

    position_ids [B, T] move the sinusoid only, as in the original: rotary embedding and bias are relative.
    """

    def __init__(self, config: FLASHQuadConfig):
        super().__init__(config)
        self.embeddings = FLASHQuadEmbeddings(config)
        layers = nn.ModuleList(FLASHQuadLayer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.post_init()

    def prepare(self, embeds, input_ids, attention_mask, token_type_ids, position_ids):
        positions = torch.arange(embeds.shape[1], device=embeds.device)
        hidden = self.embeddings(embeds, token_type_ids, positions if position_ids is None else position_ids)
        valid = attention_mask_or_pads(attention_mask, input_ids, embeds, self.config.pad_token_id)
        if valid.dim() == 2:  # padding neither sees nor is seen
            valid = valid.unsqueeze(1) & valid.unsqueeze(2)
        attention = Attention(
            table=rotary_table(positions, self.config.s),
            interleaved=False,
            query_scale=1 / self.config.max_position_embeddings,
            unseen=~valid,
            softmax=False,
        )
        return hidden, (attention,)


class FLASHQuadTransform(nn.Module):
    """Dense, activation, norm, under the published name `transform`."""

    def __init__(self, config: FLASHQuadConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]
        self.LayerNorm = flash_quad_norm(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.act(self.dense(hidden)))


class FLASHQuadPredictions(nn.Module):
    """Transform, tied word matrix, bias; `bias` is the published second name of `decoder.bias`, absent when untied."""

    def __init__(self, config: FLASHQuadConfig):
        super().__init__()
        self.transform = FLASHQuadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.tie_word_embeddings else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(hidden))


class FLASHQuadForMaskedLM(MaskedLMHead, FLASHQuadPreTrainedModel):
    base_class, predictions_class = FLASHQuadModel, FLASHQuadPredictions
    _tied_weights_keys: ClassVar = {
        "cls.predictions.decoder.weight": "flash_quad.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


class FLASHQuadForSequenceClassification(SequenceClassificationHead, FLASHQuadPreTrainedModel):
    base_class = FLASHQuadModel


class FLASHQuadForTokenClassification(TokenClassificationHead, FLASHQuadPreTrainedModel):
    base_class = FLASHQuadModel


class FLASHQuadForMultipleChoice(MultipleChoiceHead, FLASHQuadPreTrainedModel):
    base_class = FLASHQuadModel


class FLASHQuadForQuestionAnswering(QuestionAnsweringHead, FLASHQuadPreTrainedModel):
    base_class = FLASHQuadModel
