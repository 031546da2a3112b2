"""Which files and columns are read as a corpus: what is meant, and told where it is a guess."""

import gzip
import json

import datasets
import pytest

from tests.data.preparing import create, written

FOREIGN = {
    "packed by gzip": gzip.compress(b"one"),
    "a zip archive": b"PK\3\4....",
    "a PDF": b"%PDF-1.7\n",
    "a Parquet file": b"PAR1\x15\4",
    "UTF-16": "one".encode("utf-16"),
    "bytes are zero": "one two".encode("utf-16-le"),
}


def test_the_column_that_is_read_is_named(letters, tmp_path, capsys):
    file = written(tmp_path / "in.csv", ",body,title\n0,one,x\n1,,y\n")
    assert create(letters, tmp_path / "o", "--train_file", file) == ["one"]
    said = capsys.readouterr().err
    assert "reading 'body' of , body, title, a guess (--text_column)" in said
    assert "left out: 1 of the 2 rows of in.csv (no 'body')" in said


@pytest.mark.parametrize(
    "names, read, left_out",
    [
        (["books_train.txt", "wiki.txt"], ["books_train.txt"], ["wiki.txt"]),
        (["a.txt", "my_test_of_time.txt", "dev/b.txt", "sub/c.TXT"], ["a.txt", "sub/c.TXT"], ["b.txt", "_of_time"]),
        (["a.txt", "README.md", "b.txt.gz", ".hidden"], ["a.txt"], ["README.md", "b.txt.gz"]),
    ],
)
def test_what_is_not_read_of_a_folder_is_named(letters, tmp_path, capsys, names, read, left_out):
    for name in names:
        written(tmp_path / "in" / name, f"{name.lower()}\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "more")
    (tmp_path / "in/loop.txt").symlink_to("loop.txt")
    rows = create(letters, tmp_path / "o", "--dataset_name", tmp_path / "in")
    assert len(rows) == len(read)
    said = [line for line in capsys.readouterr().err.split("\n") if line.startswith("left out")]
    assert all(any(name in line for line in said) for name in [*left_out, "linked", "loop.txt"]), said
    assert not any(name in line for line in said for name in read)


def test_other_splits_of_a_saved_data_set_are_named(letters, tmp_path, capsys):
    split = datasets.Dataset.from_dict({"text": ["one"]})
    datasets.DatasetDict({"train": split, "more": split}).save_to_disk(tmp_path / "in")
    assert create(letters, tmp_path / "o", "--dataset_name", tmp_path / "in") == ["one"]
    assert f"left out: {tmp_path / 'in/more'} (another split than train)" in capsys.readouterr().err
    datasets.DatasetDict({"a": split, "b": split}).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match=r"must be a data set with a split train, got .* with a, b; name the folder"):
        create(letters, tmp_path / "o2", "--dataset_name", tmp_path / "other")


def test_one_file_is_not_read_twice_in_silence(letters, tmp_path, capsys):
    file = written(tmp_path / "in/a.txt", "one\n")
    (tmp_path / "in/b.txt").symlink_to(file)
    assert create(letters, tmp_path / "o", "--dataset_name", tmp_path / "in") == ["one", "one"]
    assert f"read twice: {tmp_path / 'in/b.txt'}, which is the same file as {file}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--train_file must name each file once"):
        create(letters, tmp_path / "o2", "--train_file", file, tmp_path / "in/b.txt")


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.jsonl"])
def test_files_of_another_kind_are_told_what_they_are(letters, tmp_path, kind, name):
    with pytest.raises(ValueError, match=f"--train_file must name files of UTF-8 text, got .*{kind}"):
        create(letters, tmp_path / "o", "--train_file", written(tmp_path / name, FOREIGN[kind]))
    assert not (tmp_path / "o").exists()


def test_json_lines_are_no_text(letters, tmp_path):
    file = written(tmp_path / "in.txt", json.dumps({"id": 1, "text": "one"}) + "\n")
    with pytest.raises(ValueError, match=r"JSON lines with the keys id, text; rename it to end in \.jsonl"):
        create(letters, tmp_path / "o", "--train_file", file)


def test_files_of_two_folders_make_one_corpus(letters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.txt", "one\n")
    other = written(tmp_path / "sub/b.txt", "two")
    assert create(letters, tmp_path / "o", "--train_file", "a.txt", other) == ["one", "two"]
