"""Files that are whole or absent, and folders that are known to be damaged."""

import pytest

from training.files import CHECKSUMS, broken_seal, read_json, seal, why_not_written, write_whole


def test_a_folder_tells_what_has_become_of_its_files(tmp_path):
    for name in ("weights", "part/state"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 1000)
    seal(tmp_path)
    assert broken_seal(tmp_path) is None
    whole = (tmp_path / "weights").read_bytes()
    (tmp_path / "weights").write_bytes(whole[:-1])
    assert "has a damaged weights (6,999 bytes of 7,000)" in broken_seal(tmp_path)
    (tmp_path / "weights").write_bytes(b"x" + whole[1:])
    assert "has a damaged weights (its bytes" in broken_seal(tmp_path)
    (tmp_path / "weights").unlink()
    assert "lacks weights" in broken_seal(tmp_path)
    (tmp_path / CHECKSUMS).write_text("{}")
    assert CHECKSUMS in broken_seal(tmp_path)


def test_a_small_file_is_replaced_whole(tmp_path):
    write_whole(tmp_path / "a.json", '{"name": "\udc80"}')  # a name that is no UTF-8
    assert read_json(tmp_path / "a.json", "name") == {"name": "\udc80"} and len(list(tmp_path.iterdir())) == 1
    for text in ("[]", '{"other": 1}', "[" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError):
            read_json(tmp_path / "a.json", "name")


def test_why_a_folder_takes_no_file(tmp_path):
    assert why_not_written(tmp_path) is None
    assert "No such file" in why_not_written(tmp_path / "absent")
