import os

import pytest

from data.files import DataError
from data.unchanged_inputs import open_steady, stamp


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x"
    path.write_text("a line\n")
    return path


def test_a_file_that_stays_is_read(file):
    with open_steady(file, stamp(file)) as handle:
        assert handle.read() == b"a line\n"
        assert stamp(handle) == stamp(file)


def test_a_file_that_is_not_as_before_is_told_before_it_is_read(file):
    before = stamp(file)
    file.write_text("a longer line\n")
    with pytest.raises(DataError, match="x: must stay as it is while it is read, got 7 bytes and now 14"):
        open_steady(file, before).__enter__()
    os.truncate(file, 7)
    os.utime(file, ns=(0, before.modified + 1))
    with pytest.raises(DataError, match="got other content now"):
        open_steady(file, before).__enter__()


@pytest.mark.parametrize("complains", [False, True])
def test_a_change_while_it_is_read_is_told_rather_than_what_comes_of_it(file, complains):
    with pytest.raises(DataError, match="must stay as it is"), open_steady(file) as handle:
        os.truncate(file, 3)
        if complains:
            raise DataError(f"x:1: must be one JSON object, got {handle.read()!r}")


def test_a_bad_line_of_a_file_that_stays_is_told(file):
    with pytest.raises(DataError, match="x:1: must be JSON"), open_steady(file):
        raise DataError("x:1: must be JSON")
