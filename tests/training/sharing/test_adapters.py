"""--lora in the three scripts that take it: resumed exactly, left merged and as peft reads it, refused in one line."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from common.errors import ArgumentError
from tests.models.families import make, rows, said
from tests.runs import assert_same_run, killed_in, weights
from tests.small_runs import SCRIPTS
from training.pretrained import load_config
from training.sharing.adapters import add_adapters, check_flags, has_adapters, merge_adapters, save_model

CLASSES = {"mlm": AutoModelForMaskedLM, "clm": AutoModelForCausalLM, "glue": AutoModelForSequenceClassification}
BEST = "adhoc/*/seed42/best"


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft", reason="peft is optional: pip install -r requirements-extras.txt")


@pytest.fixture(scope="module")
def bases(small_runs, tmp_path_factory):
    """The model that each script adapts."""
    folder = tmp_path_factory.mktemp("bases")
    for script in ("mlm", "clm"):
        small_runs.run(script, folder / script, max_steps=1, save_steps=1)
    return {"mlm": folder / "mlm", "clm": folder / "clm", "glue": small_runs.folder / "encoder"}


@pytest.fixture
def run(small_runs, bases):
    """(script, output_dir, **flags) trains adapters on the base."""

    def train(script, output_dir, **changes):
        words = small_runs.words(script, output_dir, **{"lora": "r=4,alpha=8,dropout=0.1"} | changes)
        if script != "glue":
            place = words.index("--config_overrides")
            words[place : place + 2] = ["--model_name_or_path", str(bases[script])]
        return importlib.import_module(SCRIPTS[script]).main(words)

    return train


def left_in(script, folder):
    return next(folder.glob(BEST)) if script == "glue" else folder


@pytest.mark.parametrize("script", CLASSES)
def test_a_run_goes_on_exactly_and_leaves_a_plain_model_and_its_adapters(peft, run, bases, script, tmp_path, caplog):
    run(script, tmp_path / "whole")
    with killed_in(5):
        run(script, tmp_path / "killed")
    run(script, tmp_path / "killed")
    one, other = (left_in(script, tmp_path / name) for name in ("whole", "killed"))
    if script != "glue":
        assert_same_run(one, other)
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())
    assert "trained" in caplog.text

    plain = CLASSES[script].from_pretrained(one).eval()
    named = {"num_labels": 2} if script == "glue" else {}
    adapted = peft.PeftModel.from_pretrained(CLASSES[script].from_pretrained(bases[script], **named), one / "adapter")
    ids = torch.arange(5, 13).view(2, 4)
    torch.testing.assert_close(said(adapted.eval(), input_ids=ids), said(plain, input_ids=ids), atol=1e-5, rtol=1e-5)
    base = AutoModel.from_pretrained(bases[script]).state_dict()
    changed = {name for name, tensor in plain.base_model.state_dict().items() if not torch.equal(tensor, base[name])}
    start = f"base_model.model.{plain.base_model_prefix}."
    low = {name.split(".lora_")[0] for name in load_file(one / "adapter" / "adapter_model.safetensors")}
    assert changed
    assert changed <= {f"{name.removeprefix(start)}.weight" for name in low}


def test_a_folder_of_adapters_goes_on_and_is_measured(peft, run, tmp_path):
    held_out = {"validation_split": 0.2}
    ended = run("mlm", tmp_path / "one", **held_out)
    again = run("mlm", tmp_path / "two", lora=tmp_path / "one" / "adapter", learning_rate=1e-30, **held_out)
    assert again["eval_loss"] == pytest.approx(ended["eval_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("rank=3", "got rank"),
        ("nowhere", "got nowhere"),
        ("r=0", "r of at least 1"),
        ("r=many", "one number for r"),
        ("r=4,dora=perhaps", "dora=true or false"),
        ("targets=i_dense,q_proj", "got q_proj; it has"),
    ],
)
def test_settings_that_give_no_adapters_are_one_line(peft, text, wrong):
    with pytest.raises(ArgumentError, match=wrong) as error:
        add_adapters(make("GAUAlpha", "ForMaskedLM"), text)
    assert str(error.value).startswith("--lora")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("other", [("FLASH", "ForMaskedLM", {}), ("GAUAlpha", "ForMaskedLM", {"hidden_size": 32})])
def test_adapters_of_another_model_are_refused_in_one_line(peft, other, tmp_path):
    model = make("GAUAlpha", "ForMaskedLM")
    add_adapters(model, "r=2")
    save_model(model, tmp_path)
    family, ending, fields = other
    with pytest.raises(ArgumentError, match=f"--lora {tmp_path}/adapter must") as error:
        add_adapters(make(family, ending, **fields), f"{tmp_path}/adapter")
    assert "\n" not in str(error.value)


def test_adapters_of_other_weights_of_the_same_size_are_refused(peft, tmp_path):
    model = make("GAUAlpha", "ForMaskedLM")
    model.save_pretrained(tmp_path / "base")
    add_adapters(model, "r=2")
    save_model(model, tmp_path)
    same, other = (type(model).from_pretrained(tmp_path / "base") for _ in range(2))
    add_adapters(same, f"{tmp_path}/adapter")
    with torch.no_grad():
        other.get_input_embeddings().weight[3, 5] += 1e-3
    with pytest.raises(
        ArgumentError, match=f"--lora {tmp_path}/adapter must hold adapters of the weights of"
    ) as error:
        add_adapters(other, f"{tmp_path}/adapter")
    assert "\n" not in str(error.value)


def test_adapters_are_no_model_nor_part_of_one(tmp_path):
    """Where peft is, transformers would put them into the model of their folder, or load another folder."""
    make("GAUAlpha", "ForMaskedLM").save_pretrained(tmp_path / "both")
    (tmp_path / "alone").mkdir()
    for name in ("both", "alone"):
        (tmp_path / name / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
        with pytest.raises(ArgumentError, match=f"MODEL {tmp_path}/{name} must hold a model, got adapters"):
            load_config(str(tmp_path / name), "MODEL")


def test_chosen_targets_alone_get_adapters_and_dora_merges(peft):
    model, inputs = make("FLASH", "ForSequenceClassification").train(), rows("ForSequenceClassification")
    add_adapters(model, "r=2,dora=true,targets=to_out,to_qk.0", new_head=True)
    model(**inputs).loss.backward()
    learning = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.grad is not None}
    ends = {name.removeprefix(f"flash.encoder.layers.{n}.") for name in learning for n in "01"} & {"to_out", "to_qk.0"}
    assert ends == {"to_out", "to_qk.0"}
    assert {name for name in learning if "layers" not in name} == {"classifier.weight", "classifier.bias"}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.requires_grad * torch.ones_like(parameter))
    adapted = said(model.eval(), **inputs)
    merge_adapters(model)
    assert not has_adapters(model)
    torch.testing.assert_close(said(model, **inputs), adapted, atol=1e-5, rtol=1e-5)


def test_models_that_are_spread_over_processes_are_not_adapted():
    args = SimpleNamespace(do_train=True, fsdp=[], deepspeed=None, model_parallel_size=2)
    with pytest.raises(ArgumentError, match="--lora must stand without --model_parallel_size"):
        check_flags("r=2", "model", args)
    args.model_parallel_size, args.do_train = 1, False
    with pytest.raises(ArgumentError, match="a folder of adapters where nothing is trained"):
        check_flags("r=2", "model", args)


def test_without_peft_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ArgumentError, match="--lora needs the package peft"):
        add_adapters(make("GAUAlpha", "ForMaskedLM"), "r=2")


@pytest.mark.parametrize(
    ("script", "changes", "wrong"),
    [
        ("mlm", {}, "add --model_name_or_path"),
        ("glue", {"fgm_eps": 1}, "stand without --fgm_eps"),
        ("glue", {"random_init": True}, "stand without --random_init"),
    ],
)
def test_flags_that_it_cannot_go_with(small_runs, tmp_path, script, changes, wrong):
    with pytest.raises(ArgumentError, match=f"--lora.*{wrong}"):
        small_runs.run(script, tmp_path / "run", lora="r=2", **changes)
    assert not (tmp_path / "run").exists()
