"""What files, memory and other processes do to a script is one line; a fault of this repository is none."""

import errno
import json

import pytest

from common.errors import ArgumentError, UserError, describe_fault, library_errors
from common.script import one_line_errors


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
    (RuntimeError("basic_ios::clear: iostream error"), "could not be written"),
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


def test_what_a_library_raises_about_a_users_file_names_it():
    told = {"kind": ArgumentError, "expected": "--x must be JSON", "advice": "correct it"}
    line = r"^--x must be JSON, got: Expecting .*; correct it$"
    with pytest.raises(ArgumentError, match=line), library_errors(**told):
        json.loads("{oops: 1")
    with pytest.raises(UserError, match=r"^--mine$"), library_errors(**told):
        raise UserError("--mine")
