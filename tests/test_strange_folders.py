"""Folders of models from strangers: code, paths and sizes in them are refused in one line and do nothing."""

import builtins
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, ElectraConfig

import change_mp
import convert_checkpoint
import generate_text
import models
import probe_mlm
import run_chinese_ref
from common.errors import ArgumentError, UserError
from data import create_data
from models.convert import thudm
from models.task_heads import LinearHeadConfig
from training.model_setup import check_fits, load_model, own_memory
from training.pretrained import load_config, load_tokenizer

FLAG = "--model_name_or_path"
SMALL = {"vocab_size": 192, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
BERT = BertConfig(num_attention_heads=2, **SMALL)
GAU = models.GAUAlphaConfig(attention_key_size=8, **SMALL)


@pytest.fixture(autouse=True)
def _nobody_is_asked(monkeypatch):
    """An answer from `yes |` must not be waited for."""
    monkeypatch.setattr(builtins, "input", lambda *prompt: pytest.fail(f"asked {prompt}"))


@pytest.fixture(scope="module")
def tokenizer(bert_folder):
    return load_tokenizer(str(bert_folder()), "--tokenizer_name")


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A small BERT with its tokenizer."""
    BertForMaskedLM(BERT).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def read(folder, tokenizer):
    return load_model(AutoModelForMaskedLM, load_config(str(folder), FLAG), str(folder), FLAG, tokenizer)


@pytest.fixture
def with_code(folder, tmp_path):
    """The folder with code of its own for model and tokenizer, which leaves a file `ran`."""
    (folder / "own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "from transformers import BertConfig, BertForMaskedLM, BertTokenizer\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
        "class OwnModel(BertForMaskedLM):\n    config_class = OwnConfig\n"
        "class OwnTokenizer(BertTokenizer):\n    pass\n"
    )
    places = {"AutoConfig": "own.OwnConfig", "AutoModelForMaskedLM": "own.OwnModel"}
    places |= {"AutoModelForCausalLM": "own.OwnModel"}
    change(folder / "config.json", model_type="own", auto_map=places)
    own = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=own)
    return folder


def test_code_in_a_folder_is_run_with_the_flag_alone(with_code, tmp_path, tokenizer, bert_folder):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.jsonl").write_text('{"text": "我爱你"}\n', encoding="utf-8")
    name, plain = str(with_code), ["--tokenizer_name", str(bert_folder())]
    corpus = ["--output_dir", str(tmp_path / "corpus")]
    for run in (
        lambda: load_config(name, FLAG),
        lambda: load_tokenizer(name, FLAG),
        lambda: probe_mlm.main([name, "我[MASK]你"]),
        lambda: generate_text.main([name, "--prompt", "我", "--use_cpu"]),
        lambda: generate_text.main([name, "--prompt", "我", "--use_cpu", *plain]),
        lambda: create_data.main(["--train_file", str(texts / "a.jsonl"), "--tokenizer_name", name, *corpus]),
        lambda: run_chinese_ref.main(["--input_path", str(texts), "--model_name", name, "--workers", "1", *corpus]),
    ):
        with pytest.raises(
            ArgumentError, match=r"(--\w+|MODEL) \S*model comes with code of its own.*--trust_remote_code"
        ):
            run()
    assert not (tmp_path / "ran").exists()
    probe_mlm.main([name, "我[MASK]你", "--trust_remote_code"])
    assert (tmp_path / "ran").exists()


def test_our_own_folders_load_without_the_flag_and_without_their_code(tmp_path, tokenizer, bert_folder):
    folder = tmp_path / "ours"
    models.GAUAlphaForMaskedLM(GAU).save_pretrained(folder)
    models.GAUAlphaTokenizer(str(bert_folder() / "vocab.txt")).save_pretrained(folder)
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    for file in folder.glob("*.py"):
        file.write_text("raise SystemExit('run')\n")
    assert type(read(folder, tokenizer)) is models.GAUAlphaForMaskedLM
    assert type(load_tokenizer(str(folder), FLAG)).__name__ == "GAUAlphaTokenizer"
    (tmp_path / "a.jsonl").write_text('{"text": "我爱你"}\n', encoding="utf-8")
    common = ["--input_path", str(tmp_path / "a.jsonl"), "--model_name", str(folder), "--workers", "1"]
    run = [sys.executable, "run_chinese_ref.py", *common, "--output_dir", str(tmp_path / "corpus")]
    root = Path(__file__).resolve().parents[1]  # a process of its own, which has not imported models/
    assert subprocess.run(run, cwd=root, input=b"y\n", capture_output=True).returncode == 0


def test_paths_in_files_of_a_folder_do_not_leave_it(folder, tokenizer, tmp_path, xl_folder):
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    names = [*BertForMaskedLM(BERT).state_dict()]
    for place, message in (
        ("../outside.safetensors", "'../outside.safetensors', which is not in the folder"),
        (str(tmp_path / "outside.safetensors"), "which is not in the folder"),
        ("absent.safetensors", "'absent.safetensors', which is not in the folder"),
        (["part.safetensors"], "with a weight_map from tensors to files"),
    ):
        index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, place)}))
        with pytest.raises(ArgumentError, match=rf"{FLAG} .*index.json .*{message}"):
            read(folder, tokenizer)
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}))
    read(folder, tokenizer)
    thudm_folder = xl_folder()
    (tmp_path / "up").mkdir()
    shutil.copy(thudm_folder / thudm.SHARD.format(0), tmp_path / "up")
    (thudm_folder / "inner").mkdir()
    for name in ("../../up", "..", ".", "", "/", str(tmp_path / "up"), "inner/../inner", "in\0ner", "a\nb"):
        (thudm_folder / thudm.TRACKER).write_text(name)
        before = sorted(tmp_path.rglob("*"))
        for run in (
            lambda: change_mp.main([str(thudm_folder), "1", "--output", str(tmp_path / "deep" / "er" / "output")]),
            lambda: convert_checkpoint.main([str(thudm_folder), str(tmp_path / "output")]),
        ):
            with pytest.raises(UserError, match=f"{thudm.TRACKER} must name a folder beside it"):
                run()
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "config, fields, message",
    [
        (GAU, {"num_hidden_layers": 2**64}, "num_hidden_layers"),
        (GAU, {"num_hidden_layers": 5000}, "num_hidden_layers of at most 500"),
        (GAU, {"vocab_size": 10**12}, "vocab_size of at most"),
        (GAU, {"vocab_size": 2**31 - 1}, "fits into memory|numbers in"),
        (GAU, {"hidden_size": 2**20}, "fits into memory|numbers in"),
        (GAU, {"num_hidden_layers": 0}, "num_hidden_layers must lie between 1 and 500, got 0"),
        (GAU, {"intermediate_size": -3}, "intermediate_size must lie between"),
        (GAU, {"hidden_size": "16"}, "hidden_size must be of type int, got '16'"),
        (GAU, {"num_hidden_layers": 1.5}, "num_hidden_layers must be of type int, got 1.5"),
        (GAU, {"use_bias": "false"}, "use_bias must be of type bool, got 'false'"),
        (GAU, {"hidden_dropout_prob": 2.5}, "hidden_dropout_prob must lie between 0 and 1"),
        (GAU, {"layer_norm_eps": float("nan")}, "layer_norm_eps must lie between"),
        (GAU, {"pad_token_id": 192}, "pad_token_id must lie between 0 and 191"),
        (GAU, {"num_labels": 2**64}, "num_labels of at most"),
        (BERT, {"num_labels": 2**64}, "num_labels of at most"),
        (BERT, {"num_hidden_layers": 2**64}, "num_hidden_layers of at most 500"),
        (BERT, {"num_hidden_layers": 450}, "7,.* tensors there, and .* bytes and 2. tensors in model.safetensors"),
        (BERT, {"vocab_size": 2**31 - 1}, "fits into memory|numbers in"),
        (BERT, {"num_attention_heads": 3}, "multiple of the number of attention heads"),
        (BERT, {"num_attention_heads": 0}, "config.json"),
        (BERT, {"hidden_act": "no such"}, "config.json"),
        (BERT, {"model_type": "no such"}, "config.json with a known model_type"),
        (BERT, {"model_type": ["bert"]}, "config.json with a known model_type"),
        (LinearHeadConfig(encoder=GAU), {"encoder": None}, "encoder must be a config"),
        (LinearHeadConfig(encoder=GAU), {"encoder": {"hidden_size": 3}}, "encoder must have a model_type"),
        (
            LinearHeadConfig(encoder=GAU),
            {"encoder": {"model_type": "bert", "num_layers": 2**64}},
            "encoder.num_layers",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_config_that_no_model_can_have_is_refused_at_once(folder, tokenizer, config, fields, message):
    (folder / "config.json").write_text(json.dumps(config.to_dict() | fields))
    start = time.monotonic()
    with pytest.raises(ArgumentError, match=rf"{FLAG} .*config.json.*") as caught:
        read(folder, tokenizer)
    assert re.search(message, str(caught.value)), caught.value
    assert time.monotonic() - start < 10


def test_a_new_model_larger_than_the_memory_is_refused():
    with pytest.raises(ArgumentError, match=r"--config_overrides must give a model that fits into memory"):
        check_fits(AutoModelForMaskedLM, ElectraConfig(hidden_size=2**20, embedding_size=2**20), "--config_overrides")


def test_integers_for_weights_are_refused(folder, tokenizer):
    state = {name: tensor.long() for name, tensor in BertForMaskedLM(BERT).state_dict().items()}
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ArgumentError, match=r"weights in pytorch_model\.bin, got integers in bert\.\S+"):
        read(folder, tokenizer)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_loaded_weights_have_memory_of_their_own(folder, tokenizer, name):
    if name == "pytorch_model.bin":
        torch.save(BertForMaskedLM.from_pretrained(folder).state_dict(), folder / name)
        (folder / "model.safetensors").unlink()
    expected = {key: tensor.clone() for key, tensor in BertForMaskedLM.from_pretrained(folder).state_dict().items()}
    model = read(folder, tokenizer)
    os.truncate(folder / name, 10)  # what is still mapped would now be a bus error
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    assert all(tensor.data_ptr() % 64 == 0 for tensor in (*model.parameters(), *model.buffers()))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_own_memory_keeps_what_a_tensor_is():
    model = torch.nn.Linear(6, 4).to(torch.bfloat16)
    model.weight = torch.nn.Parameter(torch.arange(25.0)[1:].view(6, 4).T, requires_grad=False)
    before = model.weight
    assert own_memory(model).weight is before and not before.requires_grad
    assert before.data_ptr() % 64 == 0 and before.stride() == (1, 4) and before[0, 1] == 5
    assert model.bias.dtype == torch.bfloat16
