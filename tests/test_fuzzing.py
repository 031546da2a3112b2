"""The storm itself: it must see what it promises to see."""

import json
import os
import pickle
import time

import pytest

from common.errors import UserError
from tests import fuzzing


def storm(tmp_path, read, inputs=(b"{}",)):
    return fuzzing.storm(lambda: read(tmp_path / "file"), tmp_path / "file", inputs)


def test_it_counts_what_is_taken_and_what_is_refused(tmp_path):
    def read(file):
        try:
            json.loads(file.read_bytes())
        except ValueError as error:
            raise UserError(f"{file} must be JSON") from error

    counts = storm(tmp_path, read, fuzzing.damaged_files(b'{"a": [1, 2], "b": {"c": "d"}}', 60))
    assert counts["taken"] > 20 and counts["refused"] > 10 and sum(counts.values()) == 60


def late(file):
    time.sleep(30)


def nameless(file):
    raise UserError("it is wrong")


def of_two_lines(file):
    raise UserError(f"{file}\nis wrong")


def foreign(file):
    raise KeyError(file)


def command(file):
    os.system("true")


def unpickling(file):
    pickle.loads(pickle.dumps(os.getcwd))


def greedy(file):
    bytearray(fuzzing.MEMORY + (1 << 30))


@pytest.mark.parametrize("read", [late, nameless, of_two_lines, foreign, command, unpickling, greedy])
def test_it_sees_every_broken_promise(tmp_path, monkeypatch, read):
    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)
    with pytest.raises(AssertionError, match=r"input 0 of file: b'\{\}'"):
        storm(tmp_path, read)


def test_mutations_are_a_function_of_their_seed():
    first, again, other = (list(fuzzing.damaged_files(b"a,b\n1,2\n", 20, seed)) for seed in (1, 1, 2))
    assert first == again != other
