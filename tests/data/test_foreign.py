import errno

import pytest

from common.errors import UserError
from data.files import DataError
from data.foreign import foreign_errors


def read(path, *errors):
    with foreign_errors(path, "Parquet", "fetch it again"):
        try:
            raise errors[0]
        except Exception as error:
            if len(errors) == 1:
                raise
            raise errors[1] from error


def test_what_a_library_raises_about_a_file_names_it_and_the_cure(tmp_path):
    with pytest.raises(DataError, match=r"x: must be Parquet, got a damaged one \(bad magic\); fetch it again"):
        read(tmp_path / "x", ValueError("bad\n magic"))
    with pytest.raises(DataError, match=r"got a damaged one \(KeyError\)"):
        read(tmp_path / "x", KeyError())


def test_our_own_errors_and_those_of_a_disk_go_on_as_they_are(tmp_path):
    with pytest.raises(UserError, match=r"^ours$"):
        read(tmp_path / "x", UserError("ours"))
    full = OSError(errno.ENOSPC, "No space left on device")
    for errors in ([full], [full, RuntimeError("an error while writing")]):  # datasets hides it behind one of its own
        with pytest.raises(OSError, match="No space left"):
            read(tmp_path / "x", *errors)
    with pytest.raises(DataError, match="damaged one"):
        read(tmp_path / "x", OSError(errno.ENOENT, "no such file inside"))
