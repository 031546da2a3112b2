"""Runs go on with other numbers of processes, and on machines that share no disk; losses stay the undisturbed ones."""

import json
import shutil
from pathlib import Path

import pytest

from common.errors import ArgumentError
from tests.processes import run_together
from tests.runs import as_before_checksums, assert_same_run, curve
from tests.small_runs import ROWS, SCRIPTS, SHAPES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(small_runs, tmp_path_factory):
    """(script, output folder, processes) runs it on so many processes, one of them in this one."""

    def start(script, output_dir, processes, **changes):
        if processes == 1:
            return small_runs.run(script, output_dir, **changes)
        words = small_runs.words(script, output_dir, processes, **changes)
        logs = tmp_path_factory.mktemp("logs")
        return run_together(ROOT / f"{SCRIPTS[script]}.py", words, logs, processes=processes)

    return start


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """(script, processes) -> the folder of an undisturbed run on so many."""
    folders = {}

    def get(script, processes):
        if (script, processes) not in folders:
            folders[script, processes] = tmp_path_factory.mktemp("whole") / "run"
            run(script, folders[script, processes], processes)
        return folders[script, processes]

    return get


def half_way(folder, copy):
    """What a run had left behind when it was killed after its first checkpoint."""
    shutil.copytree(folder, copy)
    for checkpoint in copy.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > 3:
            shutil.rmtree(checkpoint)
    return copy


def assert_same_losses(one, other, name="log.jsonl"):
    """To 1e-4, at every step."""
    losses = [[record["loss"] for record in curve(folder, name) if "loss" in record] for folder in (one, other)]
    assert len(losses[0]) == 8 and losses[0] == pytest.approx(losses[1], abs=1e-4)


COUNTS = [(1, 2), (2, 1), (2, 3), (3, 2), (1, 3), (3, 1)]
QUICK = {("mlm", 1, 2), ("clm", 2, 1)}


@pytest.mark.parametrize(
    "script, before, after",
    [
        pytest.param(script, *counts, marks=[] if (script, *counts) in QUICK else pytest.mark.slow)
        for script in SHAPES
        for counts in COUNTS
    ],
)
def test_a_run_goes_on_with_other_processes(whole, run, tmp_path, script, before, after):
    folder = half_way(whole(script, before), tmp_path / "run")
    run(script, folder, after)
    assert json.loads((folder / "run.json").read_text())["processes"] == after
    assert json.loads((folder / "checkpoint-8" / "progress.json").read_text())["processes"] == after
    assert_same_losses(whole(script, before), folder)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", COUNTS)
def test_a_finetuning_job_keeps_its_rows_with_other_processes(run, small_runs, tmp_path, before, after):
    """The batch size of the same command is that of one process, and shared by those that go on with the job."""
    run("glue", tmp_path / "whole", before, batch_size=ROWS // before)
    with open(tmp_path / "run_glue.py", "w") as script:
        script.write(STOPPED.format(path=str(ROOT)))
    line = small_runs.words("glue", tmp_path / "out", before, batch_size=ROWS // before)
    run_together(tmp_path / "run_glue.py", line, tmp_path, processes=before)
    (folder,) = (tmp_path / "out").glob("*/*/seed*")
    (checkpoint,) = folder.glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-5"
    run("glue", tmp_path / "out", after, batch_size=ROWS // before)
    (whole,) = (tmp_path / "whole").glob("*/*/seed*")
    assert_same_losses(whole, folder, "train_log.jsonl")
    results = [json.loads((place / "result.json").read_text()) for place in (whole, folder)]
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], abs=1e-4)


STOPPED = """
import os, signal, sys
sys.path.insert(0, {path!r})
import run_glue
from training.loop.trainer import Trainer

real, calls = Trainer.training_step, []

def step(self, *arguments, **options):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(self, *arguments, **options)

Trainer.training_step = step
try:
    run_glue.main()
except SystemExit as end:
    assert "stopped" in str(end)
"""


def test_rows_that_processes_cannot_share_are_refused(whole, run, tmp_path):
    folder = half_way(whole("mlm", 1), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ArgumentError, match=r"rows_per_step 6 \(now 5\).* x processes stay 6"):
        run("mlm", folder, 1, per_device_train_batch_size=5)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# Machines without a shared disk


@pytest.mark.parametrize("script", ["clm", *(pytest.param(s, marks=pytest.mark.slow) for s in ("mlm", "electra"))])
def test_the_first_machine_holds_all_that_two_go_on_with(small_runs, run, tmp_path, script):
    """With dropout, bit for bit; what lies on the other machine under the same names is not taken."""
    machines = [tmp_path / "first", tmp_path / "second"]
    for machine in machines:
        machine.mkdir()
    run(script, tmp_path / "whole", 2, dropout=0.1)
    half_way(tmp_path / "whole", machines[0] / "run")
    stale = machines[1] / "run" / "checkpoint-3"
    stale.mkdir(parents=True)
    (stale / "progress.json").write_text("{}")
    words = small_runs.words(script, "run", 2, dropout=0.1)
    run_together(ROOT / f"{SCRIPTS[script]}.py", words, tmp_path, machines=machines)
    assert_same_run(tmp_path / "whole", machines[0] / "run")
    for one in (tmp_path / "whole" / "checkpoint-8").rglob("*.[ps][ta]*"):  # tensors and random states of both
        other = machines[0] / "run" / "checkpoint-8" / one.relative_to(tmp_path / "whole" / "checkpoint-8")
        assert one.read_bytes() == other.read_bytes(), one
    assert sorted(path.name for path in machines[1].rglob("*")) == ["checkpoint-3", "progress.json", "run"]


@pytest.mark.slow
def test_a_finetuning_job_on_two_machines(small_runs, run, tmp_path):
    machines = [tmp_path / "first", tmp_path / "second"]
    for machine in machines:
        machine.mkdir()
    line = small_runs.words("glue", "out", 2, batch_size=ROWS // 2)
    run("glue", tmp_path / "whole", 2, batch_size=ROWS // 2)
    for _ in range(2):  # the second time it is finished
        run_together(ROOT / "run_glue.py", line, tmp_path, machines=machines)
    results = [next(place.glob("*/*/seed*")) for place in (tmp_path / "whole", machines[0] / "out")]
    for name in ("eval_preds.jsonl", "best/model.safetensors"):
        assert (results[0] / name).read_bytes() == (results[1] / name).read_bytes()


# Checkpoints of before


def test_checkpoints_without_checksums_still_go_on(whole, run, tmp_path):
    """Also one whose second random state lies on another machine, as two of them left it."""
    folder = half_way(whole("clm", 2), tmp_path / "run")
    as_before_checksums(folder / "checkpoint-3")
    (folder / "checkpoint-3" / "rng_state_1.pth").unlink()
    run("clm", folder, 1)
    assert_same_losses(whole("clm", 2), folder)
