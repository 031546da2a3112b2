"""What every head keeps, on every encoder."""

import inspect

import pytest
import torch
from torch.nn import functional as F

import models
from tests.models.small_models import EVERY, EVERY_HEAD, HEADS, batch, head_inputs, make
from training.model_setup import own_memory


@EVERY
def test_masked_positions_give_the_full_loss_logits_and_gradients(variant):
    model = make(variant)
    ids, mask = batch()
    inputs = head_inputs("ForMaskedLM", ids, mask)
    counts = (inputs["labels"] != -100).sum(-1)
    positions = torch.zeros(3, int(counts.max()), dtype=torch.long)
    for row, count in enumerate(counts):
        positions[row, :count] = (inputs["labels"][row] != -100).nonzero().squeeze(-1)
    full = model(**inputs)
    gathered = model(**inputs, masked_positions=positions)
    assert full.logits.shape == (3, 12, 50)
    expected = full.logits.gather(1, positions.unsqueeze(-1).expand(-1, -1, 50))
    torch.testing.assert_close(gathered.logits, expected)
    torch.testing.assert_close(gathered.loss, full.loss)
    reference = F.cross_entropy(full.logits.flatten(0, 1), inputs["labels"].flatten())
    torch.testing.assert_close(full.loss, reference)
    trained = model.train()(**inputs)
    assert trained.logits.shape == (int(counts.sum()), 50)
    torch.testing.assert_close(trained.loss, full.loss)
    wanted = torch.autograd.grad(full.loss, list(model.parameters()))
    for loss in (gathered.loss, trained.loss):
        for result, gradient in zip(torch.autograd.grad(loss, list(model.parameters())), wanted, strict=True):
            torch.testing.assert_close(result, gradient, atol=1e-5, rtol=1e-4)


@EVERY
def test_no_label_gives_loss_zero_and_no_nan(variant):
    model = make(variant).train()
    ids, mask = batch()
    nothing = torch.full_like(ids, -100)
    for extra in ({}, {"masked_positions": torch.zeros(3, 1, dtype=torch.long)}):
        loss = model(ids, mask, labels=nothing, **extra).loss
        loss.backward()
        assert loss.item() == 0
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@EVERY
@EVERY_HEAD
def test_every_head_trains_every_parameter(variant, ending):
    model = make(variant, ending).train()
    ids, mask = batch()
    outputs = model(**head_inputs(ending, ids, mask), token_type_ids=None)
    outputs.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@EVERY
@EVERY_HEAD
def test_every_head_survives_save_and_load(variant, ending, tmp_path):
    model = make(variant, ending)
    ids, mask = batch()
    inputs = head_inputs(ending, ids, mask)
    model.save_pretrained(tmp_path)
    again = own_memory(type(model).from_pretrained(tmp_path))
    with torch.no_grad():
        for result, expected in zip(again(**inputs).to_tuple(), model(**inputs).to_tuple(), strict=True):
            assert torch.equal(result, expected)
        assert isinstance(model(**inputs, return_dict=False), tuple)


@EVERY
def test_embeddings_are_tied_before_and_after_loading(variant, tmp_path):
    model = make(variant)
    model.save_pretrained(tmp_path)
    for tied in (model, type(model).from_pretrained(tmp_path)):
        assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    untied = make(variant, tie_word_embeddings=False)
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight
    untied.save_pretrained(tmp_path / "untied")
    again = type(untied).from_pretrained(tmp_path / "untied")
    ids, mask = batch()
    assert torch.equal(again(ids, mask).logits, untied(ids, mask).logits)


@EVERY
def test_resized_embeddings_keep_the_ties(variant, tmp_path):
    model = make(variant)
    model.resize_token_embeddings(60)
    ids, mask = batch()
    assert model(ids, mask).logits.shape[-1] == 60
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(ids, mask).logits, model(ids, mask).logits)


def test_forwards_take_no_keyword_dictionary():

    for family in ("GAUAlpha", "FLASHQuad", "FLASH"):
        for ending in ("Model", *HEADS):
            parameters = inspect.signature(getattr(models, family + ending).forward).parameters.values()
            assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters)


@pytest.mark.parametrize(
    ("labels", "num_labels", "kind"),
    [
        (torch.tensor([0, 2, 1]), 3, F.cross_entropy),
        (torch.tensor([0.5, -1.0, 2.0]), 1, lambda logits, labels: F.mse_loss(logits.squeeze(-1), labels)),
        (torch.tensor([[1.0, 0, 1]] * 3), 3, F.binary_cross_entropy_with_logits),
    ],
)
def test_sequence_classification_infers_its_loss(labels, num_labels, kind):
    model = make("gau", "ForSequenceClassification", num_labels=num_labels)
    ids, mask = batch()
    outputs = model(ids, mask, labels=labels)
    torch.testing.assert_close(outputs.loss, kind(outputs.logits, labels))
