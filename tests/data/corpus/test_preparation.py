"""The same bytes for any number of workers and after a stop, and the first bad line told."""

import shutil

import pytest

from data.corpus import preparation
from data.files import DataError
from data.outputs import temporary_folder
from tests.chinese_corpora import documents, prepare, write_jsonl
from tests.data.preparing import contents


def test_any_number_of_workers_writes_the_same_bytes(vocabulary, tmp_path, small_units):
    source = write_jsonl(tmp_path / "in.jsonl", documents(100))
    for workers in ("1", "2", "3"):
        prepare(vocabulary, source, tmp_path / workers, "--reference_files", "--workers", workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def test_the_same_command_goes_on_at_the_first_missing_shard(vocabulary, tmp_path, small_units, monkeypatch):
    source = write_jsonl(tmp_path / "in.jsonl", documents(100))
    prepare(vocabulary, source, tmp_path / "out")
    whole = contents(tmp_path / "out")
    (tmp_path / "out" / "data-00002.arrow").unlink()
    with temporary_folder(tmp_path / "out" / "data-00002.arrow") as held:  # as a killed run leaves it
        left = shutil.copytree(held, tmp_path / "out" / ".data-00002.arrow.12345678.partial")
    (left / "result").write_bytes(b"half")
    done = []
    prepare_one = preparation.Preparer.__call__
    monkeypatch.setattr(preparation.Preparer, "__call__", lambda s, u: (done.append(u.number), prepare_one(s, u))[1])
    prepare(vocabulary, source, tmp_path / "out")
    assert done == [2]
    assert contents(tmp_path / "out") == whole


def test_errors_of_workers_name_the_first_bad_line(vocabulary, tmp_path, small_units):
    source = write_jsonl(tmp_path / "in.jsonl", documents(100))
    lines = source.read_bytes().split(b"\n")
    lines[60] = lines[90] = b"{"
    source.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"in\.jsonl:61: "):
        prepare(vocabulary, source, tmp_path / "out", "--workers", "2")
