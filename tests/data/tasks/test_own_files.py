"""A task made of the user's files: five kinds, all formats, columns named or guessed."""

import json

import datasets
import pytest

from data.scoring.metrics import score
from data.tasks.own_files import adhoc_task
from data.tasks.task import TaskError

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
    path = write(tmp_path / "a.json", rows[:3])
    with pytest.raises(
        TaskError, match=r"--text_column_name must say which .*a\.json:1 to take, .* 'a', 'b', 'c' may be"
    ):
        adhoc_task("classification", path, None, None)
    task, splits = adhoc_task("classification", path, None, None, "a,b")
    assert task.labels == ("-1", "2", "10") and (task.text_a, task.text_b) == (("a",), ("b",))
    assert [record["label"] for record in splits["train"].records] == ["10", "-1", "2"]
    task, _ = adhoc_task("classification", None, write(tmp_path / "b.json", rows), None, "c")
    assert task.text_a == ("c",) and task.text_b == ()
    test = write(tmp_path / "test.json", [{"a": "x", "b": "y"}])
    _, splits = adhoc_task("classification", path, None, test, "a,b")
    assert splits["test"].records == [{"id": 0, "text_a": "x", "text_b": "y", "label": None}]
    task, splits = adhoc_task("classification", None, None, tmp_path / "b.json", ("a", "b"))
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


@pytest.mark.parametrize(
    "answers",
    [
        '{"text": ["Rome"], "answer_start": [3]}',
        "{'text': ['Rome'], 'answer_start': [3]}",
        "{'text': array(['Rome'], dtype=object), 'answer_start': array([3], dtype=int32)}",
        "[{'text': 'Rome', 'answer_start': 3}]",
    ],
)
def test_answers_written_as_text_are_answers(answers, tmp_path):
    quoted = '"' + answers.replace('"', '""') + '"'
    (tmp_path / "a.csv").write_text(f"question,context,answers\nWhere?,In Rome.,{quoted}\n", encoding="utf-8")
    (record,) = adhoc_task("question_answering", tmp_path / "a.csv", None, None)[1]["train"].records
    assert record["answers"] == [{"text": "Rome", "start": 3}]
    (tmp_path / "a.csv").write_text("question,context,answers\nWhere?,In Rome.,Rome\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"a\.csv:2: .*must be an object or a list, got 'Rome'"):
        adhoc_task("question_answering", tmp_path / "a.csv", None, None)


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
        TaskError, match=r"--text_column_name must name .* got text, gone where .*a\.json:1 has text, other"
    ):
        adhoc_task("classification", path, None, None, "text, gone")
    with pytest.raises(TaskError, match=r"--text_column_name must name .* got none where"):
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


# What users' files are like


@pytest.fixture
def task_of(tmp_path):
    """(kind, train, validation, test, **options) -> task and splits of files of these texts; csv unless JSON lines."""

    def make(kind, *contents, name="csv", **options):
        paths = []
        for split, content in zip(("train", "dev", "test"), (*contents, None, None), strict=False):
            json_lines = content is not None and content.startswith("{")
            path = content and tmp_path / f"{split}.{'jsonl' if json_lines else name}"
            if path:
                path.write_text(content, encoding="utf-8", newline="")
            paths.append(path)
        return adhoc_task(kind, *paths, **options)

    return make


ONE = "text,label\n"
CLASSES, NUMBERS, TAGS, CHOICES = "classification", "regression", "tagging", "multiple_choice"


@pytest.mark.parametrize(
    "header, taken",
    [
        (",text,label", ["text"]),
        ("Unnamed: 0,review,sentiment", ["review"]),
        ("id,whatever,label", ["whatever"]),
        ("row_id,Text,author,Label", ["Text"]),
        ("编号,评论,标签", ["评论"]),
        ("index,sentence1,sentence2,source,label", ["sentence1", "sentence2"]),
        ("hypothesis,premise,label", ["premise", "hypothesis"]),
        ("count,words,label", ["words"]),  # numbers are no text
        ('"text",label ,label_text', ["text"]),
    ],
)
def test_columns_go_by_their_names_and_stand_in_the_task(header, taken, task_of, caplog):
    caplog.set_level("INFO")
    columns = header.split(",")
    row = lambda n: ",".join(["7" if name in ("count", "id", "") else f"{name}{n}".strip(' "') for name in columns])  # noqa: E731
    task, _ = task_of("classification", f"{header}\n{row(1)}\n{row(2)}\n")
    assert [*task.text_a, *task.text_b] == taken == task.columns["texts"]
    assert task.label[0].lower() in ("label", "sentiment", "标签") and len(task.labels) == 2
    assert not set(taken) & set(task.columns["not_read"])
    assert f"texts from {' and '.join(taken)}, labels from {task.label[0]}" in caplog.text


@pytest.mark.parametrize(
    "kind, content, message",
    [
        (CLASSES, "title,content,label\na,b,x\nc,d,y\n", r"--text_column_name must say .*'title', 'content' may be"),
        (CLASSES, "first,second,label\na,b,x\nc,d,y\n", r"--text_column_name must say .*'first', 'second' may be"),
        (CLASSES, "text,class,category\na,b,x\nc,d,y\n", r"--label_column_name must say .*'class', 'category' may"),
        (CLASSES, "id,count,label\n1,2,x\n2,3,y\n", r"--text_column_name must name one or two columns"),
        (CLASSES, "good film!,label\nbad,x\nso,y\n", r"csv:2: the line before must name the columns"),
        (CLASSES, "good film,1\nbad film,0\n", r"csv:2: must have the column label, got good film, 1"),
        (CLASSES, f"{ONE}hello, world,0\nb,1\n", r"csv:2: must have 2 fields.* got 3: \['hello', ' world', '0'"),
        (CLASSES, f'{ONE}"a\nb",0\nc\n', r"csv:4: must have 2 fields.*got 1"),
        (CLASSES, "text,label,text\na,0,b\n", r"csv:1: must name each column once, got 'text' twice"),
        (CLASSES, "text;label\na;0\n", r"csv:1: must separate its columns as \.csv files do, .*'text;label'"),
        (CLASSES, f"{ONE}a,1\nb,1\n", r"csv:2: rows to train on must have two labels in label, got 1 in all"),
        (CLASSES, f"{ONE}a,1\nb,\n", r"csv:2: rows to train on must have two labels"),
        (CLASSES, f"{ONE}a,1\nb,0\nc,\n", r"csv:4: label must be one of 0, 1, got ''"),
        (CLASSES, f"{ONE}a,1\nb,0\nc,NaN\n", r"csv:4: label must be one of 0, 1, got 'NaN'"),
        (CLASSES, f"{ONE}a,Pos\nb,pos\n", r"csv:3: labels must differ in more than case .*'pos' and 'Pos'"),
        (CLASSES, f"{ONE}a,１\nb,1\n", r"csv:3: labels must differ in more than case or width"),
        (CLASSES, ONE + "".join(f"a,{n}x\n" for n in range(50)), r"label must hold labels that recur, got 50"),
        (CLASSES, '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": ["y"]}\n', r"jsonl:1: label .*multi"),
        (CLASSES, f"{ONE}a,x\nb,\"['x', 'y']\"\n", r"csv:3: label must be one value, .*multi-label"),
        (CLASSES, '{"text": "a", "label": {"x": 1}}\n', r"jsonl:1: label must be one value"),
        (NUMBERS, f"{ONE}a,good\nb,bad\n", r"csv:2: label must be a number, got 'good'"),
        (NUMBERS, f"{ONE}a,1.5\nb,1.5\n", r"csv:2: rows to train on must differ in label, got 1.5 in all"),
        (NUMBERS, f"{ONE}a,1.5\nb,nan\n", r"csv:3: label must be a number, got 'nan'"),
        (
            TAGS,
            "tokens,tags\n\"['a', 'b']\",\"['O']\"\n\"['a']\",\"['B-X']\"\n",
            r"csv:2: must have a tag for each of 2",
        ),
        (TAGS, "tokens,tags\n\"['a', 'b'\",\"['O', 'B-X']\"\n", r"csv:2: .*a list of texts must be whole"),
        (TAGS, '{"tokens": ["a", 3], "tags": ["O", "B-X"]}', r"jsonl:1: words must be texts"),
        (TAGS, '{"tokens": ["a", "b"], "tags": ["B-X", null]}', r"jsonl:1: tags must be tags, got 'None'"),
        (TAGS, "tokens,tags\na b,O O\n", r"csv:2: rows to train on must have two labels in tags, got O"),
        (CHOICES, "question,choice0,choice1,label\nq,a,b,2\n", r"csv:2: label must be a number below 2 \(from 0"),
        (CHOICES, "question,choice0,choice1,pick\nq,1,0,1\n", r"csv:2: pick must stand for one .* choice 0 or 1"),
        (CHOICES, "question,choices,label\nq,a or b,1\n", r"csv:2: choices must be a list of texts, got 'a or b'"),
        (CHOICES, '{"question": "q", "choices": ["B", "A"], "answer": "A"}', r"jsonl:1: answer must stand for one"),
    ],
)
def test_what_would_have_to_be_guessed_stops_with_its_place(kind, content, message, task_of):
    with pytest.raises(TaskError, match=message) as caught:
        task_of(kind, content, label_column="pick" if ",pick" in content else None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "train, dev, labels",
    [
        (f"{ONE}a,0\nb,1\n", f"{ONE}a,0.0\nb, 1.0\n", ("0", "1")),
        (f"{ONE}a,0.0\nb,1.0\n", '{"text": "a", "label": 0}\n{"text": "b", "label": 1.0}', ("0", "1")),
        (f"{ONE}a,True\nb,False\n", '{"text": "a", "label": true}\n{"text": "b", "label": false}', ("false", "true")),
        (f"{ONE}a,1.50\nb,2.0\n", f"{ONE}a,1.5\nb,2\n", ("1.5", "2")),
        (f"{ONE}a, pos \nb,neg\n", f"{ONE}a,pos\u3000\nb,neg\n", ("neg", "pos")),
        (f"{ONE}a,01\nb,1\n", f"{ONE}a,01\nb,1.0\n", ("01", "1")),  # codes are no numbers
    ],
)
def test_one_value_is_one_class(train, dev, labels, task_of):
    task, splits = task_of("classification", train, dev)
    assert set(task.labels) == set(labels)
    named = [[record["label"] for record in splits[split].records] for split in ("train", "validation")]
    assert named[0] == named[1]


def test_a_label_that_training_rows_lack_is_refused_at_its_place(task_of):
    for dev, message in (("a,0\nb,2", r"dev\.csv:3: label must be one of 0, 1, got '2'"), ("a,01", "got '01'")):
        with pytest.raises(TaskError, match=message):
            task_of("classification", f"{ONE}a,0\nb,1\n", ONE + dev)
    with pytest.raises(TaskError, match=r"dev\.csv:2: tag must be one of O, B-X, I-X, got 'B-Y'"):
        task_of("tagging", "tokens,tags\na b,O B-X\n", "tokens,tags\na,B-Y\n")
    with pytest.raises(TaskError, match=r"dev\.csv:2: must have the column text, got sentence, label"):
        task_of("classification", f"{ONE}a,0\nb,1\n", "sentence,label\na,0\n")


def test_labels_of_a_finetuned_model_are_those_of_the_task(task_of):
    task, splits = task_of("classification", None, None, "text\na\nb\n", outputs=("bad", "good"))
    assert task.labels == ("bad", "good") and [record["label"] for record in splits["test"].records] == [None, None]
    task, splits = task_of("classification", None, f"{ONE}a,GOOD\n", outputs=("bad", "good"))
    assert task.labels == ("bad", "GOOD"), "case is that of the files"
    assert splits["validation"].records[0]["label"] == "GOOD", "one class of them is enough to be judged"
    with pytest.raises(TaskError, match=r"dev\.csv:2: label must be one of bad, good, got 'fair'"):
        task_of("classification", None, f"{ONE}a,fair\n", outputs=("bad", "good"))
    nameless = ("LABEL_0", "LABEL_1")
    assert task_of("classification", None, None, "text\na\n", outputs=nameless)[0].labels == nameless
    assert task_of("classification", None, f"{ONE}a,x\nb,y\n", outputs=nameless)[0].labels == ("x", "y")
    unknown = f"{ONE}a,-1\nb,?\nc,\n"
    splits = task_of("classification", f"{ONE}a,0\nb,1\n", None, unknown)[1]
    assert not splits["test"].labelled and len(splits["test"].records) == 3
    for content in ("tokens\n\"['EU', 'x']\"\n", '{"tokens": ["EU", "x"]}', "tokens,tags\nEU x,\n"):
        task, splits = task_of("tagging", None, None, content, outputs=("O", "B-X", "I-X"))
        assert task.labels == ("O", "B-X", "I-X") and task.metrics == ("f1",)
        assert splits["test"].records[0]["chars"] == ["EU", "x"] and splits["test"].records[0]["tags"] is None


@pytest.mark.parametrize(
    "tokens, tags",
    [
        ("['EU', \"it's\", 'x']", "['B-ORG', 'O', 'O']"),
        ("['EU' \"it's\"\n 'x']", "['B-ORG' 'O' 'O']"),
        ('["EU", "it\'s", "x"]', '["B-ORG", "O", "O"]'),
        ("['EU', 'it\\'s', '\\u0078',]", "B-ORG O O"),
        ("EU it's x", "['B-ORG', 'O', 'O']"),
        ("EU it's x", "B-ORG O O"),
    ],
)
def test_lists_written_as_text_are_lists(tokens, tags, task_of):
    def quoted(text):
        return '"' + text.replace('"', '""') + '"'

    task, splits = task_of("tagging", f"tokens,tags\n{quoted(tokens)},{quoted(tags)}\n")
    (record,) = splits["train"].records
    assert record["chars"] == ["EU", "it's", "x"] and record["tags"] == ["B-ORG", "O", "O"]
    assert task.labels == ("O", "B-ORG", "I-ORG")


@pytest.mark.parametrize(
    "content, choices, label",
    [
        ("question,choice0,choice1,choice2,choice3,label\n1+1,3,2,1,0,1\n", "3210", 1),
        ("question,choice0,choice1,answer\n1+1,3,2,2\n", "32", 1),
        ("question,choice0,choice1,label\n1+1,3,2,1.0\n", "32", 1),
        ("question,A,B,C,answer\n1+1,3,2,1,B\n", "321", 1),
        ("question,choices,label\n1+1,\"['3', '2']\",1\n", "32", 1),
        ('{"question": "1+1", "choices": [3, 2, 1], "label": 1}', "321", 1),
        ('{"question": "1+1", "choices": ["3", "2"], "answer": "b"}', "32", 1),
        ('{"question": "1+1", "choices": {"text": ["3", "2"], "label": ["1", "2"]}, "answerKey": "2"}', "32", 1),
    ],
)
def test_the_right_choice_is_an_index_a_letter_or_a_text(content, choices, label, task_of):
    (record,) = task_of("multiple_choice", content)[1]["train"].records
    assert record["choices"] == list(choices) and record["label"] == label


def test_a_field_may_be_as_long_as_it_likes_and_a_mark_may_stand_before_all(task_of):
    splits = task_of("classification", f"\ufeff{ONE}{'a' * 160_000},0\nb,1\n\n")[1]
    assert [len(record["text_a"]) for record in splits["train"].records] == [160_000, 1]


def test_a_data_set_stands_for_the_files(tmp_path, caplog):
    rows = datasets.Dataset.from_list([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    folder = str(tmp_path / "set")
    datasets.DatasetDict({"train": rows, "test": rows, "extra": rows}).save_to_disk(folder)
    task, splits = adhoc_task("classification", None, None, None, dataset=(folder, None))
    assert list(splits) == ["train", "test"] and task.labels == ("x", "y")
    assert "splits that are not read: extra" in caplog.text
    with pytest.raises(TaskError, match="--dataset_name must stand without --train_file"):
        adhoc_task("classification", tmp_path / "a.csv", None, None, dataset=(folder, None))
    with pytest.raises(TaskError, match=r"--dataset_name .*nowhere must be a data set, got"):
        adhoc_task("classification", None, None, None, dataset=(str(tmp_path / "nowhere"), None))
