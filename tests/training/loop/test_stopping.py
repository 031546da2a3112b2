"""Signals end a run after its step, with a checkpoint from which the same command goes on."""

import fcntl
import multiprocessing
import os
import runpy
import signal
import sys
import termios
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

import run_mlm_wwm
from common.errors import Stopped
from common.script import INTERRUPTED, one_line_errors
from tests.processes import SERVER
from tests.runs import acting_in, checkpoints


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
