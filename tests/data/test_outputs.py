"""Outputs appear whole or not at all; links are followed, and nothing but our own temporary folders is removed."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from common.errors import UserError
from data.outputs import atomic_folder, atomic_output, clear_left, temporary_folder

ROOT = Path(__file__).parents[2]


def test_output_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "out"
    with pytest.raises(KeyboardInterrupt), atomic_output(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []
    with atomic_output(path) as partial:
        partial.write_text("whole")
        assert partial.parent.parent == path.parent  # one file system
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_only_what_a_killed_run_left_is_removed(tmp_path):
    names = (".out.partial", ".out.12345678.partial", ".out.replaced", ".out.jsonl.12345678.partial")
    for name in names:  # a user's
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    with temporary_folder(tmp_path / "out") as held:
        left = shutil.copytree(held, tmp_path / ".out.killed__.partial")  # a copy of the mark, which nobody holds
        (left / "result").touch()
        with atomic_output(tmp_path / "out") as partial:
            partial.write_text("new")
        assert held.exists() and not left.exists()
    assert (tmp_path / "out").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"out", *names}
    assert all((tmp_path / name / "thesis.txt").read_text() == "mine" for name in names)


def test_a_folder_is_replaced_whole_and_comes_back_where_its_run_was_killed_between(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "t") as folder:
            (folder / "file").write_text(text)
    assert (tmp_path / "t" / "file").read_text() == "new"
    with temporary_folder(tmp_path / "t") as folder:
        left = shutil.copytree(folder, tmp_path / ".t.killed__.partial")
    (tmp_path / "t").rename(left / "replaced")
    clear_left(tmp_path)
    assert (tmp_path / "t" / "file").read_text() == "new" and not left.exists()


KILLED_AT = """
import os, sys
sys.path.insert(0, sys.argv[2])
from data import outputs
STEPS = "open tempfile.mkdtemp os.mkdir os.rename os.remove os.rmdir shutil.rmtree fcntl.flock".split()
left = int(sys.argv[1])

def die(event, arguments):  # an audit event comes before what it is of
    global left
    if event in STEPS:
        left -= 1
        if not left:
            os.kill(os.getpid(), 9)

sys.addaudithook(die)
with outputs.atomic_folder(outputs.Path("out")) as folder:
    (folder / "file").write_text("new")
"""


@pytest.mark.parametrize("old", [False, True])
def test_a_run_killed_before_any_of_its_steps_leaves_nothing_behind_the_next(tmp_path, old):
    for call in count(1):
        place = tmp_path / str(call)
        (place / "out" if old else place).mkdir(parents=True)
        if old:
            (place / "out" / "file").write_text("old")
        code = subprocess.run([sys.executable, "-c", KILLED_AT, str(call), ROOT], cwd=place).returncode
        clear_left(place)
        assert {path.name for path in place.iterdir()} <= {"out"}
        state = (place / "out" / "file").read_text() if (place / "out").exists() else None
        assert state in ({"old", "new"} if old else {None, "new"})
        if code == 0:
            assert state == "new" and call > 8
            return
        assert code == -signal.SIGKILL


def test_runs_that_clear_beside_those_that_begin_take_nothing_from_them(tmp_path):
    def write(number):
        for round_ in range(150):
            with atomic_output(tmp_path / "out") as partial:
                partial.write_text(f"{number} {round_}")
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write, range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("write", [atomic_output, atomic_folder])
def test_a_link_is_followed_or_refused(tmp_path, write):
    place = tmp_path / "disk" / "target"
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(UserError, match="link to nowhere"), write(tmp_path / "link"):
        pass
    place.parent.mkdir()
    with write(tmp_path / "link") as partial:
        (partial / "file" if write is atomic_folder else partial).write_text("new")
    assert (tmp_path / "link").is_symlink() and place.exists()
    assert os.listdir(tmp_path / "disk") == ["target"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "must be a file"), (".", "a name of its own")):
        with pytest.raises(UserError, match=message), atomic_output(path):
            pass
    assert (tmp_path / "pipe").is_fifo()
