"""FLASHQuad: an encoder of gated attention units with squared ReLU over the whole n x n score matrix.

Source: FLASH-Quad (Hua et al. 2022, arXiv 2202.10447; JunnYu/FLASHQuad_pytorch). Parameters keep the
published names, so checkpoints load as they are and our folders load in the original code. We differ in: any length,
no dead parameters a and b, first-token pooling, 3-D masks, biases of distances that begin positive.
Letters: B batch, T tokens, H hidden_size, E expanded width, D query/key width, M max_position_embeddings.
"""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .base import (
    MOST_EXPANSION,
    Encoder,
    StrictPreTrainedModel,
    attention_mask_or_pads,
    check_choice,
    check_even,
    check_padding,
    check_range,
    check_sizes,
    numbers_documents,
)
from .gated import Attention, GatedAttention
from .heads import (
    MaskedLMHead,
    MultipleChoiceHead,
    Predictions,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    TokenClassificationHead,
)
from .layers import (
    ScaleNorm,
    affine_heads,
    compute_dtype,
    dropout,
    gather_positions,
    may_be_fast,
    project,
    rotary_table,
    rotate,
    segment_vectors,
    sinusoid_table,
    split_scale,
    squared_relu,
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
        check_choice("hidden_act", self.hidden_act, tuple(ACT2FN))
        check_sizes(self, "vocab_size", "hidden_size", "max_position_embeddings", "type_vocab_size", "s")
        check_range(self, 1 / self.hidden_size, MOST_EXPANSION, "expansion_factor")
        check_range(self, 0, 1, "dropout", "classifier_dropout")
        check_padding(self)
        check_even("s", self.s)
        check_even("hidden_size", self.hidden_size)


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
        hidden = inputs_embeds + segment_vectors(self.token_type_embeddings, token_type_ids)
        hidden = self.LayerNorm((hidden + table).to(hidden.dtype))
        return dropout(hidden, self.config.dropout, self.training)


class FLASHQuadLayer(GradientCheckpointingLayer):
    """U, V, Z = silu(norm(X) Wuv);  A = relu(q(Z) k(Z)^T / M + b)^2;  X + (U * A V) Wo; never divided by T.

    FLASH-Quad, the gated attention unit of Hua et al. 2022 (arXiv 2202.10447); equations 3 and 4 of Su's account,
    spaces.ac.cn/archives/8934, with the factor 1 / M^2 of the paper's listing for its 1 / ns. q and k scale and shift
    the channels of Z and turn them by their position; b is a learned bias of each distance.
    """

    def __init__(self, config: FLASHQuadConfig):
        super().__init__()
        self.config = config
        self.max_positions = config.max_position_embeddings
        expanded = int(config.hidden_size * config.expansion_factor)
        self.sizes = (expanded, expanded, config.s)
        self.weight = nn.Parameter(torch.empty(2, config.s))
        self.bias = nn.Parameter(torch.zeros(2, config.s))
        self.w = nn.Parameter(torch.empty(2 * self.max_positions - 1))
        self.uv = nn.Linear(config.hidden_size, sum(self.sizes))
        self.o = nn.Linear(expanded, config.hidden_size)
        self.LayerNorm = flash_quad_norm(config)

    def distances(self, length: int) -> torch.Tensor:
        """Bias of each key minus query, [2T-1]; beyond the table of 2M-1 its end entries go on."""
        offsets = torch.arange(1 - length, length, device=self.w.device) + self.max_positions - 1
        return self.w.index_select(0, offsets.clamp(0, self.w.shape[0] - 1))

    def forward(self, hidden, attention: Attention, output_attentions: bool, positions=None):
        """hidden [B, T, H] -> hidden [B, T, H], A [B, T, T] if asked for; of queries at positions [B, P], if given."""
        attention = attention if positions is None else attention.at(positions)
        residual = hidden if positions is None else gather_positions(hidden, positions)
        hidden = self.LayerNorm(hidden)
        if not output_attentions and may_be_fast(self, self.uv, self.o):
            return residual + self.fast_forward(hidden, attention), None
        dtype = compute_dtype(hidden)
        gate, value, base = F.silu(self.uv(hidden)).split(self.sizes, dim=-1)
        query, key = rotate(affine_heads(base, self.weight, self.bias), attention.table, interleaved=False).unbind(-2)
        query, key = (query * attention.query_scale).to(dtype), (key * attention.key_scale).to(dtype)
        if positions is not None:
            gate, query = gather_positions(gate, positions), gather_positions(query, positions)
        bias = attention.bias(self.distances(hidden.shape[1])).to(dtype)
        weights = torch.baddbmm(bias, query, key.transpose(-1, -2)).masked_fill_(attention.mask(), 0)
        weights = squared_relu(weights)
        return residual + self.o((weights @ value).mul_(gate)), weights if output_attentions else None

    def fast_forward(self, hidden: torch.Tensor, attention: Attention) -> torch.Tensor:
        """What `forward` adds to the residual, with the backward pass of gated.py; hidden is normed."""
        gate, others = slice(0, self.sizes[0]), slice(self.sizes[0], None)
        inputs = project(self.uv, hidden, attention.positions, gate, others)
        narrow = (self.weight, self.bias, self.distances(hidden.shape[1]))
        return GatedAttention.apply(*inputs, self.o.weight, self.o.bias, *narrow, attention)


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
            # The original's whole normal has relu(b)^2 without a gradient at half of the distances: queries and keys
            # begin so small that a score is its bias. These would stay unseen until queries have grown.
            init.trunc_normal_(
                module.w, std=self.config.initializer_range, a=0.0, b=10 * self.config.initializer_range
            )
            init.zeros_(module.bias)
        elif isinstance(module, FLASHQuadPredictions) and module.bias is not None:
            init.zeros_(module.bias)


class FLASHQuadModel(Encoder, FLASHQuadPreTrainedModel):
    """attention_mask is [B, T], or [B, T, T] (query, key) for any pattern; by default it is where ids are not padding.

    Or it is the number of each token's document, int [B, 1, T]: tokens see their own, without a mask of all pairs.
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
        if numbers_documents(attention_mask):
            mask = {"query_numbers": attention_mask.mT.int(), "key_numbers": attention_mask.int()}
        else:
            valid = attention_mask_or_pads(attention_mask, input_ids, embeds, self.config.pad_token_id)
            if valid.dim() == 2:  # padding neither sees nor is seen: as queries it is 1, as keys 2
                padding = (~valid).int()
                mask = {"query_numbers": padding.unsqueeze(2), "key_numbers": 2 * padding.unsqueeze(1)}
            else:
                mask = {"unseen": ~valid}
        query_scale, key_scale = split_scale(1 / self.config.max_position_embeddings)
        attention = Attention(
            table=rotary_table(positions, self.config.s),
            interleaved=False,
            query_scale=query_scale,
            key_scale=key_scale,
            softmax=False,
            **mask,
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


class FLASHQuadPredictions(Predictions):
    """Transform, tied word matrix, bias; `bias` is the published second name of `decoder.bias`, absent when untied."""

    def __init__(self, config: FLASHQuadConfig):
        super().__init__()
        self.transform = FLASHQuadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.tie_word_embeddings else None

    def replace_decoder(self, decoder: nn.Linear) -> None:
        self.decoder = decoder
        if self.bias is not None:
            self.bias = decoder.bias

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
