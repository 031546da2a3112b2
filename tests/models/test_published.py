"""Folders as their authors published them: load as they are, or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import models
from models.base import AUTO_CLASSES
from models.task_heads import new_task_model

FAMILIES = {"gau_alpha": "GAUAlpha", "flash_quad": "FLASHQuad", "flash": "FLASH"}
LAYER = {"gau_alpha": "gau_alpha.encoder.layer.1.gau.o_dense.weight", "flash_quad": "flash_quad.encoder.layer.1.w"}
LAYER |= {"flash": "flash.encoder.layers.1.norm.g"}
EVERY = pytest.mark.parametrize("name", FAMILIES)


def without(*names):
    return lambda state: {key: value for key, value in state.items() if key not in names}


def model_class(name, ending="ForMaskedLM"):
    return getattr(models, FAMILIES[name] + ending)


def autos(name):
    """The Auto classes that know the family."""
    known = {auto: hasattr(models, FAMILIES[name] + ending) for auto, ending in AUTO_CLASSES.items()}
    return [auto for auto, there in known.items() if there and auto != "AutoConfig"]


@EVERY
def test_published_folder_loads_as_it_is_tied_and_equal(published, parity, name):
    folder = published(name)
    _, state, cases = parity(name)
    model = model_class(name).from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    own = model.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    with torch.no_grad():
        logits = model(cases[0]["input_ids"], attention_mask=cases[0]["attention_mask"]).logits
    torch.testing.assert_close(logits, cases[0]["logits"], atol=1e-4, rtol=0)


@EVERY
def test_auto_classes_load_a_published_folder(published, name):
    folder = published(name)
    assert type(AutoModelForMaskedLM.from_pretrained(folder)) is model_class(name)
    base = AutoModel.from_pretrained(folder)
    assert torch.equal(
        base.get_input_embeddings().weight,
        AutoModelForMaskedLM.from_pretrained(folder).base_model.get_input_embeddings().weight,
    )
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert classifier.classifier.weight.shape == (3, 32)
    assert torch.isfinite(classifier.classifier.weight).all()


@EVERY
@pytest.mark.parametrize("ending", ["Model", "ForMaskedLM", "ForTokenClassification"])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "mis-shaped"])
def test_wrong_tensors_are_refused(published, name, ending, fault):
    layer = LAYER[name]

    def change(state):
        if fault == "missing":
            del state[layer]
        elif fault == "unexpected":
            state[layer.replace(".1.", ".2.")] = state[layer]
        else:
            state[layer] = torch.ones(3, *state[layer].shape)
        return state

    with pytest.raises((ValueError, RuntimeError)):
        model_class(name, ending).from_pretrained(published(name, change))


@EVERY
def test_a_mis_shaped_tensor_is_refused_even_when_transformers_is_told_to_ignore_it(published, name):
    folder = published(name, lambda state: state | {LAYER[name]: torch.ones(7)})
    with pytest.raises(ValueError, match=r"has shape \(7,\)"):
        model_class(name).from_pretrained(folder, ignore_mismatched_sizes=True)


@EVERY
def test_an_unknown_head_is_refused(published, name):
    folder = published(name, lambda state: state | {"pooler.weight": torch.ones(2)})
    for ending in ("Model", "ForMaskedLM"):
        with pytest.raises(ValueError, match=r"pooler\.weight is unexpected"):
            model_class(name, ending).from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "copy"),
    [(name, "cls.predictions.decoder.weight") for name in FAMILIES] + [("flash_quad", "cls.predictions.decoder.bias")],
)
def test_tied_copies_must_be_equal(published, name, copy):
    folder = published(name, lambda state: state | {copy: state[copy] + 1})
    for ending in ("ForMaskedLM", "Model", "ForSequenceClassification"):
        with pytest.raises(ValueError, match="differs from"):
            model_class(name, ending).from_pretrained(folder)


@EVERY
def test_tied_copies_may_be_absent(published, name):
    folder = published(name, without("cls.predictions.decoder.weight"))
    model = model_class(name).from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_masked_lm_head_must_be_there(published):
    folder = published("flash", without("cls.predictions.LayerNorm.weight"))
    with pytest.raises(ValueError, match=r"cls\.predictions\.LayerNorm\.weight is missing"):
        models.FLASHForMaskedLM.from_pretrained(folder)


@EVERY
def test_published_sizes(name):
    layers = {"gau_alpha": 24, "flash_quad": 12, "flash": 12}[name]
    # FLASHQuad without a, b: 12 x 2 x 128 parameters that the original never used.
    count = {"gau_alpha": 96_517_632, "flash_quad": 53_536_227 - 12 * 2 * 128, "flash": 52_936_813}[name]
    with torch.device("meta"):
        model = model_class(name)(model_class(name).config_class(num_hidden_layers=layers))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@EVERY
def test_save_and_reload_keeps_published_names(published, name, tmp_path):
    model = model_class(name).from_pretrained(published(name))
    model.save_pretrained(tmp_path / "saved")
    again = model_class(name).from_pretrained(tmp_path / "saved")
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    config = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert set(config["auto_map"]) == {"AutoConfig", *autos(name)}
    for auto in autos(name):
        getattr(transformers, auto).from_pretrained(tmp_path / "saved")


STRANGER = """
import json, sys, torch, transformers
ids = torch.tensor([[2, 5, 4, 6, 3]])
root, folders, finetuned = json.loads(sys.argv[1])
assert root not in sys.path
for folder, autos in folders.items():
    for auto in autos:
        model, info = getattr(transformers, auto).from_pretrained(
            folder, trust_remote_code=True, output_loading_info=True
        )
        assert type(model).__module__.startswith("transformers_modules"), type(model)
        assert all(key.startswith(("classifier", "qa_", "discriminator_")) for key in info["missing_keys"]), info
        shaped = ids.unsqueeze(1) if auto.endswith("MultipleChoice") else ids
        assert all(torch.isfinite(value).all() for value in model.eval()(shaped, torch.ones_like(shaped)).to_tuple())
        if auto.endswith("MaskedLM"):
            torch.save(model(ids).logits.detach(), folder + "/logits.pt")
            model.save_pretrained(folder + "/again")
    fill = transformers.pipeline("fill-mask", model=folder, trust_remote_code=True)
    assert len(fill("一丁[MASK]丂", top_k=3)) == 3
    assert len(fill.tokenizer) == 100
for folder, (task, classifier, text, expected) in finetuned.items():
    pipe = transformers.pipeline(task, folder, trust_remote_code=True)
    assert type(pipe.model).__name__ == classifier
    found = pipe(text)
    assert [entry.get("label") or entry["entity"] for entry in found] == expected, (folder, found)
"""
TASK_HEADS = [
    ("classification", "text-classification", {"pooling": "mean"}),
    ("tagging", "token-classification", {"head": "linear"}),
]


def finetune(folder, kind, task, options):
    """Saves a model with a linear head on the encoder in a folder: {its folder: how to use it, and what it says}."""
    saved, text = f"{folder}_{kind}", "一丁丂"
    model = new_task_model(AutoConfig.from_pretrained(folder), kind, ("no", "yes"), **options).eval()
    model.save_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(saved)
    logits = model(**{k: v for k, v in tokenizer(text, return_tensors="pt").items() if k != "token_type_ids"}).logits
    logits = logits[0, 1:-1] if kind == "tagging" else logits
    return {saved: (task, type(model).__name__, text, [("no", "yes")[i] for i in logits.argmax(-1).tolist()])}


def test_saved_folders_load_without_this_repository(published, tmp_path):
    expected, folders, finetuned = {}, {}, {}
    for name in FAMILIES:
        model = model_class(name).from_pretrained(published(name))
        folder = str(tmp_path / name)
        folders[folder] = autos(name)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tmp_path / f"published_{name}").save_pretrained(folder)
        expected[folder] = model(torch.tensor([[2, 5, 4, 6, 3]])).logits.detach()
        for kind, task, options in TASK_HEADS:  # under a head that is of this repository too
            finetuned |= finetune(folder, kind, task, options)
    root = str(Path(models.__file__).parents[1])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STRANGER, json.dumps([root, folders, finetuned])]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    for folder in folders:
        logits = torch.load(Path(folder) / "logits.pt", weights_only=True)
        torch.testing.assert_close(logits, expected[folder])
        assert {file.name for file in (Path(folder) / "again").glob("*.py")} >= {"base.py", "heads.py", "layers.py"}


@EVERY
def test_published_classification_reads_the_first_token(published, name):
    model = model_class(name, "ForSequenceClassification").from_pretrained(published(name)).eval()
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    with torch.no_grad():
        outputs = model(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        expected = model.classifier(outputs.hidden_states[-1][:, 0])
    torch.testing.assert_close(outputs.logits, expected)


@EVERY
def test_training_a_published_checkpoint_resumes_and_reloads(published, name, tmp_path):
    """No rename survives loading: Trainer's checkpoints hold the names that its resume looks for."""
    from transformers import Trainer, TrainingArguments

    folder = published(name)
    rows = [{"input_ids": torch.arange(2, 12) + i, "labels": torch.arange(2, 12) + i} for i in range(8)]

    def train(output, steps, resume=None):
        model = model_class(name).from_pretrained(folder)
        arguments = TrainingArguments(
            str(tmp_path / output),
            max_steps=steps,
            save_steps=2,
            per_device_train_batch_size=2,
            lr_scheduler_type="constant",
            use_cpu=True,
            disable_tqdm=True,
            seed=1,
        )
        Trainer(model=model, args=arguments, train_dataset=rows).train(resume_from_checkpoint=resume)
        return model.state_dict()

    whole = train("whole", 4)
    train("parts", 2)
    resumed = train("parts", 4, str(tmp_path / "parts" / "checkpoint-2"))
    reloaded = model_class(name).from_pretrained(tmp_path / "parts" / "checkpoint-4").state_dict()
    start = model_class(name).from_pretrained(folder).state_dict()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
        assert torch.equal(reloaded[key], value), key
        assert not torch.equal(start[key], value), key
