"""Lines and fields of the users' files: where they end, and what a value that lost its type still means."""

import json

import pytest

from data.tasks.loading import load_task
from data.tasks.rows import choice_number, class_name, is_missing, like, listed, read_rows, written
from data.tasks.table import TASKS
from data.tasks.task import TaskError


def test_lines_end_at_line_feeds_only(tmp_path):
    text = "a\u2028b\u0085c\x0bd\x1ce\rf"
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False) * 2, newline="")
    assert [row.values["text"] for row in read_rows(tmp_path / "x.jsonl")] == [text, text]
    (tmp_path / "x.tsv").write_text(f"text\n{text}\r\n{text}\r\n", newline="")
    assert [(row.where[-1], row.values["text"]) for row in read_rows(tmp_path / "x.tsv")] == [("2", text), ("3", text)]
    (tmp_path / "x.csv").write_text(f'text\n"{text}"\r\n"{text}\n"\r\n', newline="")
    assert [row.values["text"] for row in read_rows(tmp_path / "x.csv")] == [text, f"{text}\n"]


def test_bytes_that_are_not_utf8_are_an_error_that_names_the_line(tmp_path):
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "dev.tsv").write_bytes("sentence1\tsentence2\tlabel\n是\tb\tentailment\n".encode("gbk"))
    with pytest.raises(TaskError, match=r"dev\.tsv:2: must be UTF-8"):
        load_task(TASKS["rte"], tmp_path)


def test_numbers_and_truth_are_one_class_however_they_are_written():
    assert {class_name(value) for value in (1, 1.0, "1", "1.0", " 1.00\u3000")} == {"1"}
    assert class_name(True) == class_name("TRUE") == "true" and class_name("-0.0") == "0"
    assert [class_name(code) for code in ("01", "1e3", "Pos")] == ["01", "1e3", "Pos"]
    assert like("Ｐos  itive") == like("pos itive") != like("positive")
    assert all(map(is_missing, (None, float("nan"), "", " NaN\ufeff"))) and not any(map(is_missing, (0, "0", [])))


def test_lists_and_objects_are_read_as_json_python_and_numpy_write_them():
    for text in ("['a', 'b']", '["a", "b"]', "['a' 'b']", "[\n'\\x61', 'b',]"):
        assert listed(text) == ["a", "b"]
    assert listed("[1, 2]") is None and listed("[1 2]", numbers=True) == ["1", "2"] and listed("[]") == []
    assert listed("a, b") is None and listed(("a",)) == ["a"] and listed(3) is None
    with pytest.raises(ValueError, match="a list of texts must be whole"):
        listed("['a', b]")
    assert written("{'a': array([1, 2], dtype=int32)}") == written('{"a": [1, 2]}') == {"a": [1, 2]}
    for text in ("7", "__import__('os')", "[" * 9999):
        with pytest.raises(ValueError, match="must be an object or a list"):
            written(text)


def test_a_choice_is_an_index_a_letter_or_its_text_and_never_two_of_them():
    choices = ["x", "1", "y"]
    assert [choice_number(label, choices) for label in ("0", 2.0, "c", "y")] == [0, 2, 2, 2]
    with pytest.raises(ValueError, match="which may be choice 0 or 1 "):
        choice_number(1, ["1", "x"])
    assert (choice_number(1, ["1", "x"], "index"), choice_number(1, ["1", "x"], "text")) == (1, 0)
    with pytest.raises(ValueError, match="must be a number below 3"):
        choice_number("D", choices)
