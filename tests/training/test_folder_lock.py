"""training/folder_lock.py: one process at a time, told who the other is; the lock of a dead one is taken over."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import ArgumentError
from training.folder_lock import LOCK, locked
from training.folder_lock import holder as lock_holder

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from training.folder_lock import locked

with locked(Path(sys.argv[1]), "--output_dir"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path."""
    command = [sys.executable, "-c", HOLD, str(tmp_path), str(ROOT)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_told_who_holds_it_and_takes_over_from_the_dead(tmp_path, holder):
    before = (tmp_path / LOCK).read_bytes()
    wanted = rf"--output_dir must be free, got {tmp_path}, in which process {holder.pid} on {socket.gethostname()} has"
    for _ in range(2):
        with pytest.raises(ArgumentError, match=wanted), locked(tmp_path, "--output_dir"):
            pass
    assert (tmp_path / LOCK).read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [LOCK]
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path, "--output_dir"):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_child_that_outlives_its_parent_holds_nothing(tmp_path):
    """As a loader worker does for some seconds after a kill -9."""

    def hold(pipe):
        with locked(tmp_path, "--output_dir"):
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            pipe.send(child.pid)
            time.sleep(60)

    ours, theirs = multiprocessing.Pipe()
    parent = multiprocessing.get_context("fork").Process(target=hold, args=(theirs,))
    parent.start()
    orphan = ours.recv()
    try:
        with pytest.raises(ArgumentError, match=f"process {parent.pid} "), locked(tmp_path, "--output_dir"):
            pass
        parent.kill()
        parent.join()
        os.kill(orphan, 0)
        with locked(tmp_path, "--output_dir"):
            pass
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_without_locks_of_the_file_system_the_file_counts(tmp_path, holder, monkeypatch, caplog):
    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(ArgumentError, match=f"process {holder.pid} "), locked(tmp_path, "--output_dir"):
        pass
    record = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps(record | {"machine": "elsewhere", "host": "elsewhere"}))
    with locked(tmp_path, "--output_dir"):
        pass
    assert f"process {holder.pid} on elsewhere" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"pid": 3}', b"{"])
def test_what_a_dead_holder_left_half_written_is_taken_over(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with locked(tmp_path, "--output_dir"):
        pass


def test_a_holder_is_seen_without_holding_anything(tmp_path, holder):
    assert lock_holder(tmp_path) == socket.gethostname()
    holder.kill()
    holder.wait()
    assert lock_holder(tmp_path) is None and lock_holder(tmp_path / "none") is None
