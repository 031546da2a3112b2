"""Chinese Transformer-XL: a pre-norm decoder whose attention sees relative positions and a memory of past tokens.

Sources: Transformer-XL (Dai et al. 2019, arXiv 1901.02860, section 3), in the form of THUDM/Chinese-Transformer-XL
(txl-2.9B: Megatron's GPT-2 block, biases everywhere, one pair u, v for all layers, tanh-GELU, tied plain output); its
small models count absolute positions. We differ: projections are apart (tensor parallelism cuts each), decoding keeps
keys and values instead of projecting the memory again, and attention_window is a number of the config where the
original takes the length of the segment at hand. Letters: B batch, Q tokens given, M tokens remembered, K = M + Q
keys, H hidden_size, N heads, D = H / N, W attention_window, V vocab_size.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from .base import MOST_ENTRIES, StrictPreTrainedModel, check_choice, check_range, check_sizes
from .heads import token_loss
from .layers import dropout
from .relative import (
    CACHE_NAME,
    CACHE_NAMES,
    Band,
    WindowLayer,
    attend,
    given_cache,
    key_memory,
    make_band,
    named_cache,
    relative_table,
)


class TransformerXLConfig(PreTrainedConfig):
    """Shape of Transformer-XL; defaults are those of txl-2.9B, except that positions are computed in fp32.

    relative_encoding false gives the small models: max_position_embeddings learned positions, no u, v and r_proj.
    attention_window is the number of keys that a token sees, itself included: 512 is what txl-2.9B was trained with,
    768 what its authors generate with. mem_len is the most hidden states that forward returns as memory.
    positions_dtype float16 rounds each step of the position table as the half-precision original does.
    """

    model_type = "transformer_xl"
    keys_to_ignore_at_inference = (*CACHE_NAMES, "mems")
    attribute_map: ClassVar = {"sliding_window": "attention_window"}
    base_model_tp_plan: ClassVar = {
        "embed_tokens": "embedding_rowwise",
        "rel_bias": "local_params",
        "rel_bias.r_w_bias": "colwise",
        "rel_bias.r_r_bias": "colwise",
        "layers.*.attn.q_proj": "colwise",
        "layers.*.attn.k_proj": "colwise",
        "layers.*.attn.v_proj": "colwise",
        "layers.*.attn.r_proj": "colwise",
        "layers.*.attn.o_proj": "rowwise",
        "layers.*.mlp.fc_in": "colwise",
        "layers.*.mlp.fc_out": "rowwise",
    }
    base_model_fsdp_plan: ClassVar = {
        "embed_tokens": "free_full_weight",
        "layers.*": "free_full_weight",
        "final_layernorm": "keep_full_weight",
    }

    vocab_size: int = 50048
    hidden_size: int = 2560
    intermediate_size: int | None = None
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    relative_encoding: bool = True
    max_position_embeddings: int = 512
    attention_window: int = 512
    mem_len: int = 256
    segment_length: int = 512
    positions_dtype: str = "float32"
    hidden_act: str = "gelu_pytorch_tanh"
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = 50000
    pad_token_id: int | None = 50000

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.intermediate_size is None:
            check_range(self, 1, MOST_ENTRIES, "hidden_size")
            self.intermediate_size = 4 * self.hidden_size
        check_choice("positions_dtype", self.positions_dtype, ("float16", "float32"))
        check_choice("hidden_act", self.hidden_act, tuple(ACT2FN))
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings")
        check_sizes(self, *sizes, "attention_window", "segment_length")
        check_range(self, 0, MOST_ENTRIES, "mem_len")
        check_range(self, 0, 1, "hidden_dropout", "attention_dropout")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                f"config field hidden_size must be even and divide by num_attention_heads {self.num_attention_heads}, "
                f"got {self.hidden_size}; correct one of them"
            )


@dataclass
class TransformerXLOutput(BaseModelOutputWithPast):
    """mems, with output_mems: L + 1 tensors [B, M, H], the inputs of each layer and of the last norm, detached."""

    mems: tuple[torch.Tensor, ...] | None = None


@dataclass
class TransformerXLCausalLMOutput(CausalLMOutputWithPast):
    """logits [B, Q, V]; mems as in TransformerXLOutput."""

    mems: tuple[torch.Tensor, ...] | None = None


def residual_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose output is added to the residual stream, and whose weights therefore start smaller.

    It is torch's own class, which alone the quantisers of transformers replace.
    """
    linear = nn.Linear(inputs, outputs)
    linear.adds_to_residual = True
    return linear


class RelativeBias(nn.Module):
    """The vectors u and v [N, D] of the paper, which every layer adds to its queries.

    forward returns them, so that tensor parallelism can hand out this process' heads.
    """

    def __init__(self, config: TransformerXLConfig):
        super().__init__()
        shape = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
        self.r_w_bias = nn.Parameter(torch.empty(shape))
        self.r_r_bias = nn.Parameter(torch.empty(shape))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.r_w_bias * 1, self.r_r_bias * 1


class TransformerXLAttention(nn.Module):
    """Attention over memory and segment; with relative_encoding a bias of each key's distance enters the scores."""

    draws_for_own_heads = True  # under tensor parallelism; dropout of whole hidden states is outside

    def __init__(self, config: TransformerXLConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.r_proj = nn.Linear(width, width) if config.relative_encoding else None
        self.o_proj = residual_linear(width, width)

    def forward(self, hidden, memory, band: Band, table, biases, cache: WindowLayer | None) -> torch.Tensor:
        """hidden [B, Q, H] and memory [B, M, H] or None, both normed; table as `relative_table` gives it, or None.

        cache: this layer's.
        """
        head_dim = self.config.hidden_size // self.config.num_attention_heads

        def heads(states):  # [B, T, N * D] -> [B, N, T, D]; under tensor parallelism N is this process' share
            return states.unflatten(-1, (-1, head_dim)).transpose(-3, -2)

        context = hidden if memory is None else torch.cat((memory, hidden), dim=1)
        queries, keys, values = heads(self.q_proj(hidden)), heads(self.k_proj(context)), heads(self.v_proj(context))
        relative = None if table is None else heads(self.r_proj(table))
        if cache is not None:
            keys, values = cache.update(keys, values)
            if self.r_proj is not None:
                relative = cache.keep_relative(relative)
        rate = self.config.attention_dropout if self.training else 0.0
        mixed = attend(queries, keys, values, relative, biases, band, rate)
        return self.o_proj(mixed.transpose(1, 2).flatten(-2))


class TransformerXLMLP(nn.Module):
    def __init__(self, config: TransformerXLConfig):
        super().__init__()
        self.fc_in = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc_out = residual_linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc_out(self.activation(self.fc_in(hidden)))


class TransformerXLLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward; memory goes through the same norm, with gradient to the norm only."""

    def __init__(self, config: TransformerXLConfig):
        super().__init__()
        self.rate = config.hidden_dropout
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = TransformerXLAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = TransformerXLMLP(config)

    def forward(self, hidden, memory, band: Band, table, biases, cache=None, past_key_values=None) -> torch.Tensor:
        cache = given_cache(cache, past_key_values)
        memory = None if memory is None else self.input_layernorm(memory)
        mixed = self.attn(self.input_layernorm(hidden), memory, band, table, biases, cache)
        hidden = hidden + dropout(mixed, self.rate, self.training)
        return hidden + dropout(self.mlp(self.post_attention_layernorm(hidden)), self.rate, self.training)


class TransformerXLPreTrainedModel(StrictPreTrainedModel):
    family = "TransformerXL"
    config_class = TransformerXLConfig
    base_model_prefix = "model"
    _no_split_modules = ("TransformerXLLayer",)
    _skip_keys_device_placement = CACHE_NAMES
    _keys_to_ignore_on_load_unexpected = (r"position_embeddings\.inv_freq$",)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, RelativeBias):
            init.zeros_(module.r_w_bias)
            init.zeros_(module.r_r_bias)
        elif getattr(module, "adds_to_residual", False):  # Megatron's rule: two additions in each layer
            init.normal_(
                module.weight, std=self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
            )


class TransformerXLModel(TransformerXLPreTrainedModel):
    """The stack of layers and its last norm."""

    def __init__(self, config: TransformerXLConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rel_bias = RelativeBias(config) if config.relative_encoding else None
        self.embed_positions = None
        if not config.relative_encoding:
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(TransformerXLLayer(config) for _ in range(config.num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def embed(self, embeds, attention_mask, position_ids, past: int) -> torch.Tensor:
        """Word vectors [B, Q, H] -> the first layer's input."""
        rate, length = self.config.hidden_dropout, embeds.shape[1]
        if self.embed_positions is None:
            return dropout(dropout(embeds, rate, self.training), rate, self.training)  # twice, as the original does
        if past + length > self.config.max_position_embeddings:
            raise ValueError(
                f"input must have at most max_position_embeddings {self.config.max_position_embeddings} tokens, "
                f"got {past + length}; shorten it, or use a model with relative_encoding"
            )
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=embeds.device).unsqueeze(0)
        return dropout(embeds + self.embed_positions(position_ids), rate, self.training)

    def position_table(self, hidden: torch.Tensor, length: int, cache: DynamicCache | None) -> torch.Tensor | None:
        """Sines and cosines [1, length, H] of distances length-1 .. 0; None when each layer's cache has its keys."""
        if self.rel_bias is None:
            return None
        if cache is not None:
            if not self.training and cache.layers[0].relative_length >= length:
                return None
            length = max(length, self.config.attention_window)
        table = relative_table(length, self.config.hidden_size, self.config.positions_dtype, hidden.device)
        return dropout(table.to(hidden.dtype).unsqueeze(0), self.config.hidden_dropout, self.training)

    def biases(self) -> tuple[torch.Tensor | None, ...]:
        """What every layer adds to its queries, by content and by distance; None without relative encoding."""
        return (None, None) if self.rel_bias is None else self.rel_bias()

    def run_layers(self, hidden, mems, band: Band, table, cache) -> list[torch.Tensor]:
        """What enters each layer, and what leaves the last, [B, Q, H] each; mems, table and cache as in forward."""
        biases, states = self.biases(), [hidden]
        for number, layer in enumerate(self.layers):
            memory, kept = mems[number] if mems else None, None if cache is None else cache.layers[number]
            states.append(layer(states[-1], memory, band, table, biases, **named_cache(kept)))
        return states

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
        mems: tuple[torch.Tensor, ...] | None = None,
        use_cache: bool | None = None,
        output_mems: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: DynamicCache | None = None,
    ) -> TransformerXLOutput:
        """ids [B, Q] int64 -> hidden states [B, Q, H].

        attention_mask: [B, Q] or [B, past + Q], 1 for real tokens; or [B, Q, M + Q] (query, key), whose columns in
        excess on the left are cut off, and which the causal window narrows further. position_ids [B, Q] are for
        absolute positions only: relative ones follow from where a token stands. mems (from output_mems) or cache
        (also called past_key_values): what came before, as hidden states, through which the layers' weights are
        trained, or as keys and values, for inference. Raises ValueError when both are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given; leave the other out")
        cache = given_cache(cache, past_key_values)
        if mems and cache is not None:
            raise ValueError("mems and a cache must not both be given; leave one out")
        config = self.config
        if config.output_attentions if output_attentions is None else output_attentions:
            raise ValueError(
                "output_attentions must be false: attention is computed in blocks, and its matrix is never whole; "
                "leave it out"
            )
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        length = embeds.shape[1]
        wanted = config.use_cache and not self.training and not output_mems if use_cache is None else use_cache
        if cache is not None or (wanted and not mems):
            cache = WindowLayer.fit(DynamicCache() if cache is None else cache, config)
        past = 0 if cache is None else cache.get_seq_length()
        remembered = mems[0].shape[1] if mems else min(past, config.attention_window - 1)
        hidden = self.embed(embeds, attention_mask, position_ids, past)
        band = make_band(length, remembered, config.attention_window, attention_mask, hidden.device)
        states = self.run_layers(hidden, mems, band, self.position_table(hidden, band.longest, cache), cache)
        hidden = self.final_layernorm(states[-1])
        return TransformerXLOutput(
            last_hidden_state=hidden,
            hidden_states=(*states[:-1], hidden) if output_hidden_states else None,
            mems=key_memory(mems, states, config.mem_len) if output_mems else None,
            **named_cache(cache),
        )


class TransformerXLForCausalLM(TransformerXLPreTrainedModel, GenerationMixin):
    """Scores of the next token over the whole, tied vocabulary."""

    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan: ClassVar = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: TransformerXLConfig):
        super().__init__(config)
        self.model = TransformerXLModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, new_embeddings):
        self.lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
        mems: tuple[torch.Tensor, ...] | None = None,
        labels: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_mems: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        past_key_values: DynamicCache | None = None,
    ) -> TransformerXLCausalLMOutput:
        """labels [B, Q] int64 are shifted here, as everywhere in HF; shift_labels [B, Q] are each position's target.

        -100 takes no part in the loss, the mean in nats over the others. logits_to_keep: how many of the last
        positions get logits, 0 for all, or which, int64 [P]. The rest is as in TransformerXLModel.forward.
        """
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            cache=given_cache(cache, past_key_values),
            mems=mems,
            use_cache=use_cache,
            output_mems=output_mems,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if shift_labels is not None:
            loss = token_loss(logits, shift_labels)
        elif labels is not None:
            loss = token_loss(logits[:, :-1], labels[:, 1:])
        return TransformerXLCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            mems=outputs.mems,
            **named_cache(getattr(outputs, CACHE_NAME)),
        )
