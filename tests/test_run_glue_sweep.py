"""Sweeps of run_glue.py with its real jobs, each a process of its own (the queue by itself: tests/training)."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

import run_glue
from training.pretrained import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
HAN = "今天气很好我们去公园玩不错酒店房间也干净"


@pytest.fixture
def flags(bert_folder, tmp_path):
    """Flags for an invented task of two labels and a tiny BERT."""
    torch.manual_seed(0)
    folder, file = bert_folder(), tmp_path / "rows.jsonl"
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tokenizer = load_tokenizer(str(folder), "--tokenizer")
    tokenizer.save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    rows = ({"sentence": HAN[i % 9 : 9 + i % 7] + "！。"[i % 2], "label": "ab"[i % 2]} for i in range(48))
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    words = ["--kind", "classification", "--train_file", file, "--validation_file", file, "--model", folder]
    return [str(word) for word in (*words, "--batch_size", 8, "--lr", 1e-3, "--device", "cpu")]


def results(out):
    return {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/*/*/result.json")}


def test_a_failing_job_is_reported_while_the_others_finish_and_are_summed_up(flags, tmp_path):
    out = tmp_path / "out"
    sweep = ["--output_dir", str(out), "--epochs", "1", "--max_retries", "0", "--jobs_per_gpu", "2"]
    with pytest.raises(SystemExit) as end:
        run_glue.main([*flags, *sweep, "--grid", "class_weights=balanced,1"])
    assert "1 jobs failed" in str(end.value) and "exit code 1" in str(end.value)
    assert "--class_weights must be 2 numbers with commas between, got 1" in str(end.value), "the end of its log"
    [result] = results(out).values()
    assert result["settings"]["class_weights"] == "balanced"
    [row] = json.loads((out / "summary.json").read_text())["configurations"]
    assert row["mean"] == result["metrics"]["accuracy"] and row["label"] == ""
    for ending in ("csv", "md", "tex"):
        assert "adhoc" in (out / f"summary.{ending}").read_text()


SWEEP = """
import json, sys
from training.sweep.grid import plan_jobs
from training.sweep.queue import run_jobs

settings, out = json.loads(sys.argv[1]), sys.argv[2]
run_jobs(plan_jobs(["adhoc"], settings, {}, [1], out), [sys.executable, "run_glue.py"], ["cpu"])
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_sweep_killed_while_it_trains_ends_with_the_same_metrics(flags, tmp_path):
    """kill -9 of the sweep between two checkpoints of a job; its child ends with it, and goes on from the first."""
    settings = {flag.removeprefix("--"): value for flag, value in zip(flags[:-2:2], flags[1:-2:2], strict=True)}
    settings |= {"batch_size": 8, "lr": 1e-3, "epochs": 30.0, "save_steps": 30}
    outs = {name: tmp_path / name for name in ("killed", "undisturbed")}
    commands = {name: [sys.executable, "-c", SWEEP, json.dumps(settings), str(out)] for name, out in outs.items()}
    first = subprocess.Popen(commands["killed"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 400
        while not (checkpoints := list(outs["killed"].glob("*/*/*/checkpoint-*"))):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        first.kill()
        first.wait()
    assert not results(outs["killed"]), "killed in the middle"
    for command in commands.values():
        subprocess.run(command, cwd=ROOT, check=True)
    assert "going on from" in (checkpoints[0].parent / "console.log").read_text()
    same = ("metrics", "steps", "best_step", "last")
    one, other = ({name: result[name] for name in same} for out in outs.values() for result in results(out).values())
    assert one == other
