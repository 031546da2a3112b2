"""Our scripts as pipelines of datatrove: the bytes of a single run for any number of tasks, on each executor."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from common.errors import ArgumentError
from data import distributed
from tests.chinese_corpora import documents
from tests.data.preparing import contents
from tests.processes import search_path

ROOT = Path(__file__).parents[2]
SCRIPT = "run_chinese_ref.py"
OTHERS = [script for script in distributed.SCRIPTS if script != SCRIPT]
CASES = [*((SCRIPT, tasks) for tasks in (1, 2, 5)), *((script, 2) for script in OTHERS)]
SLOW = [pytest.param(script, tasks, marks=pytest.mark.slow) for tasks in (1, 5) for script in OTHERS]
SBATCH = """#!/usr/bin/env bash
echo "$@" >> {folder}/submitted
job=${{@: -1}}
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$job")
for task in $(seq 0 "$array"); do
    SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=node7 bash "$job" >&2 || exit 1
done
echo Submitted batch job 4711
"""
SRUN = """#!/usr/bin/env bash
while [ "${1:0:1}" = - ]; do [ "$1" != -n ] || shift; shift; done
exec "$@"
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, bert_folder):
    """Raw text of three units of a corpus, an evaluation file, and what single runs make of them, in `whole`."""
    pytest.importorskip("datatrove", reason="datatrove is optional: pip install -r requirements-distributed.txt")
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "in.txt").write_text("\n\n".join(filter(None, documents(2500))), encoding="utf-8")
    (folder / "dev.txt").write_text(documents(3)[1], encoding="utf-8")
    tokenizer = bert_folder()
    flags = {
        "data/trans_to_json.py": [
            "--dedup",
            "--no-shuffle",
            "--exclude",
            folder / "dev.txt",
            "--input_path",
            folder / "in.txt",
        ],
        "run_chinese_ref.py": ["--tokenizer_name", tokenizer, "--input_path", folder / "whole" / "all.jsonl"],
        "data/create_data.py": ["--tokenizer_name", tokenizer, "--train_file", folder / "whole" / "all.jsonl"],
    }
    outputs = {
        "data/trans_to_json.py": ("--output_path", "all.jsonl"),
        "run_chinese_ref.py": ("--output_dir", "chinese"),
        "data/create_data.py": ("--output_dir", "stream"),
    }

    def words(script, output):
        flag, name = outputs[script]
        return [*map(str, flags[script]), flag, str(output / name)]

    for script in flags:
        command = [sys.executable, ROOT / script, *words(script, folder / "whole")]
        subprocess.run(command, check=True, capture_output=True)
    return folder / "whole", words


def run(script, words, folder, *flags, check=True, **environment):
    flags = [*flags, "--logging_dir", str(folder / "logs")]
    command = [sys.executable, ROOT / "data" / "distributed.py", script, *flags, *words]
    options = {"capture_output": True, "text": True, "env": os.environ | environment, "cwd": folder}
    done = subprocess.run(command, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


def assert_equal(folder, whole):
    made = {name: data for name, data in contents(folder).items() if not name.startswith("logs/")}
    assert made and made.items() <= contents(whole).items()
    assert not list(folder.glob("*.shares"))


@pytest.mark.parametrize(("script", "tasks"), CASES + SLOW)
def test_tasks_on_this_machine_equal_a_single_run(inputs, tmp_path, script, tasks):
    whole, words = inputs
    done = run(script, words(script, tmp_path), tmp_path, "--tasks", str(tasks))
    assert_equal(tmp_path, whole)
    assert "written to" in done.stdout and done.stdout.count("\n") == 1 + (script == "data/trans_to_json.py")
    assert f"{tasks}/{tasks} tasks completed" in done.stderr or tasks == 1


def child_of_task(folder, index, seconds=60):
    """The process that does a share, whose output goes to a file below `folder`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in Path("/proc").glob("[0-9]*/fd/1"):
            with suppress(OSError):
                target = path.readlink()
                if target.is_relative_to(folder) and target.parts[-3:] == ("share", "tasks", f"{index:05d}.out"):
                    return int(path.parts[2])
        time.sleep(0.01)
    raise AssertionError("the task did not begin")


@pytest.mark.parametrize("whom", ["script", "task"])
def test_a_killed_task_is_told_and_the_same_command_goes_on(inputs, tmp_path, whom):
    whole, words = inputs
    command = [sys.executable, ROOT / "data" / "distributed.py", SCRIPT, *words(SCRIPT, tmp_path), "--tasks", "3"]
    command += ["--logging_dir", str(tmp_path / "logs"), "--tasks_at_once", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    number = child_of_task(tmp_path, 1)
    if whom == "task":
        status = Path(f"/proc/{number}/status").read_text()
        number = int(status.split("PPid:")[1].split()[0])
    os.kill(number, signal.SIGKILL)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    line = errors.splitlines()[-1]
    told = "killed by SIGKILL, most often for want of memory" if whom == "script" else "it was killed or not run"
    assert line.startswith(f"distributed.py: task 1 of 3: {told}") and "Traceback" not in errors
    run(SCRIPT, words(SCRIPT, tmp_path), tmp_path, "--tasks", "3")
    assert_equal(tmp_path, whole)


def test_the_line_of_a_failing_task_ends_the_run(inputs, tmp_path):
    _, words = inputs
    run(SCRIPT, words(SCRIPT, tmp_path), tmp_path, "--tasks", "2")
    (tmp_path / "chinese" / "manifest.json").unlink()
    before = contents(tmp_path / "chinese")
    done = run(SCRIPT, words(SCRIPT, tmp_path), tmp_path, "--tasks", "2", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("distributed.py: task ") and "--output_dir must be new, empty or a corpus" in line
    assert contents(tmp_path / "chinese") == before


def test_jobs_of_slurm_equal_a_single_run(inputs, tmp_path):
    whole, words = inputs
    (tmp_path / "bin").mkdir()
    texts = {"sbatch": SBATCH.format(folder=tmp_path / "bin"), "srun": SRUN, "scontrol": "#!/bin/sh\necho node7\n"}
    for name, text in texts.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    flags = ["--time", "1:00:00", "--partition", "cpu", "--sbatch_args", "account=us", "--tasks", "2"]
    done = run(
        SCRIPT, words(SCRIPT, tmp_path), tmp_path, "--executor", "slurm", *flags, PATH=search_path(tmp_path / "bin")
    )
    assert done.stdout.startswith("queued: share, merge; what tasks print comes to ")
    submitted = (tmp_path / "bin" / "submitted").read_text().splitlines()
    assert "--dependency=afterok:4711" in submitted[-2]
    assert "#SBATCH --account=us" in next(tmp_path.glob("logs/*/merge/launch_script.slurm")).read_text()
    for name in texts:
        (tmp_path / "bin" / name).unlink()
    (tmp_path / "bin" / "submitted").unlink()
    assert_equal(tmp_path, whole)


@pytest.mark.slow
def test_tasks_of_ray_equal_a_single_run(inputs, tmp_path):
    pytest.importorskip("ray", reason="ray is optional: pip install -r requirements-distributed.txt")
    whole, words = inputs
    for script in distributed.SCRIPTS:
        run(script, words(script, tmp_path), tmp_path, "--executor", "ray", "--tasks", "2", "--mem_per_cpu_gb", "1")
    assert_equal(tmp_path, whole)
    flags = ["--executor", "ray", "--tasks", "3", "--mem_per_cpu_gb", "1", "--max_seq_length", "1"]
    done = run(SCRIPT, words(SCRIPT, tmp_path), tmp_path, *flags, check=False)
    assert "task 0 of 3: run_chinese_ref.py: --max_seq_length must be at least 3" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--tasks 0", "--tasks must be at least 1, got 0"),
        ("--tasks 2 --executor slurm", "--executor slurm needs --time and --partition"),
        ("--tasks 2 --shard_index 1", "--shard_index is given to the script for each task"),
        ("--tasks 2 --merge", "--merge is given to the script"),
        ("--tasks 2 --sbatch_args account", "--sbatch_args must be name=value,name=value, got 'account'"),
        ("--executor local", "the following arguments are required: --tasks"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags, message):
    with pytest.raises(ArgumentError, match=message):
        distributed.main([SCRIPT, *flags.split()])


def test_missing_datatrove_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove", None)
    with pytest.raises(ArgumentError, match=r"needs datatrove.*pip install -r requirements-distributed\.txt"):
        distributed.main([SCRIPT, "--tasks", "2"])
