"""What a masked LM does between its encoder and its output projection, which vocabulary_loss.py takes over.

A family that is not listed, or whose projection is wrapped (an adapter) or hooked, gives its own logits, which then
stand in memory; everything else about it is the same.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from ..layers import is_plain
from ..stock import states_at


def _nothing(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return hidden


def _layer_norm(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return model.cls["predictions"].LayerNorm(hidden)


def _own_transform(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return model.cls["predictions"].transform(hidden)


def _bert(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return model.cls.predictions.transform(hidden)


def _electra(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return model.generator_predictions(hidden)


def _roberta(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    head = model.lm_head
    return head.layer_norm(nn.functional.gelu(head.dense(hidden)))


TRANSFORMS: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "gau_alpha": _nothing,
    "flash": _layer_norm,
    "flash_quad": _own_transform,
    "bert": _bert,
    "roformer": _bert,
    "electra": _electra,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
}


def projected(
    model: PreTrainedModel, input_ids: torch.Tensor, positions: torch.Tensor, inputs: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Hidden states [B, P, E] at positions [B, P] and the matrix [V, E] and bias [V] that make logits of them.

    model: an adapted masked LM, or one of this repository's; inputs: of it, besides input_ids [B, T]. Of a family that
    is not listed the logits [B, P, V] themselves, without matrix and bias.
    """
    decoder, transform = model.get_output_embeddings(), TRANSFORMS.get(model.config.model_type)
    if transform is None or not is_plain(decoder):
        return model(input_ids=input_ids, masked_positions=positions, **inputs).logits, None, None
    return transform(model, states_at(model, input_ids, positions, **inputs)), decoder.weight, decoder.bias
