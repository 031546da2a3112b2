"""Signals, disks, memory and other processes end a run with one line and a state from which it goes on."""

import errno
import fcntl
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

import run_mlm_wwm
from common.errors import Stopped, UserError
from common.script import INTERRUPTED, PREEMPTED, one_line_errors
from tests.processes import SERVER, run_together
from tests.runs import acting_in, assert_same_run, checkpoints
from tests.small_runs import SCRIPTS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP", "SIGINT"])
def test_signals_of_clusters_and_terminals_leave_a_checkpoint(flags, tmp_path, caplog, name):
    number = signal.Signals[name]

    def send():
        for process in [*multiprocessing.active_children(), multiprocessing.current_process()]:
            os.kill(process.pid, number)  # of the terminal's or the scheduler's whole group

    before = signal.getsignal(number)
    ends = pytest.raises(Stopped, match="stopped at step 7 of 12") if name == "SIGINT" else nullcontext()
    with acting_in(7, send), ends:
        run_mlm_wwm.main(flags(save_steps=5, dataloader_num_workers=1))
    assert f"stopped at step 7 of 12 ({name}); the same command goes on from here" in caplog.text
    assert checkpoints(tmp_path / "run") == [5, 7] and not (tmp_path / "run/model.safetensors").exists()
    assert signal.getsignal(number) is before
    run_mlm_wwm.main(flags(save_steps=5))
    assert (tmp_path / "run/model.safetensors").is_file()


def test_a_second_ctrl_c_ends_at_once_and_an_ignored_hangup_stays_ignored(flags, tmp_path):
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with acting_in(7, twice), pytest.raises(SystemExit) as end, one_line_errors():
        run_mlm_wwm.main(flags(save_steps=5))
    assert end.value.code == INTERRUPTED and checkpoints(tmp_path / "run") == [5]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with acting_in(3, lambda: os.kill(os.getpid(), signal.SIGHUP)):
            run_mlm_wwm.main(flags(save_steps=5))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "run/model.safetensors").is_file()


def when_logged(folder, number):
    """For run_together: send this signal to all processes once they train, as a scheduler does."""

    def send(members):
        deadline = time.monotonic() + 200
        while not (folder / "log.jsonl").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        for member in members:
            os.kill(member.pid, number)

    return send


@pytest.mark.parametrize(
    "script, signals",
    [
        ("mlm", [signal.SIGUSR1, signal.SIGTERM]),
        ("electra", [signal.SIGTERM]),
        ("clm", [signal.SIGUSR1]),
        *(pytest.param(name, [signal.SIGUSR1, signal.SIGTERM], marks=pytest.mark.slow) for name in ("electra", "clm")),
    ],
)
def test_two_processes_that_a_scheduler_signals_end_with_a_code_of_their_own_and_go_on(
    small_runs, tmp_path, script, signals
):
    name, folder = SCRIPTS[script], tmp_path / "run"
    for number in signals:
        words = small_runs.words(script, folder, 2, max_steps=100_000, save_steps=100_000)
        (folder / "log.jsonl").unlink(missing_ok=True)
        run_together(ROOT / f"{name}.py", words, tmp_path, code=PREEMPTED, meanwhile=when_logged(folder, number))
        assert f"({number.name}); the same command goes on from here" in (tmp_path / "err-0").read_text()
        assert "Traceback" not in (tmp_path / "err-1").read_text()
    steps = checkpoints(folder)
    assert len(steps) == len(signals)
    assert not [*folder.glob("model.safetensors"), *folder.glob("[dg]*/model.safetensors")]
    assert len(signals) == 1 or f"starting from {folder}/checkpoint-{steps[0]}" in (tmp_path / "err-0").read_text()


def _in_terminal(terminal: str, logs: str, words: list[str]) -> None:
    """In a new process: be run_mlm_wwm.py at this terminal."""
    os.setsid()
    os.dup2(os.open(terminal, os.O_RDWR), 0)  # it becomes the controlling one
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (1, 2):
        os.dup2(os.open(f"{logs}/{number}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    sys.argv = ["run_mlm_wwm.py", *words]
    runpy.run_path(str(Path(run_mlm_wwm.__file__)), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("end, code", [("hangup", 0), ("ctrl-c", INTERRUPTED)])
def test_a_real_run_at_a_terminal(flags, tmp_path, end, code):
    """It ends as its terminal goes away, or Ctrl-C is typed there; workers say nothing."""
    master, slave = os.openpty()
    words = flags(max_steps=100000, save_steps=100000, logging_steps=10, dataloader_num_workers=1)
    process = SERVER.Process(target=_in_terminal, args=(os.ttyname(slave), str(tmp_path), words))
    process.start()
    deadline = time.monotonic() + 100
    while not (tmp_path / "run/log.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    if end == "hangup":
        os.close(slave)
        os.close(master)
    else:
        os.write(master, b"\x03")
    process.join(60)
    errors = (tmp_path / "2").read_text()
    assert process.exitcode == code, errors
    assert "Traceback" not in errors and "the same command goes on from here" in errors
    assert len(checkpoints(tmp_path / "run")) == 1 and not (tmp_path / "run/model.safetensors").exists()


def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)


@contextmanager
def own_disk(folder, size):
    """A folder with a file system of its own, for those who may mount."""
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_a_full_disk_is_told_with_the_last_good_state(flags, tmp_path, report_to):
    disk, folder, changes = tmp_path / "disk", tmp_path / "disk/run", {"save_steps": 1, "report_to": report_to}
    with own_disk(disk, "3m"):
        with pytest.raises(UserError) as caught:
            run_mlm_wwm.main(flags(output_dir=folder, **changes))
        message, last = str(caught.value), checkpoints(folder)[-1]
        assert "No space left on device; make room" in message and "\n" not in message and last < 12
        assert f"{folder}/checkpoint-{last} is the last good state, and the same command goes on from there" in message
        assert not list(folder.glob("incomplete-*"))
        mount("-o", "remount,size=99m", disk)
        run_mlm_wwm.main(flags(output_dir=folder, **changes))
        run_mlm_wwm.main(flags(**changes))
        assert_same_run(folder, tmp_path / "run")


def test_a_disk_that_becomes_read_only_is_told_with_the_last_good_state(flags, tmp_path):
    disk, folder = tmp_path / "disk", tmp_path / "disk/run"

    def read_only():  # for names looked up from now on
        mount("--bind", disk, disk)
        mount("-o", "remount,bind,ro", disk)

    with own_disk(disk, "99m"):
        try:
            with acting_in(4, read_only), pytest.raises(UserError) as caught:
                run_mlm_wwm.main(flags(output_dir=folder))
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        assert "Read-only file system; " in str(caught.value)
        assert f"{folder}/checkpoint-2 is the last good state" in str(caught.value)
        run_mlm_wwm.main(flags(output_dir=folder))
        assert (folder / "model.safetensors").is_file()


def test_an_output_folder_removed_in_mid_run_is_not_made_anew(flags, tmp_path):
    with acting_in(3, lambda: shutil.rmtree(tmp_path / "run")), pytest.raises(UserError) as caught:
        run_mlm_wwm.main(flags(logging_steps=100))
    assert "No such file or directory; there is no checkpoint in" in str(caught.value)
    assert not (tmp_path / "run").exists()


def kill_workers():
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def fail(error):
    raise error


@pytest.mark.parametrize(
    "act, line",
    [
        (kill_workers, "a process of --dataloader_num_workers was killed"),
        (lambda: fail(MemoryError()), "too little memory; lower --per_device_train_batch_size"),
        (lambda: fail(RuntimeError("DefaultCPUAllocator: can't allocate memory")), "lower --per_device_train_batch"),
        (lambda: fail(OSError(errno.EIO, "Input/output error", "/data/x")), "/data/x: Input/output error"),
    ],
    ids=["worker", "MemoryError", "allocator", "disk"],
)
def test_what_the_machine_does_is_told_with_the_last_good_state(flags, tmp_path, act, line):
    workers = {"dataloader_num_workers": 1} if act is kill_workers else {}
    with acting_in(6, act), pytest.raises(UserError) as caught:
        run_mlm_wwm.main(flags(**workers, max_steps=40))
    last = checkpoints(tmp_path / "run")[-1]
    assert line in str(caught.value)
    assert f"checkpoint-{last} is the last good state, and the same command goes on from there" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_cut_short_in_mid_run_does_not_end_the_process(flags, tmp_path, prepared, workers):
    shutil.copytree(prepared[1], tmp_path / "corpus")
    shard = next((tmp_path / "corpus").glob("*.arrow"))
    with acting_in(3, lambda: os.truncate(shard, 8)), pytest.raises(UserError) as caught:
        run_mlm_wwm.main(flags(train_dir=tmp_path / "corpus", dataloader_num_workers=workers, max_steps=40))
    message = str(caught.value)
    assert shard.name in message and "is the last good state, and the same command goes on" in message
    assert "Traceback" not in message and "\n" not in message


def test_faults_of_the_repository_keep_their_traceback(flags):
    with acting_in(3, lambda: fail(KeyError("name"))), pytest.raises(KeyError):
        run_mlm_wwm.main(flags())
