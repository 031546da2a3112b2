"""A task made of the user's files: five kinds, all formats, columns named or guessed."""

import json

import datasets
import pytest

from data.metrics import score
from data.tasks import TaskError, adhoc_task

ROWS = [{"text": f"文本{i}", "other": f"第{i}", "label": ["差", "好"][i % 2]} for i in range(4)]


def json_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def write(path, rows):
    if path.suffix in (".tsv", ".csv"):
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("\n".join(("\t" if path.suffix == ".tsv" else ",").join(line) for line in lines), "utf-8")
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    elif not path.suffix:
        datasets.Dataset.from_list(rows).class_encode_column("label").save_to_disk(str(path))
    elif path.name == "array.json":
        path.write_text(json.dumps(rows, indent=1), "utf-8")
    elif path.name == "data.json":
        path.write_text(json.dumps({"version": 1, "data": rows}), "utf-8")
    else:
        path.write_text(json_lines(rows), "utf-8")
    return path


FORMATS = ("a.tsv", "a.csv", "a.json", "array.json", "data.json", "a.jsonl", "a.parquet", "folder")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_task_and_records(name, tmp_path):
    path = write(tmp_path / name, ROWS)
    task, splits = adhoc_task("classification", path, path, None, "text,other", "label", name="mine")
    assert (task.name == "mine" and task.labels == ("好", "差")) or task.labels == ("差", "好")
    assert list(splits) == ["train", "validation"] and splits["train"].expected is None
    assert splits["train"].records == [
        {"id": i, "text_a": row["text"], "text_b": row["other"], "label": row["label"]} for i, row in enumerate(ROWS)
    ]


def test_columns_and_labels_are_guessed_as_documented(tmp_path):
    rows = [{"idx": i, "label": label, "a": "x", "b": "y", "c": "z"} for i, label in enumerate((10, -1, 2, True))]
    task, splits = adhoc_task("classification", write(tmp_path / "a.json", rows[:3]), None, None)
    assert task.labels == ("-1", "2", "10") and (task.text_a, task.text_b) == (("a",), ("b",))
    assert [record["label"] for record in splits["train"].records] == ["10", "-1", "2"]
    task, _ = adhoc_task("classification", None, write(tmp_path / "b.json", rows), None, "c")
    assert task.text_a == ("c",) and task.text_b == ()
    test = write(tmp_path / "test.json", [{"a": "x", "b": "y"}])
    _, splits = adhoc_task("classification", tmp_path / "a.json", None, test)
    assert splits["test"].records == [{"id": 0, "text_a": "x", "text_b": "y", "label": None}]
    task, splits = adhoc_task("classification", None, None, tmp_path / "b.json")
    assert task.labels == ("-1", "10", "2", "true") and splits["test"].labelled


def test_regression(tmp_path):
    rows = [{"text": "a", "label": -1.0}, {"text": "b", "label": "2.5"}]
    path = write(tmp_path / "a.json", rows)
    task, splits = adhoc_task("regression", path, None, path)
    assert task.labels == () and task.metrics == ("pearson", "spearman")
    assert [record["label"] for record in splits["train"].records] == [-1.0, 2.5]
    assert [record["label"] for record in splits["test"].records] == [-1.0, 2.5]


@pytest.mark.parametrize(
    "row",
    [
        {"sent1": "甲", "sent2": "乙", "ending0": "一", "ending1": "二", "label": 1},
        {"context": "甲", "question": "乙", "choices": ["一", "二"], "label": 1},
        {"context": "甲", "question": "乙", "choice": ["一", "二"], "answer": "二"},
        {"id": 0, "context": "甲", "question": "乙", "option_0": "一", "option_1": "二", "label": "1"},
    ],
)
def test_multiple_choice(row, tmp_path):
    task, splits = adhoc_task("multiple_choice", write(tmp_path / "a.json", [row]), None, None)
    assert task.layout == "swag"
    assert splits["train"].records == [
        {"id": 0, "group": 0, "context": "甲", "question": "乙", "choices": ["一", "二"], "label": 1}
    ]


def test_question_answering_reads_flat_rows_and_knows_questions_without_an_answer(tmp_path):
    rows = [
        {"id": "a", "question": "Where?", "context": "In Rome.", "answers": {"text": ["Rome"], "answer_start": [3]}},
        {"id": "b", "question": "Who?", "context": "In Rome.", "answers": {"text": [], "answer_start": []}},
    ]
    path = write(tmp_path / "data.json", rows)
    task, splits = adhoc_task("question_answering", path, path, path)
    assert task.layout == "qa" and task.metrics == ("squad_em", "squad_f1")
    answers = [record["answers"] for record in splits["validation"].records]
    assert answers == [[{"text": "Rome", "start": 3}], [{"text": "", "start": -1}]]
    assert splits["validation"].labelled and not splits["test"].labelled
    named = write(tmp_path / "named.json", [{"q": "Where?", "passage": "In Rome.", "found": rows[0]["answers"]}])
    _, splits = adhoc_task("question_answering", named, None, None, "q,passage", "found")
    assert splits["train"].records[0]["answers"] == answers[0]
    rows[0]["question"] = "在哪里？"
    assert adhoc_task("question_answering", write(path, rows), None, None)[0].metrics == ("em", "f1")


def test_tagging_reads_words_characters_and_entities(tmp_path):
    words = write(tmp_path / "conll.json", [{"words": ["In", "New", "York"], "ner": ["O", "B-LOC", "I-LOC"]}])
    task, splits = adhoc_task("tagging", words, None, None)
    assert task.labels == ("O", "B-LOC", "I-LOC") and task.layout == "characters"
    assert splits["train"].records == [
        {"id": 0, "text": "In New York", "chars": ["In", "New", "York"], "tags": ["O", "B-LOC", "I-LOC"]}
    ]
    lines = write(tmp_path / "a.tsv", [{"text_a": "张 三 来", "label": "B-PER I-PER O"}])
    assert adhoc_task("tagging", lines, None, None)[1]["train"].records[0]["text"] == "张三来"
    entities = write(tmp_path / "c.json", [{"text": "张三来", "label": {"PER": {"张三": [[0, 1]]}}}])
    task, splits = adhoc_task("tagging", entities, None, None)
    assert task.labels == ("O", "B-PER", "I-PER") and splits["train"].records[0]["tags"] == ["B-PER", "I-PER", "O"]


def test_tags_that_are_no_entities_are_scored_by_accuracy(tmp_path):
    path = write(tmp_path / "pos.json", [{"words": ["New", "York"], "tags": ["JJ", "NN"]}])
    task, splits = adhoc_task("tagging", path, None, None)
    assert task.metrics == ("accuracy",)
    assert score(task, splits["train"].records, [["JJ", "O"]]) == {"accuracy": 50}


def test_what_cannot_be_used_is_an_error_that_names_the_flag(tmp_path):
    path = write(tmp_path / "a.json", ROWS)
    with pytest.raises(TaskError, match=r"--kind must be one of classification, .*, got 'ranking'"):
        adhoc_task("ranking", path, None, None)
    with pytest.raises(TaskError, match=r"--train_file, --validation_file or --test_file must be given"):
        adhoc_task("classification", None, None, None)
    with pytest.raises(
        TaskError, match=r"--text_columns must name .* got text, gone where .*a\.json:1 has text, other"
    ):
        adhoc_task("classification", path, None, None, "text, gone")
    with pytest.raises(TaskError, match=r"--text_columns must name .* got none where"):
        adhoc_task("multiple_choice", path, None, None)
    with pytest.raises(TaskError, match=r"a\.json:1: must have the column gone, got text, other, label"):
        adhoc_task("classification", path, None, None, "text", "gone")
    with pytest.raises(TaskError, match=r"b\.json must be a file, got none"):
        adhoc_task("classification", path, tmp_path / "b.json", None)
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(TaskError, match=r"--validation_file must hold rows, got none in .*empty\.csv"):
        adhoc_task("classification", path, tmp_path / "empty.csv", None)
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(TaskError, match=r"a\.xlsx must end in one of \.tsv, .*; rename or convert it"):
        adhoc_task("classification", tmp_path / "a.xlsx", None, None)
    (tmp_path / "plain").mkdir()
    with pytest.raises(TaskError, match=r"plain must be a data set that save_to_disk wrote"):
        adhoc_task("classification", tmp_path / "plain", None, None)
