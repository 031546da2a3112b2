"""Documents of one row are kept apart by a mask of pairs, and padding never makes a row of attention empty."""

import torch
from transformers import BertConfig, BertForMaskedLM

from training.objectives.masked_lm import MaskedLanguageModelling, separate_documents


def test_document_ids_become_a_mask_of_pairs():
    documents = torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1]])
    inputs = {"input_ids": documents, "attention_mask": (documents > 0).long(), "document_ids": documents}
    separated = separate_documents(inputs)
    assert separated.keys() == {"input_ids", "attention_mask"} and separated["attention_mask"].dtype == torch.bool
    assert separated["attention_mask"][0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert separated["attention_mask"][1].all() and separated["attention_mask"].any(-1).all()


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
    assert [value.item() for value in metrics["mlm_accuracy"]] == [0, 0]
