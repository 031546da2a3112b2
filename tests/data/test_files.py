"""data/files.py: which files are read, what a line may hold, and outputs that appear whole."""

import json

import pytest

from data.files import DataError, input_files, parse_text


def test_a_folder_is_walked_in_sorted_order(tmp_path):
    for name in ("b/x.jsonl", "a.jsonl", "b-c.jsonl", "b/a/y.jsonl", "b/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in input_files(tmp_path, "--input_path")]
    assert names == ["a.jsonl", "b/a/y.jsonl", "b/x.jsonl", "b-c.jsonl"]
    assert len(input_files(tmp_path, "--input_path", suffix="")) == 5


def test_a_file_is_taken_whatever_its_name(tmp_path):
    (tmp_path / "x.txt").touch()
    assert input_files(tmp_path / "x.txt", "--input_path") == [tmp_path / "x.txt"]


def test_missing_input_names_the_flag(tmp_path):
    with pytest.raises(ValueError, match=r"--input_path must .*nowhere"):
        input_files(tmp_path / "nowhere", "--input_path")
    with pytest.raises(ValueError, match=r"--input_path must hold .*\.jsonl"):
        input_files(tmp_path, "--input_path")


def test_text_survives_unchanged():
    text = "a\u2028b\r\n\x85\U00020000 \"'\\"
    for ascii_only in (True, False):
        line = json.dumps({"x": 1, "text": text}, ensure_ascii=ascii_only).encode()
        assert parse_text(line + b"\n", "text", "f:1") == text
        assert parse_text(b"\xef\xbb\xbf" + line, "text", "f:1") == text


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "\xff"}',
        b'{"text": "x"',
        b"",
        b'{"content": "x"}',
        b'["text"]',
        b'"text"',
        b'{"text": 3}',
        b'{"text": null}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_bad_lines_are_named(line):
    with pytest.raises(DataError, match=r"^corpus\.jsonl:7: "):
        parse_text(line, "text", "corpus.jsonl:7")
