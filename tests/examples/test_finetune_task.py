"""The example of plain PyTorch and accelerate learns, and two processes give the numbers of one."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from models import GAUAlphaConfig, GAUAlphaForSequenceClassification
from tests.processes import run_together

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "finetune_task.py"
CHARACTERS = "店房菜书很真不太好棒坏差"
SIZES = {"vocab_size": 5 + len(CHARACTERS), "hidden_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("finetune_task", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(tmp_path):
    """(kind of model, output folder) -> the script's arguments; of 11 rows to evaluate on 2 have a wrong label."""
    texts = [f"{what}{how}{mark}" for what in "店房菜书" for how in ("很", "真", "不太") for mark in "好坏棒差"]
    rows = [("good" if text[-1] in "好棒" else "bad", text) for text in texts]
    validation = [*rows[1::5][:9], ("bad", "店很好"), ("good", "书太坏" * 12)]  # the last one needs two windows
    for name, records in (("train", rows[:32]), ("dev", validation)):
        lines = ["label\ttext_a", *("\t".join(row) for row in records)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def make(kind, out):
        torch.manual_seed(0)
        folder = tmp_path / kind
        if kind == "bert":
            config = BertConfig(
                **SIZES,
                num_attention_heads=2,
                intermediate_size=64,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
            BertForSequenceClassification(config).save_pretrained(folder)
        else:
            config = GAUAlphaConfig(**SIZES, intermediate_size=64, attention_key_size=16)
            GAUAlphaForSequenceClassification(config).save_pretrained(folder)
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        files = ["--train_file", tmp_path / "train.tsv", "--validation_file", tmp_path / "dev.tsv"]
        files += ["--model", folder, "--output_dir", tmp_path / out]
        return [*map(str, files), "--lr", "0.01", "--epochs", "12", "--batch_size", "8", "--max_length", "32"]

    return make


def test_it_is_one_short_file():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 80


@pytest.mark.parametrize("kind", ["bert", "gau"])
def test_it_learns_and_saves_a_model_with_its_label_names(script, arguments, tmp_path, kind, capsys):
    scores = script.main(arguments(kind, "out"))
    assert scores["accuracy"] == pytest.approx(100 * 9 / 11)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"epoch": 12, "processes": 1} | scores
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "bad", "1": "good"}
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_two_processes_give_the_metric_and_the_logits_of_one(script, arguments, tmp_path):
    few = ["--epochs", "2", "--lr", "0.001"]
    alone = script.main([*arguments("bert", "alone"), *few])
    output = run_together(SCRIPT, [*arguments("bert", "together"), *few], tmp_path)
    assert json.loads(output.splitlines()[-1]) == {"epoch": 2, "processes": 2} | alone
    input_ids = torch.arange(5, 5 + len(CHARACTERS))[None]
    logits = [
        BertForSequenceClassification.from_pretrained(tmp_path / out).eval()(input_ids).logits
        for out in ("alone", "together")
    ]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-3)
