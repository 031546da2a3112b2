"""GAU-alpha: an encoder of gated attention units over the whole n x n score matrix.

Source: GAU-alpha (Su 2022; ZhuiyiTechnology/GAU-alpha, JunnYu/GAU-alpha-pytorch). Parameters keep the published names,
so checkpoints load as they are and our folders load in the original code. We differ in: any length, first-token
pooling. Letters: B batch, T tokens, H hidden_size, E expanded width, D query/key width.
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
    Encoder,
    StrictPreTrainedModel,
    attention_mask_or_pads,
    check_choice,
    check_even,
    check_padding,
    check_range,
    check_sizes,
    document_sizes,
    numbers_documents,
)
from .gated import Attention, GatedAttention
from .heads import (
    MaskedLMHead,
    MultipleChoiceHead,
    Predictions,
    PreTrainingHead,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    TokenClassificationHead,
)
from .layers import (
    compute_dtype,
    dropout,
    gather_positions,
    may_be_fast,
    project,
    rms_norm,
    rotary_table,
    rotate,
    segment_vectors,
    squared_relu,
    widened,
)


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
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings", "type_vocab_size")
        check_sizes(self, *sizes, "attention_key_size")
        check_even("attention_key_size", self.attention_key_size)
        check_range(self, 0, 1, "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        check_padding(self)
        if self.embedding_size not in (None, self.hidden_size):
            raise ValueError(
                f"config field embedding_size must equal hidden_size {self.hidden_size}, got {self.embedding_size}; "
                "leave it out"
            )


class ScaleOffset(nn.Module):
    """A learned scale per channel, published as `q_scaleoffset` and `k_scaleoffset`; with a bias only if use_bias."""

    def __init__(self, width: int, use_bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if use_bias else None

    def forward(self, base: torch.Tensor) -> torch.Tensor:
        """base [..., D] -> at least fp32."""
        scaled = widened(base) * widened(self.weight)
        return scaled if self.bias is None else scaled + widened(self.bias)


class GAUAlphaEmbeddings(nn.Module):
    """Word plus token type, normed, dropped out."""

    def __init__(self, config: GAUAlphaConfig):
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)

    def forward(self, inputs_embeds: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        hidden = inputs_embeds + segment_vectors(self.token_type_embeddings, token_type_ids)
        hidden = rms_norm(hidden, self.config.layer_norm_eps)
        return dropout(hidden, self.config.hidden_dropout_prob, self.training)


class GatedUnit(nn.Module):
    """U, V, Z = silu(X Wi);  A = softmax(log(n) / log(512) q(Z) k(Z)^T / sqrt(D));  O = (U * A V) Wo.

    The gated attention unit of Hua et al. 2022 (arXiv 2202.10447) in the numbering of Su's account: equation 3 of
    spaces.ac.cn/archives/8934, with GAU-alpha's softmax (equation 5 of archives/8823, chosen in archives/9052) for the
    squared ReLU of equation 4. q and k scale the channels of Z and turn them by their position; n keys are seen.
    """

    def __init__(self, config: GAUAlphaConfig):
        super().__init__()
        self.config = config
        self.sizes = (config.intermediate_size, config.intermediate_size, config.attention_key_size)
        self.i_dense = nn.Linear(config.hidden_size, sum(self.sizes), bias=config.use_bias)
        self.o_dense = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.q_scaleoffset = ScaleOffset(config.attention_key_size, config.use_bias)
        self.k_scaleoffset = ScaleOffset(config.attention_key_size, config.use_bias)

    def forward(self, hidden, attention: Attention, output_attentions: bool, positions: torch.Tensor | None):
        """hidden [B, T, H] -> output [B, T, H], A [B, T, T] if asked for; of queries at positions [B, P], if given."""
        attention = attention if positions is None else attention.at(positions)
        if not output_attentions and may_be_fast(self, self.i_dense, self.o_dense):
            return self.fast_forward(hidden, attention), None
        dtype, table = compute_dtype(hidden), attention.table.squeeze(-3)
        gate, value, base = F.silu(self.i_dense(hidden)).split(self.sizes, dim=-1)
        query = rotate(self.q_scaleoffset(base), table, interleaved=True) * attention.query_scale
        key = rotate(self.k_scaleoffset(base), table, interleaved=True)
        if positions is not None:
            gate, query = gather_positions(gate, positions), gather_positions(query, positions)
        query, key, whole = query.to(dtype), key.to(dtype), output_attentions or torch.is_grad_enabled()
        mixed = []
        for run, part in [(slice(None), attention)] if whole else attention.parts(query.shape[1], None):
            weights = self.weights(query[:, run], key, part)
            mixed.append(weights @ value)
        mixed = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)
        return self.o_dense(mixed.mul_(gate)), weights if output_attentions else None

    def weights(self, query: torch.Tensor, key: torch.Tensor, attention: Attention) -> torch.Tensor:
        """A of these queries."""
        weights = query @ key.transpose(-1, -2)
        if self.config.normalization == "squared_relu":
            weights = squared_relu(weights.masked_fill_(attention.mask(), 0)).div_(attention.divisor)
        else:  # -1e4 is the originals' score of an unseen key: a row that sees none becomes uniform, not NaN
            weights = torch.softmax(weights.masked_fill_(attention.mask(), -1e4), dim=-1, dtype=query.dtype)
        return dropout(weights, attention.dropout, self.training)

    def fast_forward(self, hidden: torch.Tensor, attention: Attention) -> torch.Tensor:
        """The output of `forward`, with the backward pass of gated.py."""
        expanded = self.config.intermediate_size
        inputs = project(self.i_dense, hidden, attention.positions, slice(0, expanded), slice(expanded, None))
        scale = torch.stack((self.q_scaleoffset.weight, self.k_scaleoffset.weight))
        offset = torch.stack((self.q_scaleoffset.bias, self.k_scaleoffset.bias)) if self.config.use_bias else None
        output, source = (self.o_dense.weight, self.o_dense.bias), (hidden, self.i_dense.weight, self.i_dense.bias)
        return GatedAttention.apply(*inputs, *output, scale, offset, None, attention, source)


class GAUAlphaLayer(GradientCheckpointingLayer):
    """Post-norm residual around one gated attention unit."""

    def __init__(self, config: GAUAlphaConfig):
        super().__init__()
        self.config = config
        self.gau = GatedUnit(config)

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

    Or it is the number of each token's document, int [B, 1, T]: tokens see their own, without a mask of all pairs.
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
        if numbers_documents(attention_mask):
            mask = {"query_numbers": attention_mask.mT.int(), "key_numbers": attention_mask.int()}
            counts = document_sizes(attention_mask).float()
        else:
            valid = attention_mask_or_pads(attention_mask, input_ids, embeds, config.pad_token_id)
            valid = valid if valid.dim() == 3 else valid.unsqueeze(1)  # [B, 1 or T, T]
            mask = {"unseen": ~valid}
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
            softmax=config.normalization != "squared_relu",
            **mask,
            divisor=counts if config.normalization == "squared_relu" else None,
            dropout=config.attention_probs_dropout_prob,
        )
        return self.embeddings(embeds, token_type_ids), (attention,)


class GAUAlphaPredictions(Predictions):
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


class GAUAlphaForPreTraining(PreTrainingHead, GAUAlphaPreTrainedModel):
    base_class = GAUAlphaModel
