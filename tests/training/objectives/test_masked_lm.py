"""Both accuracies; documents of one row are kept apart by a mask of pairs, and padding never makes a row of attention
empty.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from models.base import attention_mask_or_pads
from training.objectives.masked_lm import MaskedLanguageModelling, separate_documents

MASK = 9


class Everywhere(nn.Module):
    """Guesses 7, or what stands there where the input is not [MASK]; logits of all places."""

    def forward(self, input_ids, attention_mask, labels):
        logits = nn.functional.one_hot(input_ids.masked_fill(input_ids == MASK, 7), 10).float()
        return SimpleNamespace(logits=logits, loss=torch.zeros(()))


class AtLabels(Everywhere):
    def forward(self, input_ids, attention_mask, labels, masked_positions):
        return super().forward(input_ids.gather(1, masked_positions), None, None)


@pytest.mark.parametrize("model", [Everywhere(), AtLabels()])
def test_tokens_that_the_input_shows_do_not_count_as_hidden(model):
    # Right at a [MASK], wrong at one, wrong at a random token, right at one left as it is; a row without labels.
    inputs = {
        "input_ids": torch.tensor([[1, MASK, MASK, 4, 5, 6], [1, 2, 7, 2, 7, 0]]),
        "labels": torch.tensor([[-100, 7, 3, 8, 5, -100], [-100] * 6]),
        "masked_positions": torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]]),
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    _, metrics = MaskedLanguageModelling(model, 6, 0.5)(model, inputs)
    pairs = {name: tuple(int(number) for number in pair) for name, pair in metrics.items()}
    assert pairs == {"mlm_accuracy": (2, 4), "mlm_hidden_accuracy": (1, 3)}


def test_document_ids_become_a_mask_that_stands_for_pairs():
    documents = torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1]])
    inputs = {"input_ids": documents, "attention_mask": (documents > 0).long(), "document_ids": documents}
    separated = separate_documents(inputs)
    assert separated.keys() == {"input_ids", "attention_mask"}
    assert torch.equal(separated["attention_mask"], documents.unsqueeze(1))
    pairs = attention_mask_or_pads(separated["attention_mask"], None, documents, None)
    assert pairs.dtype == torch.bool and pairs[1].all() and pairs.any(-1).all()
    assert pairs[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_inputs_without_documents_stay_as_they_are():
    inputs = {"input_ids": torch.ones(1, 3), "attention_mask": torch.ones(1, 3)}
    assert separate_documents(inputs) is inputs


def test_a_batch_without_labels_adds_nothing_to_the_loss_of_any_model():
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = BertForMaskedLM(config)
    inputs = MaskedLanguageModelling(model, 4, 0.5).example(4) | {"labels": torch.full((1, 4), -100)}
    objective = MaskedLanguageModelling(model, 4, 0.5)
    losses, metrics = objective(model, inputs)
    assert losses["mlm"].item() == 0 and objective.counts(inputs)["mlm"] == 0
    for name in ("mlm_accuracy", "mlm_hidden_accuracy"):
        assert [value.item() for value in metrics[name]] == [0, 0]
