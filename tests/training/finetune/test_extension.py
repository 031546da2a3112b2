"""FGM moves the word embeddings by epsilon, and puts them back bit for bit."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from training.finetune.extension import FastGradient


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1 / 3)  # so that adding and taking away again would not be exact
    model(torch.arange(1, 9).view(2, 4), labels=torch.tensor([0, 1])).loss.backward()
    return model


def test_only_the_word_embeddings_move_and_all_is_restored_bit_for_bit(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    name = "bert.embeddings.word_embeddings.weight"
    with FastGradient(0.7)(model):
        inside = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        move = inside[name] - before[name]
        assert move.norm().item() == pytest.approx(0.7, rel=1e-4)
        gradient = model.get_input_embeddings().weight.grad
        assert torch.nn.functional.cosine_similarity(move.flatten(), gradient.flatten(), 0) > 0.9999
        assert all(torch.equal(inside[key], tensor) for key, tensor in before.items() if key != name)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_an_error_inside_leaves_the_embeddings_as_they_were(model):
    before = model.get_input_embeddings().weight.detach().clone()
    with pytest.raises(RuntimeError), FastGradient(1.0)(model):
        raise RuntimeError
    assert torch.equal(model.get_input_embeddings().weight, before)


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan"), None])
def test_without_a_usable_gradient_nothing_moves(model, value):
    weight = model.get_input_embeddings().weight
    before = weight.detach().clone()
    weight.grad = None if value is None else torch.full_like(weight, value)
    with FastGradient(1.0)(model):
        assert torch.equal(weight, before)
    assert torch.equal(weight, before)


def test_the_moved_embeddings_raise_the_loss(model):
    inputs, labels = torch.arange(1, 9).view(2, 4), torch.tensor([0, 1])
    with torch.no_grad():
        plain = model(inputs, labels=labels).loss
        with FastGradient(0.5)(model):
            assert model(inputs, labels=labels).loss > plain
        assert torch.equal(model(inputs, labels=labels).loss, plain)
