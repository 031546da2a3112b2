"""Outputs appear whole or not at all; links are followed, and nothing but our own temporary folders is removed."""

import os
import shutil

import pytest

from common.errors import UserError
from data.outputs import atomic_folder, atomic_output, clear_left, temporary_folder


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
