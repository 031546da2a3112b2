"""Folders of models that are damaged: taken, or refused in one line that names flag and file; nothing is run."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM
from transformers.utils import logging

import change_mp
import convert_checkpoint
import models
from models.convert import thudm
from models.task_heads import new_task_model
from tests import fuzzing
from training.finetune import task_model
from training.finetune.arguments import JobArguments
from training.model_setup import load_model
from training.pretrained import load_config, load_tokenizer

FLAG = "--model_name_or_path"
SMALL = {"vocab_size": 192, "hidden_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 16}
MAKERS = {
    "gau_alpha": lambda: models.GAUAlphaForMaskedLM(
        models.GAUAlphaConfig(intermediate_size=16, attention_key_size=8, **SMALL)
    ),
    "flash_quad": lambda: models.FLASHQuadForMaskedLM(models.FLASHQuadConfig(s=8, **SMALL)),
    "flash": lambda: models.FLASHForMaskedLM(models.FLASHConfig(group_size=8, query_key_dim=8, **SMALL)),
    "transformer_xl": lambda: models.TransformerXLForCausalLM(
        models.TransformerXLConfig(num_attention_heads=2, eos_token_id=1, pad_token_id=1, **SMALL)
    ),
    "bert": lambda: BertForMaskedLM(BertConfig(num_attention_heads=2, intermediate_size=16, **SMALL)),
    "linear_head": lambda: new_task_model(
        models.GAUAlphaConfig(intermediate_size=16, attention_key_size=8, **SMALL),
        "classification",
        ("a", "b"),
        "linear",
    ),
}
SIZES = pytest.mark.parametrize(
    "count", [fuzzing.SHORT // 5, pytest.param(fuzzing.LONG // 5, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)


@pytest.fixture(autouse=True)
def _quiet():
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    yield
    logging.set_verbosity(level)


@pytest.fixture(scope="module")
def tokenizer(bert_folder):
    return load_tokenizer(str(bert_folder()), "--tokenizer_name")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, tokenizer):
    """(model_type) -> a folder of a small model with its tokenizer; made once, so copy it before damaging it."""
    folders = {}

    def make(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind) / "model"
            torch.manual_seed(0)
            MAKERS[kind]().save_pretrained(folders[kind])
            tokenizer.save_pretrained(folders[kind])
        return folders[kind]

    return make


@pytest.fixture
def copy_of(folder_of, tmp_path):
    return lambda kind: Path(shutil.copytree(folder_of(kind), tmp_path / kind))


TASK = SimpleNamespace(name="task", kind="classification", labels=("a", "b"), columns=None)
PLAN = SimpleNamespace(training=False, scored=True)


def read(folder, tokenizer):
    """What run_glue.py, for a head, or another training script does with a folder."""
    from models import task_heads

    if "Sequence" in (load_config(str(folder), FLAG).architectures or [""])[0]:
        settings = JobArguments(model=str(folder), do_eval=True)
        return task_model.make_task_model(TASK, settings, str(folder), PLAN, task_heads)
    config = load_config(str(folder), FLAG)
    return load_model(AutoModelForMaskedLM, config, str(folder), FLAG, tokenizer)


@SIZES
@pytest.mark.parametrize("kind", ["gau_alpha", "flash_quad", "flash", "bert", "linear_head"])
def test_a_damaged_config_is_read_or_refused_in_one_line(copy_of, tokenizer, count, kind):
    folder = copy_of(kind)
    file = folder / "config.json"
    inputs = list(fuzzing.damaged_files(file.read_bytes(), count, seed=1))
    naming = str(folder) if kind == "linear_head" else None  # its labels may be those of another task
    print(kind, fuzzing.storm(lambda: read(folder, tokenizer), file, inputs, naming=naming))


@SIZES
@pytest.mark.parametrize("kind", ["gau_alpha", "bert"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_read_or_refused_in_one_line(copy_of, tokenizer, count, kind, name):
    folder = copy_of(kind)
    if name == "pytorch_model.bin":
        torch.save(MAKERS[kind]().state_dict(), folder / name)
        (folder / "model.safetensors").unlink()
    inputs = fuzzing.damaged_files((folder / name).read_bytes(), count * 5 // 2, seed=2)
    print(kind, name, fuzzing.storm(lambda: read(folder, tokenizer), folder / name, inputs))


@SIZES
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.txt"])
def test_damaged_tokenizer_files_are_read_or_refused_in_one_line(copy_of, bert_folder, count, name):
    folder = copy_of("bert")
    if name == "vocab.txt":
        shutil.rmtree(folder)
        shutil.copytree(bert_folder(), folder)
    inputs = fuzzing.damaged_files((folder / name).read_bytes(), count * 5 // 3, seed=3)
    print(name, fuzzing.storm(lambda: load_tokenizer(str(folder), "--tokenizer_name"), folder / name, inputs))


@SIZES
@pytest.mark.parametrize("kind", ["gau_alpha", "flash_quad", "flash"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "config.json"])
def test_a_damaged_published_folder_is_converted_or_refused_in_one_line(published, tmp_path, count, kind, name):
    folder, output = published(kind), tmp_path / "output"

    def run():
        shutil.rmtree(output, ignore_errors=True)
        convert_checkpoint.main([str(folder), str(output)])

    inputs = fuzzing.damaged_files((folder / name).read_bytes(), count, seed=5)
    print(kind, name, fuzzing.storm(run, folder / name, inputs, naming=str(folder)))


@SIZES
@pytest.mark.parametrize("script", ["change_mp.py", "convert_checkpoint.py"])
@pytest.mark.parametrize("name", [thudm.SHARD.format(0), thudm.TRACKER])
def test_a_damaged_checkpoint_of_thudm_is_read_or_refused_in_one_line(xl_folder, tmp_path, count, name, script):
    folder, output = xl_folder(), tmp_path / "output"
    if name == thudm.TRACKER:
        (folder / "900").mkdir()
        (folder / thudm.SHARD.format(0)).rename(folder / "900" / thudm.SHARD.format(0))
        (folder / name).write_text("900", encoding="ascii")
        file, naming = folder / name, str(folder)
    else:
        file, naming = folder / name, name

    def run():
        shutil.rmtree(output, ignore_errors=True)
        if script == "change_mp.py":
            change_mp.main([str(folder), "1", "--output", str(output)])
        else:
            convert_checkpoint.main([str(folder), str(output), "--config", '{"eos_token_id": 63}'])

    inputs = fuzzing.damaged_files(file.read_bytes(), count * 5 // 2, seed=4)
    print(script, name, fuzzing.storm(run, file, inputs, naming=naming))
    assert {path.name for path in tmp_path.iterdir()} <= {"output"}
