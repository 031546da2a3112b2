"""scripts/slurm_pretrain.sh under a played SLURM of two nodes with two tasks each: environment, codes, requeue."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from common.script import PREEMPTED
from tests.processes import search_path

RECIPE = Path(__file__).parents[1] / "scripts" / "slurm_pretrain.sh"
SRUN = """#!/usr/bin/env bash
[ "$1" = --wait=120 ] && shift
export SLURM_NTASKS=4 SLURM_NTASKS_PER_NODE=2
for task in 0 1 2 3; do
    SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "$@" & tasks+=($!)
done
worst=0
for task in "${tasks[@]}"; do wait "$task"; code=$?; [ "$code" -le "$worst" ] || worst=$code; done
exit "$worst"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in show) printf 'node7\\nnode8\\n' ;; requeue) echo "$2" >> requeued ;; esac
"""
SCRIPT = """
import json, os, pathlib, sys, time
names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
place = {name: os.environ[name] for name in names}
pathlib.Path(f"task-{place['RANK']}").write_text(json.dumps([place, sys.argv[1:]]))
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def submit(tmp_path):
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("run_stub.py", SCRIPT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "4711"}
    environment = os.environ | job | {"PATH": search_path(tmp_path)}

    def start(*words):
        return subprocess.Popen(["bash", RECIPE, *words], env=environment, stderr=subprocess.PIPE, text=True)

    return start


def tasks(folder):
    return [json.loads((folder / f"task-{rank}").read_text()) for rank in range(4)]


@pytest.mark.parametrize("code", [0, 1, 3, PREEMPTED])
def test_the_exit_code_decides_what_becomes_of_the_job(submit, tmp_path, code):
    process = submit("run_stub.py", "0", str(code), "--a", "b c")
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == code, errors
    assert (tmp_path / "requeued").is_file() == (code == PREEMPTED)
    for rank, (place, words) in enumerate(tasks(tmp_path)):
        assert words == ["0", str(code), "--a", "b c"] and place["MASTER_ADDR"] == "node7"
        numbers = [
            int(place[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
        ]
        assert numbers == [rank, rank % 2, 4, 2, 24711]
    if code == PREEMPTED:
        assert (tmp_path / "requeued").read_text() == "4711\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_recipe_waits_for_its_tasks_when_it_is_signalled_too(submit, tmp_path, number):
    process = submit("run_stub.py", "1", str(PREEMPTED))
    deadline = time.monotonic() + 30
    while not (tmp_path / "task-3").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == PREEMPTED and (tmp_path / "requeued").is_file()


def test_what_is_no_script_is_told(submit, tmp_path):
    process = submit("run_other.py", "--do_train")
    assert process.communicate(timeout=60)[1].startswith("usage: sbatch scripts/slurm_pretrain.sh SCRIPT FLAGS")
    assert process.returncode == 2 and not list(tmp_path.glob("task-*"))
