"""Prompts and texts in files of every kind: the same ones, or one line that says what is wrong."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from data.text.prompts import read_documents, read_prompts

ROWS = [{"text": 'The man, he "ran".', "label": "1"}, {"text": "A dog", "label": "0"}, {"text": "", "label": "1"}]


def write(folder, kind, rows, name="some"):
    path, names = folder / f"{name}.{kind}", list(rows[0])
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        quote = (lambda value: '"' + value.replace('"', '""') + '"') if kind == "csv" else str
        lines = [names, *([quote(row[name]) for name in names] for row in rows)]
        path.write_text("".join({"csv": ",", "tsv": "\t"}[kind].join(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "parquet"])
def test_a_table_gives_the_texts_of_its_column(tmp_path, kind, capsys):
    path = write(tmp_path, kind, ROWS)
    documents = list(read_documents(path, "--train_file", None))
    assert documents == [(f"{path}: row {n + 1}", "", ROWS[n]["text"]) for n in range(2)]
    told = capsys.readouterr().err
    assert "reading 'text' of text, label (--text_column)" in told and "left out: 1 of the 3 rows" in told
    assert [text for *_, text in read_documents(path, "--train_file", None, "label")] == ["1", "0", "1"]
    with pytest.raises(UserError, match="--text_column must be one of text, label, got body"):
        list(read_documents(path, "--train_file", None, "body"))
    other = write(
        tmp_path, kind, [{"prompt": "Who?", "body": "You", "n": "3"}, {"prompt": "", "body": "I", "n": "4"}], "o"
    )
    assert [pair for _, *pair in read_documents(other, "--train_file", None, "body")] == [["Who?", "You"], ["", "I"]]
    numbers = write(tmp_path, kind, [{"n": "3", "body": "You"}], "n")
    with pytest.raises(UserError, match="got the numbers of 'n'"):
        list(read_documents(numbers, "--train_file", None))


def test_json_lines_have_the_named_key_and_texts_have_none(tmp_path):
    path = write(tmp_path, "jsonl", [{"prompt": "Who?", "body": "You"}])
    assert [pair for _, *pair in read_documents(path, "--train_file", None, "body")] == [["Who?", "You"]]
    with pytest.raises(UserError, match="key 'text', got the keys"):
        list(read_documents(path, "--train_file", None))
    text = tmp_path / "a.txt"
    text.write_text("one\n")
    with pytest.raises(UserError, match="--text_column is for JSON lines and tables"):
        list(read_documents(text, "--train_file", None, "body"))


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_prompts_come_from_files_of_every_kind(tmp_path, kind):
    path = write(tmp_path, kind, [{"n": "1", "prompt": "The man, he"}, {"n": "2", "prompt": "A dog"}])
    assert read_prompts(path, "plain") == ["The man, he", "A dog"]
    titles = write(tmp_path, kind, [{"title": "怎么做？", "desc": "快"}], "titles")
    assert read_prompts(titles, "zhidao") == ["问题：怎么做？问题描述：快回答："]
    with pytest.raises(UserError, match=r"the (column|key) 'prompt'"):
        read_prompts(titles, "plain")
