"""The layer written by hand is transformers' own, in outputs and gradients."""

import copy

import pytest
import torch
import transformers

from models.post_norm import PostNormLayer, keep_mask, use_fast_layers
from models.stock import accept_our_inputs

KINDS = pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra"])
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make(kind, **changes):
    """A model of strong random parameters, stock."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    fields = {"vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 1} | shape | NO_DROPOUT | changes
    model = getattr(transformers, f"{kind}ForMaskedLM")(getattr(transformers, f"{kind}Config")(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def masks(length=11):
    mask = torch.ones(3, length, dtype=torch.int64)
    mask[1, 7:] = mask[2, 2:] = 0
    documents = torch.arange(length).expand(3, -1) // 4
    return {"none": None, "padding": mask, "pairs": documents.unsqueeze(2) == documents.unsqueeze(1)}


@KINDS
@pytest.mark.parametrize("mask", masks())
def test_outputs_and_gradients_are_the_stock_layers(kind, mask, monkeypatch):
    model = accept_our_inputs(make(kind).double())
    fast = use_fast_layers(accept_our_inputs(make(kind).double()))
    calls, apply = [], PostNormLayer.apply
    monkeypatch.setattr(PostNormLayer, "apply", lambda *arguments: calls.append(1) or apply(*arguments))
    ids, seen = torch.randint(2, 50, (3, 11)), masks()[mask]
    expected, result = (m(input_ids=ids, attention_mask=seen, labels=ids) for m in (model, fast))
    assert len(calls) == 2
    torch.testing.assert_close(result.logits, expected.logits)
    expected.loss.backward()
    result.loss.backward()
    for (name, parameter), other in zip(model.named_parameters(), fast.parameters(), strict=True):
        assert (other.grad is None) == (parameter.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(other.grad, parameter.grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_as_the_stock_layers(dtype):
    model = make("Electra")
    fast = use_fast_layers(copy.deepcopy(model))
    ids = torch.randint(2, 50, (3, 11))
    exact = model(ids).logits
    with torch.autocast("cpu", dtype):
        errors = [(m(ids).logits.float() - exact).norm().item() for m in (model, fast)]
        fast(ids, labels=ids).loss.backward()
    assert errors[1] < 2 * errors[0]
    assert all(p.grad.isfinite().all() for p in fast.parameters() if p.grad is not None)


@pytest.mark.parametrize("change", [{"attn_implementation": "eager"}, {"hidden_act": "relu"}])
def test_other_layers_stay_stock(change, monkeypatch):
    model = use_fast_layers(make("Bert", **change))
    monkeypatch.setattr(PostNormLayer, "apply", lambda *arguments: pytest.fail("the hand-written layer ran"))
    assert model(torch.randint(2, 50, (2, 5))).logits.isfinite().all()


def test_hidden_states_checkpointing_and_saving_stay(tmp_path):
    model = use_fast_layers(make("Electra"))
    ids = torch.randint(2, 50, (2, 5))
    assert len(model(ids, output_hidden_states=True).hidden_states) == 3
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(ids, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    model.save_pretrained(tmp_path)
    again = transformers.ElectraForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again.eval()(ids).logits, model.eval()(ids).logits)


def test_dropout_has_its_probability_and_acts_in_training_only():
    for probability in (0.1, 0.5):
        keep = keep_mask((1000, 1000), probability)
        assert abs(keep.float().mean() - (1 - probability)) < 4 * (probability * (1 - probability)) ** 0.5 / 1000
        assert set(keep.unique().tolist()) == {0, 1}
    assert keep_mask((3, 5), 0.1).shape == (3, 5) and keep_mask((3,), 0.0) is None
    model = use_fast_layers(make("Electra", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3))
    ids = torch.randint(2, 50, (2, 9))
    encoder, hidden = model.electra.encoder.train(), torch.randn(2, 9, 32)
    assert not torch.equal(*(encoder(hidden).last_hidden_state for _ in range(2)))
    assert torch.equal(*(model.eval()(ids).logits for _ in range(2)))


def test_outputs_in_training_have_the_expectation_of_dropout():
    """The mean over many masks of a layer's attention is what it gives without."""
    from models.post_norm import attend

    torch.manual_seed(0)
    projected = torch.randn(1, 4, 3, 2, 8).expand(4000, -1, -1, -1, -1)
    exact = attend(projected[:1], None, None, 0.0)[1][0]
    mixed = attend(projected, None, keep_mask((2, 4000, 4, 4), 0.25), 0.25)[1].mean(0)
    torch.testing.assert_close(mixed, exact, atol=0.06, rtol=0)
