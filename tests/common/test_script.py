"""common/: what scripts print and with which exit code they end."""

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError, describe_fault
from common.script import INTERRUPTED, one_line_errors

ROOT = Path(__file__).parents[2]


class Worse(UserError):
    exit_code = 7


class SafetensorError(Exception):
    """Named as that of safetensors."""


IN_A_WORKER = "Caught CorpusError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File"
FAULTS = [
    (UserError("--flag must be\ngiven"), "--flag must be given"),
    (UserError(f"{IN_A_WORKER}\ndata.corpus.CorpusError: shard.arrow: cut short"), "shard.arrow: cut short"),
    (OSError(errno.ENOSPC, "No space left on device", "out\nput/x"), "out put/x: No space left on device; make room"),
    (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
    (OSError("no such model on the hub\nsee there"), "no such model on the hub see there"),
    (MemoryError(), "too little memory"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "too little memory"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "No space left on device; make room"),
    (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "--dataloader_num_workers was killed"),
    (RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly"), "--dataloader_num_workers was killed"),
    (RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0"), "could not be written"),
    (RuntimeError("gloo/transport/tcp: Connection closed by peer [127.0.0.1]"), "another process of this run"),
]


@pytest.mark.parametrize("error, line", FAULTS, ids=lambda value: type(value).__name__)
def test_what_the_machine_did_is_one_line(error, line):
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise error
    assert line in end.value.code and "\n" not in end.value.code
    assert isinstance(error, UserError) or "run the same command again" in end.value.code


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("y"), RuntimeError("shapes cannot be multiplied")])
def test_faults_of_this_repository_keep_their_traceback(error):
    assert describe_fault(error) is None
    with pytest.raises(type(error)), one_line_errors():
        raise error


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), INTERRUPTED), (Worse("--so"), 7)])
def test_other_exit_codes(capsys, error, code):
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise error
    assert end.value.code == code and capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_prints_no_traceback_even_amid_the_imports():
    program = "import common.script, sys, time; print('there', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "there\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "" and process.returncode == -signal.SIGINT
