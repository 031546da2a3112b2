"""Documents of one row are kept apart by a mask of pairs, and padding never makes a row of attention empty."""

import torch

from training.objectives.masked_lm import separate_documents


def test_document_ids_become_a_mask_of_pairs():
    documents = torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1]])
    inputs = {"input_ids": documents, "attention_mask": (documents > 0).long(), "document_ids": documents}
    found = separate_documents(inputs)
    assert found.keys() == {"input_ids", "attention_mask"} and found["attention_mask"].dtype == torch.bool
    assert found["attention_mask"][0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert found["attention_mask"][1].all() and found["attention_mask"].any(-1).all()


def test_inputs_without_documents_stay_as_they_are():
    inputs = {"input_ids": torch.ones(1, 3), "attention_mask": torch.ones(1, 3)}
    assert separate_documents(inputs) is inputs
