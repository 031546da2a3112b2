"""torch.export and ONNX of every family: one program for any number of rows of any length, equal to the model."""

import pytest
import torch
from torch.export import Dim

from models.stock import longest_row
from tests.models.families import CASES, make, rows, said

READERS = ("ForMaskedLM", "ForCausalLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification")
OFTEN = {
    ("GAUAlpha", "ForSequenceClassification"),
    ("FLASHQuad", "ForMaskedLM"),
    ("LinearHead", "ForTokenClassification"),
}
EXPORTED = [
    pytest.param(*case, marks=() if case in OFTEN else pytest.mark.slow) for case in CASES if case[1] in READERS
]
# FLASH's groups have 8 tokens, Transformer-XL's window 12 and its blocks of queries 256: none of these may show.
SIZES = ((2, 12), (1, 1), (3, 5), (1, 8), (2, 16), (1, 17), (4, 40), (1, 300))


def example(family, ending):
    """A model, a batch, and which of its sizes are open."""
    model = make(family, ending)
    inputs = rows(ending, labels=False)
    open_sizes = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in inputs}
    if family == "TransformerXL":
        model.config.use_cache = False
    return model, inputs, open_sizes


def sizes_of(model):
    """ELECTRA has positions for 64 tokens, all others any number."""
    return SIZES if longest_row(model) is None else SIZES[:-1]


@pytest.mark.parametrize(("family", "ending"), EXPORTED)
def test_an_exported_program_equals_the_model_at_any_size(family, ending):
    model, inputs, open_sizes = example(family, ending)
    program = torch.export.export(model, (), inputs, dynamic_shapes=open_sizes).module()
    for count, length in sizes_of(model):
        batch = rows(ending, count, length, labels=False)
        torch.testing.assert_close(said(program, **batch), said(model, **batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "ending"), EXPORTED)
def test_onnxruntime_equals_the_model_at_sizes_it_was_not_exported_with(family, ending, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is optional: pip install -r requirements-extras.txt")
    import onnxruntime

    model, inputs, open_sizes = example(family, ending)
    names = {"input_names": list(inputs), "output_names": ["logits"]}
    program = torch.onnx.export(model, (), kwargs=inputs, dynamic_shapes=open_sizes, dynamo=True, **names)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == list(inputs)
    for count, length in sizes_of(model):
        batch = rows(ending, count, length, labels=False)
        (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})
        torch.testing.assert_close(torch.from_numpy(logits), said(model, **batch), atol=1e-4, rtol=1e-4)
