import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import ArgumentError
from training.folder_lock import locked, machine
from training.sweep import live_table
from training.sweep.claims import Claims
from training.sweep.grid import plan_jobs
from training.sweep.queue import describe, find_devices, run_jobs

ROOT = Path(__file__).resolve().parents[3]

# A job that takes its settings' word for how it goes. `alone` shows whether two ever work in one folder.
CHILD = """
import fcntl, json, os, random, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[sys.argv.index("--job") + 1])
alone = open(folder / "alone", "w")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    (folder / "conflict").touch()
job = json.loads((folder / "job.json").read_text())
settings = job["settings"]
with open(folder / "starts", "a") as file:
    file.write(f"{os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']} {time.monotonic()}\\n")
attempt = (folder / "starts").read_text().count("\\n")
signal.signal(signal.SIGTERM, lambda *_: ((folder / "terminated").touch(), sys.exit(3)))
print("settings", settings, flush=True)
if settings.get("fail") == job["task"]:
    print("boom: the reason", flush=True)
    sys.exit(5)
if settings.get("killed") == job["task"] and attempt == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if job["init_from"]:
    assert (Path(job["init_from"]) / "result.json").is_file()
walk, value = random.Random(job["seed"]), 50.0
with open(folder / "train_log.jsonl", "w") as log:
    for step in range(1, 4):
        value += walk.random()
        time.sleep(settings.get("seconds", 0.0) / 3)
        log.write(json.dumps({"step": step, "max_steps": 3, "primary": value}) + "\\n")
        log.flush()
(folder / "incomplete-result.json").write_text(json.dumps({"value": value}))
os.replace(folder / "incomplete-result.json", folder / "result.json")
(folder / "end").write_text(str(time.monotonic()))
"""

PARENT = """
import json, sys
from training.sweep.grid import plan_jobs
from training.sweep.queue import describe, run_jobs

plan = json.loads(sys.argv[1])
jobs = plan_jobs(plan["tasks"], plan["settings"], {}, plan["seeds"], plan["out"])
failed = run_jobs(jobs, [sys.executable, plan["child"]], ["cpu"], plan["slots"])
sys.exit(describe(failed) if failed else 0)
"""


@pytest.fixture
def child(tmp_path):
    path = tmp_path / "child.py"
    path.write_text(CHILD)
    return str(path)


@pytest.fixture
def run(child):
    def run(jobs, devices=("cpu",), jobs_per_device=4, **options):
        stream = io.StringIO()
        failed = run_jobs(jobs, [sys.executable, child], devices, jobs_per_device, stream=stream, **options)
        return failed, stream.getvalue()

    return run


@pytest.fixture
def parent(tmp_path, child):
    """Start a sweep as a process of its own; it is gone when the test is."""
    started = []

    def start(tasks=("a", "b", "c", "d"), seeds=(1, 2), slots=2, **settings):
        plan = {"tasks": tasks, "settings": settings, "seeds": seeds, "out": str(tmp_path / "out")}
        plan |= {"child": child, "slots": slots}
        command = [sys.executable, "-c", PARENT, json.dumps(plan)]
        started.append(
            subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def values(out):
    return {str(p.parent.relative_to(out)): json.loads(p.read_text())["value"] for p in out.glob("*/*/*/result.json")}


def starts(out):
    return {str(p.parent.relative_to(out)): len(p.read_text().splitlines()) for p in out.glob("*/*/*/starts")}


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def ended(pid):
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_jobs_share_the_devices_and_leave_only_what_they_made(tmp_path, run):
    jobs = plan_jobs(["a", "b", "c"], {"seconds": 0.2}, {"lr": [1, 2]}, [1], tmp_path / "out")
    failed, lines = run(jobs, devices=["0", "7"], jobs_per_device=1)
    assert failed == []
    spans, devices = [], []
    for job in jobs:
        assert not list(job.folder.glob("claim-*")) and not list(job.folder.glob("incomplete-*"))
        assert "settings" in (job.folder / "console.log").read_text()
        _, device, start = (job.folder / "starts").read_text().split()
        spans.append((device, float(start), float((job.folder / "end").read_text())))
        devices.append(device)
    assert set(devices) == {"0", "7"}
    for i, (device, start, end) in enumerate(spans):
        for other_device, other_start, other_end in spans[:i]:
            assert device != other_device or end <= other_start or other_end <= start, "one job a device"
    assert "a lr=1 seed 1: running on 0" in lines
    assert "(6 of 6)" in lines


def test_finished_jobs_are_not_run_again(tmp_path, run):
    jobs = plan_jobs(["a", "b"], {}, {}, [1, 2], tmp_path)
    run(jobs)
    before = values(tmp_path)
    dead = {"machine": machine(), "processes": [[os.getpid(), "another process of that number"]]}
    (jobs[1].folder / "claim-0").write_text(json.dumps(dead))  # of a sweep killed between a result and its release
    jobs[0].folder.joinpath("result.json").unlink()
    failed, lines = run(jobs)
    assert failed == [] and "3 of 4 jobs were finished before" in lines
    assert values(tmp_path) == before and not list(tmp_path.glob("*/*/*/claim-*"))
    assert sorted(starts(tmp_path).values()) == [1, 1, 1, 2]


def test_a_failing_job_is_reported_with_its_log_and_the_others_finish(tmp_path, run):
    jobs = plan_jobs(["bad", "good", "fine"], {"fail": "bad"}, {}, [1], tmp_path)
    failed, lines = run(jobs, max_retries=2)
    assert [failure.job.task for failure in failed] == ["bad"]
    assert len(values(tmp_path)) == 2
    report = describe(failed)
    assert "1 jobs failed:" in report and "exit code 5" in report and "boom: the reason" in report
    assert str(jobs[0].folder / "console.log") in report
    assert starts(tmp_path)[str(jobs[0].folder.relative_to(tmp_path))] == 3, "two retries"
    assert lines.count("trying again") == 2
    assert run(jobs, max_retries=0)[0] and starts(tmp_path)[str(jobs[0].folder.relative_to(tmp_path))] == 4


def test_a_sweep_that_failed_ends_with_a_nonzero_code(parent):
    process = parent(tasks=["bad", "good"], seeds=[1], fail="bad")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "boom: the reason" in errors[errors.index("1 jobs failed") :]


def test_a_job_without_a_result_has_failed(tmp_path):
    jobs = plan_jobs(["a"], {}, {}, [1], tmp_path)
    failed = run_jobs(jobs, [sys.executable, "-c", "print('done')"], ["cpu"], 1, 0, io.StringIO())
    assert failed[0].reason == "ended without result.json" and "done" in failed[0].tail


def test_a_killed_child_is_tried_again_with_the_same_result(tmp_path, run):
    jobs = plan_jobs(["a"], {"killed": "a"}, {}, [1], tmp_path / "killed")
    failed, lines = run(jobs)
    assert failed == [] and "killed by SIGKILL; trying again" in lines
    run(plan_jobs(["a"], {}, {}, [1], tmp_path / "undisturbed"))
    assert [*values(tmp_path / "killed").values()] == [*values(tmp_path / "undisturbed").values()]
    failed, _ = run(plan_jobs(["a"], {"killed": "a"}, {}, [2], tmp_path / "killed"), max_retries=0)
    assert failed[0].reason == "killed by SIGKILL"


def test_jobs_wait_for_those_they_start_from(tmp_path, run):
    jobs = plan_jobs(["rte", "mnli"], {"seconds": 0.2}, {}, [1, 2], tmp_path, {"rte": "mnli"})
    assert run(jobs)[0] == []
    assert len(values(tmp_path)) == 4


def test_jobs_that_start_from_a_failed_one_are_reported_and_never_begun(tmp_path, run):
    jobs = plan_jobs(["rte", "mnli", "cola"], {"fail": "mnli"}, {}, [1], tmp_path, {"rte": "mnli"})
    failed, lines = run(jobs, max_retries=0)
    assert [failure.job.task for failure in failed] == ["mnli", "rte"]
    assert "not begun, because" in failed[1].reason and "rte" in lines and "blocked" in lines
    assert len(starts(tmp_path)) == 2


def test_a_killed_sweep_goes_on_to_the_same_results(tmp_path, parent, run):
    """kill -9 of the parent in the middle: its children end with it, finished jobs are not run again."""
    out = tmp_path / "out"
    first = parent(seconds=0.6)
    wait_for(lambda: len(values(out)) >= 2 and len(starts(out)) > len(values(out)))
    first.kill()
    first.wait()
    pids = [int(p.read_text().split()[0]) for p in out.glob("*/*/*/starts")]
    wait_for(lambda: all(map(ended, pids)))
    done = values(out)
    assert len(done) < 8
    second = parent(seconds=0.6)
    _, errors = second.communicate(timeout=100)
    assert second.returncode == 0, errors
    assert not list(out.glob("*/*/*/conflict"))
    counts = starts(out)
    assert all(counts[name] == 1 for name in done), "finished jobs are not run again"
    assert 1 <= sum(count == 2 for count in counts.values()) <= 2, "those that ran when it was killed are"
    run(plan_jobs("abcd", {"seconds": 0.0}, {}, [1, 2], tmp_path / "undisturbed"))
    assert sorted(values(out).values()) == sorted(values(tmp_path / "undisturbed").values())


def test_two_sweeps_on_one_folder_share_the_jobs(tmp_path, parent):
    out = tmp_path / "out"
    both = [parent(tasks=list("abcdef"), seconds=0.15) for _ in range(2)]
    said = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(values(out)) == 12 and set(starts(out).values()) == {1}
    assert not list(out.glob("*/*/*/conflict"))
    assert all("running on cpu" in lines for lines in said), "both had work"


def test_a_job_that_another_finishes_just_before_it_is_claimed_is_not_run(tmp_path, run, monkeypatch):
    jobs, take = plan_jobs(["a"], {}, {}, [1], tmp_path), Claims.take

    def late(claims, folder):
        (folder / "result.json").write_text('{"value": 1}')
        return take(claims, folder)

    monkeypatch.setattr(Claims, "take", late)
    assert run(jobs)[0] == []
    assert [path.name for path in jobs[0].folder.iterdir()] == ["result.json"]


def test_a_sweep_leaves_a_job_to_the_process_that_works_on_it_by_itself(tmp_path, parent):
    jobs = plan_jobs(["a"], {}, {}, [1], tmp_path / "out")
    jobs[0].folder.mkdir(parents=True)
    with locked(jobs[0].folder, "--output_dir"):
        sweep = parent(tasks=["a", "b"], seeds=[1])
        wait_for(lambda: len(values(tmp_path / "out")) == 1)
        time.sleep(1.5)  # more than a look of the sweep
        assert sweep.poll() is None and not starts(jobs[0].folder.parents[2] / "a")
    _, errors = sweep.communicate(timeout=100)
    assert sweep.returncode == 0 and len(values(tmp_path / "out")) == 2, errors
    assert f"seed 1: elsewhere on {socket.gethostname()}" in errors


def test_one_sweep_takes_over_from_another_that_is_killed(tmp_path, parent):
    out = tmp_path / "out"
    doomed = parent(seconds=1.0)
    wait_for(lambda: len(starts(out)) >= 1)
    survivor = parent(seconds=1.0)
    doomed.kill()
    doomed.wait()
    _, errors = survivor.communicate(timeout=100)
    assert survivor.returncode == 0, errors
    assert len(values(out)) == 8 and not list(out.glob("*/*/*/conflict"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_children_and_then_the_sweep(tmp_path, parent, number):
    out = tmp_path / "out"
    process = parent(seconds=30)
    wait_for(lambda: len(list(out.glob("*/*/*/train_log.jsonl"))) == 2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + number, errors
    assert "the same command goes on from here" in errors
    assert len(list(out.glob("*/*/*/terminated"))) == 2
    assert all(ended(int(p.read_text().split()[0])) for p in out.glob("*/*/*/starts"))
    assert not list(out.glob("*/*/*/failure.json")), "stopped is not failed"


def test_numbers_that_cannot_be_are_named(tmp_path):
    jobs = plan_jobs(["a"], {}, {}, [1], tmp_path)
    for arguments in (([], 1, 0), (jobs, 0, 0), (jobs, 1, -1)):
        with pytest.raises(ArgumentError, match="a sweep must have jobs, --jobs_per_gpu above 0"):
            run_jobs(arguments[0], ["true"], ["cpu"], *arguments[1:])


def test_gpus_are_counted_within_the_visible_ones(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5,7")
    assert find_devices(None) == ["2", "GPU-5", "7"]
    assert find_devices("2, 0") == ["7", "2"]
    assert find_devices(None, use_cpu=True) == ["cpu"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert find_devices("1") == ["1"]
    for gpus in ("3", "0,0", "x", ""):
        with pytest.raises(ArgumentError, match="--gpus must be distinct numbers of visible GPUs"):
            find_devices(gpus)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert find_devices(None) == ["cpu"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_table_in_place(tmp_path, child, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(live_table, "_SECONDS", 0.0)
    monkeypatch.setattr(live_table.shutil, "get_terminal_size", lambda: os.terminal_size((100, 30)))
    stream = Terminal()
    jobs = plan_jobs(["a", "bad"], {"fail": "bad", "seconds": 0.3}, {"lr": [1e-5, 2e-5]}, [1], tmp_path)
    run_jobs(jobs, [sys.executable, child], ["cpu"], 2, 0, stream)
    frames = stream.getvalue().split("\x1b[6F\x1b[J")  # head, four jobs and their sum: each drawn over the last
    assert len(frames) > 2
    last = frames[-1].splitlines()
    assert last[0].split() == ["task", "config", "seed", "state", "done", "best", "device", "elapsed"]
    assert last[-1] == "4 jobs: 2 failed, 2 finished"
    finished = next(line.split() for line in last if "finished" in line)
    assert finished[:3] == ["a", "lr=1e-05", "1"] and finished[4] == "100%" and float(finished[5]) > 50
    assert any("running" in line for frame in frames for line in frame.splitlines())
