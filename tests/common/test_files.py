"""Files that a library keeps to their owner get the rights of other new files."""

import os

from common.files import give_usual_rights


def test_rights_are_those_that_the_process_gives_new_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).touch(0o600)
    before = os.umask(0o027)
    try:
        give_usual_rights([tmp_path / "one", tmp_path / "absent", tmp_path])
        assert os.umask(0o027) == 0o027, "the mask stays"
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("one", "two")] == [0o640, 0o600]
