"""Dynamic int8 quantisation of every family by torchao: every linear layer, and the model says the same."""

import importlib

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, TorchAoConfig

from common.errors import ArgumentError
from tests.models.families import EVERY_CASE, make, rows, said
from tests.small_runs import SCRIPTS

torchao = pytest.importorskip("torchao.quantization", reason="torchao: pip install -r requirements-extras.txt")


@EVERY_CASE
def test_a_model_of_int8_weights_runs_and_says_what_it_said(family, ending):
    model, inputs = make(family, ending), rows(ending, labels=False)
    expected = said(model, **inputs).detach()
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert all(type(linear.weight).__module__.startswith("torchao") for linear in linears)
    with torch.no_grad():
        difference = said(model, **inputs) - expected
    assert 0 < difference.norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("script", ["mlm", "glue"])
def test_a_quantised_model_is_not_trained(script, small_runs, tmp_path):
    kind = {"mlm": AutoModelForMaskedLM, "glue": AutoModel}[script]
    plain = small_runs.folder / "encoder" if script == "glue" else tmp_path / "plain"
    if script == "mlm":
        small_runs.run("mlm", plain, max_steps=1, save_steps=1)
    folder = tmp_path / "quantised"
    config = TorchAoConfig(torchao.Int8DynamicActivationInt8WeightConfig())
    kind.from_pretrained(plain, quantization_config=config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(plain).save_pretrained(folder)
    words = small_runs.words(script, tmp_path / "run", model_name_or_path=folder)
    for flag in {"--config_overrides", "--model"} & {*words}:
        place = words.index(flag)
        del words[place : place + 2]
    with pytest.raises(ArgumentError, match="must hold weights that can be trained, got quantised ones") as error:
        importlib.import_module(SCRIPTS[script]).main(words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "run.json").exists()
