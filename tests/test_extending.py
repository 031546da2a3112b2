"""docs/extending.md runs as it stands: a task, a model family and an objective of one's own."""

import json
import math
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

import models
from data.scoring.metrics import METRICS
from data.tasks.records import READERS
from data.tasks.table import TASKS
from models.electra.config import ElectraOptions
from models.electra.joint_model import new_joint_model
from models.stock import check_isolation
from training.pretrained import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bert_folder, write_corpus):
    """Where the page's reader is: files of the repository, a tokenizer, a corpus and a small model."""
    folder = tmp_path_factory.mktemp("extending")
    shutil.copytree(bert_folder(), folder / "outputs/mine/tokenizer")
    write_corpus(folder / "outputs/mine/corpus", bert_folder())
    tokenizer = load_tokenizer(str(bert_folder()), "--tokenizer")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "attention_key_size": 16}
    shape |= {"initializer_range": 0.15}  # 1 / sqrt(hidden_size), about, so that it learns in a few steps
    torch.manual_seed(0)
    model = models.GAUAlphaForMaskedLM(models.GAUAlphaConfig(vocab_size=len(tokenizer), **shape))
    for saved in (model, tokenizer):
        saved.save_pretrained(folder / "outputs/mine/model")
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def run_part(folder, monkeypatch):
    """(heading) -> runs what stands below it: files are written where they say, commands run in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder / "models")])

    def run(heading):
        part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        for language, block in re.findall(r"```(python|bash)\n(.*?)```", part, flags=re.DOTALL):
            if language == "bash":
                for line in block.replace("\\\n", " ").splitlines():
                    _, script, *flags = shlex.split(line)
                    monkeypatch.setattr(sys, "argv", [script, *flags])
                    own = folder / script
                    runpy.run_path(str(own if own.exists() else ROOT / script), run_name="__main__")
            elif file := re.match(r"# ([\w/]+\.py)\n", block):
                (folder / file[1]).write_text(block, encoding="utf-8")
            else:
                exec(block, vars(models))  # the end of models/__init__.py

    return run


def test_a_task(run_part, folder):
    with mock.patch.dict(TASKS), mock.patch.dict(READERS), mock.patch.dict(METRICS["classification"]):
        run_part("A task")
    (result,) = (json.loads(file.read_text()) for file in folder.glob("outputs/headlines/**/result.json"))
    assert result["primary"] == "balanced_accuracy" and result["metrics"]["balanced_accuracy"] == 100


def test_a_model_family(run_part, folder, capsys):
    run_part("A model family")
    assert "今天" in capsys.readouterr().out
    assert {file.name for file in (folder / "outputs/plain").glob("*.py")} >= {"plain.py", "base.py", "heads.py"}
    model = models.plain.PlainForMaskedLM.from_pretrained(folder / "outputs/plain").eval()
    ids = torch.randint(6, 60, (2, 9))
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    at = model(input_ids=ids, attention_mask=torch.ones_like(ids), masked_positions=torch.tensor([[2], [5]])).logits
    torch.testing.assert_close(at[:, 0], logits[[0, 1], [2, 5]])
    check_isolation(model)
    config = models.plain.PlainConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1)
    electra = new_joint_model(config, config, ElectraOptions())
    labels = ids.masked_fill(torch.arange(9) != 2, -100)
    assert electra(ids, torch.ones_like(ids), labels, torch.full((2, 1), 2)).loss.isfinite()


def test_an_objective(run_part, folder):
    run_part("An objective")
    steps = [json.loads(line) for line in (folder / "outputs/simcse/log.jsonl").read_text().splitlines()]
    (last,) = (record for record in steps if "accuracy" in record)
    assert last["step"] == 8 and 0 < last["accuracy"] < 1
    assert last["loss"] == pytest.approx(math.log(8), rel=0.3)  # a mean over rows, of guessing one of the eight
    before, after = (
        models.GAUAlphaModel.from_pretrained(folder / "outputs" / name) for name in ("mine/model", "simcse")
    )
    assert not torch.equal(before.layers[0].gau.i_dense.weight, after.layers[0].gau.i_dense.weight)
