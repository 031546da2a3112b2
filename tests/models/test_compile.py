"""torch.compile of every family: one graph without a break, with the gradients of the model as it runs by itself."""

import pytest
import torch
import transformers

from models.post_norm import use_fast_layers
from models.stock import accept_our_inputs
from tests.models import families
from tests.models.small_models import VARIANTS, batch, head_inputs, make, make_xl

STOCK = {"vocab_size": 50, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32}
STOCK |= {"max_position_embeddings": 32, "num_hidden_layers": 1}
RATES = {
    "GAUAlpha": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "FLASHQuad": ("dropout",),
    "FLASH": ("dropout",),
    "Bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "Roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "Electra": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "TransformerXL": ("hidden_dropout", "attention_dropout"),
}


def cases(*often):
    """Every model; those that are not named here are slow."""
    every = (*VARIANTS, "Bert", "Roberta", "Electra", "TransformerXL")
    marked = [case if case in often else pytest.param(case, marks=pytest.mark.slow) for case in every]
    return pytest.mark.parametrize("case", marked)


def model_and_inputs(case, rate):
    """One layer in training, its dropout at this rate, and a batch with three lengths and three masked positions."""
    fields = dict.fromkeys(RATES[VARIANTS[case][0] if case in VARIANTS else case], rate)
    ids, mask = batch()
    if case == "TransformerXL":
        return make_xl(num_hidden_layers=1, **fields).train(), {"input_ids": ids, "labels": ids}
    inputs = head_inputs("ForMaskedLM", ids, mask) | {
        "masked_positions": torch.tensor([[1, 4, 7], [1, 4, 4], [1, 0, 0]])
    }
    if case in VARIANTS:
        return make(case, num_hidden_layers=1, **fields).train(), inputs
    torch.manual_seed(0)
    model = getattr(transformers, f"{case}ForMaskedLM")(getattr(transformers, f"{case}Config")(**STOCK | fields))
    return use_fast_layers(accept_our_inputs(model)).train(), inputs


def loss_and_gradients(function, model, inputs):
    torch.manual_seed(3)
    loss = function(**inputs).loss
    return loss.detach(), torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


def check(model, inputs, expected, rounding=1e-8):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    (loss, gradients), (expected_loss, expected_gradients) = loss_and_gradients(compiled, model, inputs), expected
    torch.testing.assert_close(loss, expected_loss)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, gradient, wanted in zip(names, gradients, expected_gradients, strict=True):
        difference = (gradient - wanted).norm()
        assert difference <= 1e-5 * wanted.norm() or difference <= rounding, name  # a key's bias has no gradient


@cases("gau", "flash_quad", "flash", "Bert", "TransformerXL")
def test_a_compiled_model_has_the_gradients_of_the_eager_one(case):
    model, inputs = model_and_inputs(case, 0.0)
    check(model, inputs, loss_and_gradients(model, model, inputs))


@cases("gau")
def test_so_it_has_with_dropout(case, monkeypatch):
    """Eager code told that it is compiled draws the same random numbers, torch's own."""
    model, inputs = model_and_inputs(case, 0.3)
    without = model_and_inputs(case, 0.0)[0](**inputs).loss
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        expected = loss_and_gradients(model, model, inputs)
    assert abs(expected[0] - without) > 1e-4
    check(model, inputs, expected)


OFTEN = ("LinearHeadMean", "ForSequenceClassification")
EVERY = [case if case == OFTEN else pytest.param(*case, marks=pytest.mark.slow) for case in families.CASES]


@pytest.mark.parametrize(("family", "ending"), EVERY)
def test_so_has_every_head(family, ending):
    model, inputs = families.make(family, ending).train(), families.rows(ending)
    loss = model(**inputs).loss
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)  # not that of a pooler that no head reads
    assert sum(parameter.requires_grad for parameter in parameters) > 0.8 * len(names)
    # What moves the scores of all choices, or all places, alike has no gradient.
    check(model, inputs, loss_and_gradients(model, model, inputs), rounding=5e-7)
