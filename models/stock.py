"""Stock transformers encoders under the inputs of this repository's own: masked positions and packed rows.

Their masked-LM heads compute logits at all positions, they take a mask of pairs with a dimension for heads, and
RoBERTa counts positions from pad_token_id + 1. Letters: B batch, T tokens, P masked positions of the fullest row.
"""

import functools
import inspect
import types
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from common.errors import ArgumentError

from .base import Encoder, StrictPreTrainedModel, attention_mask_or_pads
from .layers import compute_dtype, gather_positions
from .post_norm import UNSEEN

_MIXING = ("sliding_window", "local_attention", "attention_window", "trigram_input")  # in a config: tokens mix


def accept_our_inputs(model: PreTrainedModel) -> PreTrainedModel:
    """Let a transformers encoder, with or without a head, take what this repository's models take; returns it.

    Its forward then accepts, by keyword,
        masked_positions [B, P] int64: logits and loss are of these positions only, labels stay [B, T];
        attention_mask [B, T] or [B, T, T] (query, key), or the number of each token's document, int [B, 1, T];
        position_ids [B, T] that count from 0 in each document.
    A model of this repository, or one that accepts them already, is returned as it is.
    """
    parameters = inspect.signature(model.forward).parameters
    if "masked_positions" in parameters or isinstance(model, StrictPreTrainedModel):
        return model
    model.position_offset = _position_offset(model) if "position_ids" in parameters else None
    asked: list[torch.Tensor] = []  # masked_positions of the running forward

    def keep_asked(encoder, args, output):
        if not asked:
            return output
        hidden = gather_positions(output[0], asked[0])
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output["last_hidden_state"] = hidden
        return output

    if model.base_model is not model:
        model.base_model.register_forward_hook(keep_asked)
    stock_forward = type(model).forward

    @functools.wraps(stock_forward)
    def forward(self, *args, attention_mask=None, position_ids=None, labels=None, masked_positions=None, **kwargs):
        kwargs |= _stock_inputs(self, attention_mask, position_ids)
        if labels is not None:
            kwargs["labels"] = labels if masked_positions is None else labels.gather(1, masked_positions)
        asked[:] = [] if masked_positions is None else [masked_positions]
        try:
            return stock_forward(self, *args, **kwargs)
        finally:
            asked.clear()

    taken = [p for p in inspect.signature(stock_forward).parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken.append(inspect.Parameter("masked_positions", inspect.Parameter.KEYWORD_ONLY, default=None))
    forward.__signature__ = inspect.Signature(taken)
    model.forward = types.MethodType(forward, model)
    return model


def _stock_inputs(model: PreTrainedModel, attention_mask, position_ids) -> dict[str, torch.Tensor]:
    """What an adapted model's encoder takes for a mask, as ours take it, and positions that count from 0."""
    if attention_mask is not None and attention_mask.dim() == 3:
        if model.config._attn_implementation != "sdpa":
            raise ValueError("attention_mask of shape [B, T, T] needs attn_implementation sdpa; load the model so")
        attention_mask = _additive(attention_mask, compute_dtype(next(model.parameters())))
    inputs = {"attention_mask": attention_mask}
    if position_ids is not None and model.position_offset is not None:
        inputs["position_ids"] = position_ids + model.position_offset
    return inputs


def _additive(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What to add to the scores of pairs, [B, 1, T, T], for a mask of pairs or numbers of documents.

    In the dtype of the scores and once for all layers: each would turn a boolean mask into one of its own, and keep it
    for its backward pass.
    """
    pairs = attention_mask_or_pads(attention_mask, None, attention_mask, None)
    return torch.zeros(pairs.shape, dtype=dtype, device=pairs.device).masked_fill_(~pairs, UNSEEN).unsqueeze(1)


def states_at(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    positions: torch.Tensor,
    attention_mask=None,
    position_ids=None,
    token_type_ids=None,
) -> torch.Tensor:
    """The encoder's last hidden states [B, P, H] at positions [B, P].

    model: adapted, or one of this repository's; input_ids [B, T], and the others as it takes them.
    """
    encoder, types = model.base_model, {} if token_type_ids is None else {"token_type_ids": token_type_ids}
    if isinstance(encoder, Encoder):
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, **types}
        return encoder(input_ids, output_positions=positions, **inputs).last_hidden_state
    inputs = _stock_inputs(model, attention_mask, position_ids) | types
    return gather_positions(encoder(input_ids, **inputs).last_hidden_state, positions)


def check_isolation(model: PreTrainedModel) -> None:
    """ValueError unless the model, adapted if need be, can keep documents of one row apart.

    That takes a mask of pairs [B, T, T] in every layer and positions that restart.
    """
    if isinstance(model, StrictPreTrainedModel):
        takes = model.takes_pair_masks
    else:
        parameters = inspect.signature(type(model).forward).parameters
        # Windows would be lost with a mask of ours, and MobileBERT's first layer reads the neighbours of a token.
        mixes = any(getattr(model.config, name, None) for name in _MIXING)
        takes = model.config._attn_implementation == "sdpa" and "position_ids" in parameters and not mixes
        takes = takes and _keeps_apart(model)
    if not takes:
        raise ValueError(
            f"isolated needs a model that takes a mask of pairs of tokens, and {type(model).__name__} does not; use "
            "concat or none, or gau_alpha, flash_quad, roberta, bert or electra"
        )


@torch.no_grad()
def _keeps_apart(model: PreTrainedModel) -> bool:
    """Whether a row of two documents has the logits of each alone."""
    training, ids = model.training, torch.randint(4, model.config.vocab_size, (1, 12), generator=torch.Generator())
    places = torch.arange(12).unsqueeze(0)
    documents, places = places < 5, torch.where(places < 5, places, places - 5)
    pairs = documents.unsqueeze(2) == documents.unsqueeze(1)
    try:
        model.eval()
        packed = model(input_ids=ids, attention_mask=pairs, position_ids=places)[0]
        alone = [model(input_ids=part, attention_mask=torch.ones_like(part))[0] for part in (ids[:, :5], ids[:, 5:])]
        difference = (packed - torch.cat(alone, dim=1)).abs().max()
        return bool(difference <= 1e-4 * packed.abs().max())
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):  # a mask that it does not know
        return False
    finally:
        model.train(training)


def check_rows(networks: Iterable[PreTrainedModel], rows: Iterable, isolated: bool) -> None:
    """ArgumentError unless each network, adapted if need be, takes these rows.

    rows: what has lengths, int64 arrays of tokens of each row, or None; isolated: with documents kept apart.
    """
    longest = max(int(each.lengths.max()) for each in rows if each)
    for network in networks:
        most = longest_row(network)
        if most is not None and longest > most:
            raise ArgumentError(
                f"--max_seq_length must be at most {most}, the tokens that the model has positions for, got rows of "
                f"{longest}; prepare shorter ones or raise max_position_embeddings in --config_overrides"
            )
        if isolated:
            try:
                check_isolation(network)
            except ValueError as error:
                raise ArgumentError(f"--packing {error}") from error


def longest_row(model: PreTrainedModel) -> int | None:
    """Most tokens of a row that the model has positions for, None if any number will do."""
    sizes = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if name.endswith(("position_embeddings", "embed_positions")) and isinstance(module, torch.nn.Embedding)
    ]
    return min(sizes, default=None)


def _position_offset(model: PreTrainedModel) -> int:
    """What the model's position of a row's first token is: 0, or pad_token_id + 1 in RoBERTa's relatives."""
    for name, module in model.named_modules():
        positions = name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
        if positions and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
