"""Masked language modelling: cross entropy and accuracy at the positions that a collator has labelled."""

import inspect
from types import MappingProxyType

import torch

from training.objectives.base import IGNORED, Objective


class MaskedLanguageModelling(Objective):
    """Cross entropy and accuracy at the labelled positions of a masked-LM head.

    mlm_accuracy is what papers report, of all labelled tokens, some of which the model sees as they are;
    mlm_hidden_accuracy leaves these out: it counts the tokens that the input hides, masked or replaced.

    A head whose forward takes `masked_positions` computes logits there only; rows with document_ids are isolated.
    """

    weights, metrics, perplexity_of = MappingProxyType({"mlm": 1.0}), ("mlm_accuracy", "mlm_hidden_accuracy"), "mlm"

    def __init__(self, model: torch.nn.Module, longest: int, probability: float):
        """longest: tokens of the longest row; probability: labelled tokens per token."""
        super().__init__(longest)
        self._probability = probability
        self._takes_positions = "masked_positions" in inspect.signature(model.forward).parameters

    def counts(self, inputs: dict) -> dict[str, torch.Tensor]:
        return {"mlm": (inputs["labels"] != IGNORED).sum()}

    def example(self, length: int) -> dict[str, torch.Tensor]:
        positions = torch.arange(max(1, round(self._probability * length))).unsqueeze(0)
        return super().example(length) | {"masked_positions": positions}

    def __call__(self, model, inputs: dict):
        inputs = separate_documents(inputs)
        ids, labels, positions = inputs["input_ids"], inputs["labels"], inputs["masked_positions"]
        if self._takes_positions:
            outputs = model(**inputs)
            ids, labels = ids.gather(1, positions), labels.gather(1, positions)  # [B, P]
        else:
            outputs = model(**{name: tensor for name, tensor in inputs.items() if name != "masked_positions"})
        is_hidden = (ids != labels) & (labels != IGNORED)
        count = (labels != IGNORED).sum()
        with torch.no_grad():
            is_right = outputs.logits.max(-1).indices == labels  # a quarter of argmax's time on a CPU; -100 is no id
        # The head's loss is a mean over its own labels, and whatever it is without any: weigh it by 0 then.
        total = torch.where(count > 0, outputs.loss.float(), 0.0) * count
        hidden = ((is_right & is_hidden).sum(), is_hidden.sum())
        return {"mlm": total}, {"mlm_accuracy": (is_right.sum(), count), "mlm_hidden_accuracy": hidden}


def separate_documents(inputs: dict) -> dict:
    """Inputs without document_ids [B, T]; attention_mask is these, [B, 1, T]: a token sees those of its own number.

    Padding (document 0) sees padding alone, because a row of a softmax that sees nothing is not a number. Inputs
    without document_ids are returned as they are.
    """
    if "document_ids" not in inputs:
        return inputs
    kept = {name: tensor for name, tensor in inputs.items() if name != "document_ids"}
    return kept | {"attention_mask": inputs["document_ids"].unsqueeze(1)}
