"""The code in a folder is brought to today's in folders of ours alone."""

import pytest

import convert_checkpoint
from common.errors import ArgumentError


def test_only_a_folder_of_ours_is_refreshed(tmp_path):
    with pytest.raises(ValueError, match=r"input .*nowhere must have a config\.json that save_pretrained"):
        convert_checkpoint.main(["--refresh_code", str(tmp_path / "nowhere")])
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "theirs.Config"}}')
    (tmp_path / "theirs.py").touch()
    with pytest.raises(ValueError, match=r"must hold code of ours, got theirs\.Config"):
        convert_checkpoint.main(["--refresh_code", str(tmp_path)])
    with pytest.raises(ArgumentError, match="must not be with --refresh_code"):
        convert_checkpoint.main(["--refresh_code", str(tmp_path), "output"])
