"""scripts/finetune_glue.sh and finetune_clue.sh with a stand-in for run_glue.py that notes how it was called."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from common.flags import OVERRIDE
from tests.processes import search_path

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = """
import json, sys
from pathlib import Path
with open(Path(__file__).with_name("calls.jsonl"), "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit("cluener failed" if "cluener" in sys.argv else 0)
"""


@pytest.fixture
def finetune(tmp_path):
    """(board, folders with their files, flags) -> (exit code, output, calls as dicts of flags)."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for package in ("common", "data"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / "run_glue.py").write_text(STAND_IN)

    def run(board, folders, *flags):
        for folder, files in folders.items():
            (tmp_path / "tasks" / folder).mkdir(parents=True)
            for name in files:
                (tmp_path / "tasks" / folder / name).write_text("{}\n")
        command = ["bash", str(tmp_path / "scripts" / f"finetune_{board}.sh"), "some/model", "tasks", *flags]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PATH": search_path()}, capture_output=True, text=True
        )
        calls = tmp_path / "calls.jsonl"
        lines = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        calls = [[word for word in line if word != OVERRIDE] for line in lines]
        return done.returncode, done.stdout + done.stderr, [dict(zip(c[::2], c[1::2], strict=True)) for c in calls]

    return run


def test_clue_tasks_that_are_there_are_trained_over_their_grids(finetune, tmp_path):
    both = ["train.json", "dev.json"]
    folders = {"tnews": both, "CMRC2018": both, "cluewsc2020_public": both, "afqmc": ["dev.json"], "other": both}
    code, output, calls = finetune("clue", folders, "--seeds", "7")
    assert code == 0, output
    assert [call["--tasks"] for call in calls] == ["tnews", "cluewsc2020", "cmrc2018", "afqmc"]
    assert calls[0]["--grid"] == "learning_rate=1e-5,2e-5,3e-5,5e-5;per_device_train_batch_size=16,32,64"
    assert calls[2]["--grid"] == "learning_rate=1e-5,2e-5,3e-5;per_device_train_batch_size=24,32"
    assert {call["--seeds"] for call in calls[:3]} == {"7"}, "the caller's flags win"
    assert {call["--data_dir"] for call in calls} == {str(tmp_path / "tasks")}
    assert {call["--model_name_or_path"] for call in calls} == {"some/model"}


def test_a_task_without_training_data_is_evaluated_once_and_that_is_said(finetune):
    code, output, calls = finetune("clue", {"afqmc": ["dev.json"], "c3": ["d-dev.json"]}, "--grid", "lr=1")
    assert code == 0
    assert "evaluating only: afqmc, c3" in output
    assert [(call["--tasks"], call["--grid"], call["--seeds"]) for call in calls] == [("afqmc,c3", "", "42")]


def test_a_part_that_fails_does_not_keep_the_others_from_running(finetune):
    both = ["train.json", "dev.json"]
    code, output, calls = finetune("clue", {"cluener": both, "afqmc": ["dev.json"]})
    assert code == 1 and "cluener failed" in output
    assert [call["--tasks"] for call in calls] == ["cluener", "afqmc"]


def test_glue_takes_robertas_grid(finetune):
    both = ["train.tsv", "dev.tsv"]
    code, _, [call, evaluated] = finetune("glue", {"CoLA": both, "RTE": both, "SST-2": ["dev.tsv"]}, "--gpus", "0,1")
    assert code == 0
    assert (call["--tasks"], call["--gpus"]) == ("cola,rte", "0,1")
    assert call["--grid"] == "learning_rate=1e-5,2e-5,3e-5;per_device_train_batch_size=16,32"
    assert call["--num_train_epochs"] == "10"
    assert len(call["--seeds"].split(",")) == 5
    assert evaluated["--tasks"] == "sst2"


def test_a_folder_without_tasks_is_named(finetune):
    code, output, calls = finetune("clue", {"cola": ["train.tsv"]})
    assert code == 1 and "DATA must hold folders of clue tasks, got" in output and not calls
