"""What other libraries and scripts expect of a model of transformers, of every family and head (docs/python.md)."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from models.base import AUTO_CLASSES
from tests.models.families import CLASSIFIERS, EVERY_CASE, STOCK, make, rows, said


@EVERY_CASE
def test_a_tuple_holds_what_the_outputs_do_and_embeddings_stand_for_ids(family, ending):
    model, inputs = make(family, ending), rows(ending)
    outputs = model(**inputs)
    as_tuple = model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == len(outputs.to_tuple())
    assert outputs.loss.isfinite()
    torch.testing.assert_close(as_tuple[:2], outputs.to_tuple()[:2])
    embedded = model(inputs_embeds=model.get_input_embeddings()(inputs.pop("input_ids")), **inputs)
    torch.testing.assert_close(embedded.to_tuple()[:2], outputs.to_tuple()[:2])


@pytest.mark.parametrize(("family", "ending"), CLASSIFIERS)
@pytest.mark.parametrize(
    ("kind", "count", "labels"),
    [
        ("multi_label_classification", 3, torch.tensor([[0.0, 1, 1], [1, 0, 0]])),
        ("regression", 1, torch.tensor([0.5, -2])),
        ("regression", 3, torch.tensor([[0.5, -2, 1], [3, 0, 1]])),
        ("single_label_classification", 3, torch.tensor([2, 0])),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_the_loss_is_that_which_bert_has_of_the_same_logits(family, ending, kind, count, labels, named):
    if not named and kind == "regression" and count > 1:
        pytest.skip("without a name several floats are labels, in BERT too")
    fields = {"num_labels": count} | ({"problem_type": kind} if named else {})
    outputs = make(family, ending, **fields)(**rows(ending, labels=False), labels=labels)
    bert = transformers.BertForSequenceClassification(transformers.BertConfig(**STOCK, **fields)).eval()
    bert.classifier = Constant(outputs.logits)
    torch.testing.assert_close(outputs.loss, bert(**rows(ending, labels=False), labels=labels).loss)


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, hidden):
        return self.logits


class Int8Linear(nn.Linear):
    """A linear layer as bitsandbytes puts it in place of one: its weight is of integers."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        whole = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight, self.bias = nn.Parameter(whole, requires_grad=False), linear.bias

    def forward(self, inputs):
        return F.linear(inputs, self.weight * self.scale, self.bias)


@EVERY_CASE
def test_a_linear_layer_of_another_kind_is_called_wherever_it_is_put(family, ending):
    model, inputs = make(family, ending), rows(ending, labels=False)
    plain = said(model, **inputs).detach()
    rounded = make(family, ending)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in linears:
        parent, _, last = name.rpartition(".")
        weight, other = rounded.get_submodule(name).weight, Int8Linear(model.get_submodule(name))
        weight.data = other.weight * other.scale
        setattr(model.get_submodule(parent), last, other)
    torch.testing.assert_close(said(model, **inputs), said(rounded, **inputs), atol=1e-5, rtol=1e-5)
    assert not torch.equal(said(rounded, **inputs), plain)
    inputs = rows(ending)
    loss, expected = (each.train()(**inputs).loss for each in (model, rounded))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@EVERY_CASE
def test_bitsandbytes_replaces_every_linear_layer_but_the_output(family, ending, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes: pip install -r requirements-extras.txt")
    model, inputs = make(family, ending), rows(ending, labels=False)
    model.save_pretrained(tmp_path)
    auto_class = getattr(transformers, next(auto for auto, name in AUTO_CLASSES.items() if name == ending))
    config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    quantised = auto_class.from_pretrained(tmp_path, quantization_config=config, device_map={"": "cpu"}).eval()
    linears = {module for module in quantised.modules() if isinstance(module, nn.Linear)}
    plain = {module for module in linears if not type(module).__module__.startswith("bitsandbytes")}
    assert len(linears) > 1 and plain <= {quantised.get_output_embeddings()}
    expected, difference = said(model, **inputs), said(quantised, **inputs) - said(model, **inputs)
    assert 0 < difference.norm() < 0.2 * expected.norm()


@EVERY_CASE
def test_attention_is_eager_or_sdpa_and_nothing_else(family, ending):
    model, inputs = make(family, ending), rows(ending, labels=False)
    expected = said(model, **inputs)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        torch.testing.assert_close(said(model, **inputs), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises((ValueError, ImportError), match=r"Flash ?Attention ?2") as error:
        type(model)._from_config(model.config, attn_implementation="flash_attention_2")
    assert "\n" not in str(error.value).strip()
