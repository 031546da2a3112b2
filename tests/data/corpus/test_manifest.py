"""A manifest says what was written, in a form that is checked, and knows the checksums of the files beside it."""

import json

import pytest

from data.corpus.arrow_shards import JOURNAL, CorpusError
from data.corpus.manifest import FORMAT, MANIFEST, drop_journals, known_checksums, read_manifest, write_manifest

WHOLE = {
    "format": FORMAT,
    "complete": True,
    "inputs": [{"file": "caf\udce9.jsonl", "bytes": 7, "sha256": "0"}],  # a name that is not UTF-8
    "tokenizer": {"name": "tiny", "hash": "0", "size": 9},
    "settings": {"max_seq_length": 16},
    "shards": [{"file": "data-00000.arrow", "bytes": 5, "blocks": 2}],
}


def test_what_was_written_is_read_whatever_names_files_have(tmp_path):
    write_manifest(tmp_path, WHOLE, {"data-00000.arrow": 3})
    assert read_manifest(tmp_path, "--train_dir") == WHOLE


def test_another_manifest_than_was_written_is_refused(tmp_path):
    write_manifest(tmp_path, WHOLE)
    file = tmp_path / MANIFEST
    text = file.read_text()
    file.write_text(text.replace('"complete": true', '"complete": false'))
    assert not read_manifest(tmp_path, "")["complete"], "which no checksum is of"
    file.write_text(text.replace('"size": 9', '"size": 8'))
    with pytest.raises(CorpusError, match=f"--train_dir .*{MANIFEST} .*another one than was written"):
        read_manifest(tmp_path, "--train_dir")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"tokenizer": None}, "tokenizer is None"),
        ({"tokenizer": {"name": "tiny", "size": 9}}, "tokenizer without hash"),
        ({"tokenizer": {"name": "tiny", "hash": "0", "size": 0}}, "tokenizer.size is 0"),
        ({"inputs": [{"file": "a", "bytes": -1, "sha256": "0"}]}, r"inputs\[0\].bytes is -1"),
        ({"settings": {"max_seq_length": 1 << 25}}, "settings.max_seq_length is 33554432"),
        ({"shards": [{"file": "../data-00000.arrow", "bytes": 5}]}, r"shards\[0\].file is not data-00000.arrow"),
        ({"shards": [{"file": "data-00000.arrow", "bytes": 5, "blocks": True}]}, r"shards\[0\].blocks is True"),
    ],
)
def test_a_damaged_form_is_told_by_its_place(tmp_path, changes, fault):
    (tmp_path / MANIFEST).write_text(json.dumps(WHOLE | changes))  # as those before checksums
    with pytest.raises(CorpusError, match=f"damaged one \\({fault}\\)"):
        read_manifest(tmp_path, "--train_dir")


def test_checksums_are_those_of_manifest_and_journals(tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    write_manifest(tmp_path, WHOLE, {"data-00000.arrow": 3, "part/data-00000.arrow": 4})
    (tmp_path / JOURNAL).write_bytes(
        b"data-00000.arrow 3\ndata-00001.arrow 5\ndata-00001.arrow 6\ndata-0"
    )  # cut short
    (part / JOURNAL).write_bytes(b"data-00000.arrow 7\n")
    first, second, inner = tmp_path / "data-00000.arrow", tmp_path / "data-00001.arrow", part / "data-00000.arrow"
    assert known_checksums(tmp_path) == {first: {3}, second: {5, 6}, inner: {4, 7}}
    drop_journals(tmp_path)
    assert known_checksums(tmp_path) == {first: {3}, inner: {4}} and not [*tmp_path.rglob(JOURNAL)]
