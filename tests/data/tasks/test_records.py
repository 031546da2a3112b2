"""Rows become records: marks, blanks, answers, entities; what is left out, and what is an error."""

import json

import pytest

from data.tasks.loading import load_task
from data.tasks.table import TASKS
from data.tasks.task import TaskError


@pytest.fixture
def load(tmp_path):
    """(task, file, content) -> its split; content is text, or rows that are written as JSON lines."""

    def read(name, file, content, **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        text = (
            content if isinstance(content, str) else "\n".join(json.dumps(row, ensure_ascii=False) for row in content)
        )
        (folder / file).write_text(text, encoding="utf-8", newline="")
        (split,) = load_task(TASKS[name], tmp_path, **options).values()
        return split

    return read


def winograd(text, first, noun, second, pronoun):
    target = {"span1_text": noun, "span1_index": first, "span2_text": pronoun, "span2_index": second}
    return {"text": text, "target": target, "label": "true", "id": "7"}


@pytest.mark.parametrize(
    ("row", "marked"),
    [
        (winograd("小明把书给了小红，因为她想看。", 6, "小红", 11, "她"), "小明把书给了_小红_，因为[她]想看。"),
        (winograd("她说小红累了", 2, "小红", 0, "她"), "[她]说_小红_累了"),
        (winograd("小红她累了", 0, "小红", 2, "她"), "_小红_[她]累了"),  # what ends comes before what begins
        (winograd("她小红", 1, "小红", 0, "她"), "[她]_小红_"),
        (winograd("小红的她", 0, "小红的她", 3, "她"), "_小红的[她]_"),
    ],
)
def test_winograd_marks_stand_around_the_noun_and_the_pronoun(row, marked, load):
    (record,) = load("cluewsc2020", "dev.json", [row]).records
    assert record == {"id": "7", "text_a": marked, "text_b": None, "label": "true"}


def test_csl_joins_its_keywords_as_asked(load):
    row = {"id": 1, "abst": "本文……", "keyword": ["图像", "分割"], "label": "0"}
    assert load("csl", "dev.json", [row]).records[0]["text_a"] == "图像 分割"
    joined = load("csl", "dev.json", [row], csl_joiner="；").records[0]
    assert joined == {"id": 1, "text_a": "图像；分割", "text_b": "本文……", "label": "0"}


def dialogues(*questions):
    return json.dumps([[["男：你好。", "女：好。"], list(questions), "1-1"]], ensure_ascii=False)


def test_c3_keeps_the_choices_that_there_are_and_the_ids_of_its_test_set(load):
    rows = dialogues(
        {"question": "谁？", "choice": ["甲", "乙"], "answer": "乙"},
        {"question": "谁？", "choice": ["甲", "乙", "丙"], "answer": "甲"},
    )
    first, second = load("c3", "d-dev.json", rows).records
    asked = {"context": "男：你好。\n女：好。", "question": "谁？", "choices": ["甲", "乙"]}
    assert first == {"id": 0, "group": 0, "label": 1} | asked
    assert (second["id"], second["group"], second["label"]) == (1, 0, 0)


def test_c3_test_questions_keep_their_own_ids(load):
    questions = [{"question": "谁？", "choice": ["甲", "乙"], "id": number} for number in (508, 3298)]
    split = load("c3", "test1.0.json", dialogues(*questions))
    assert [(record["id"], record["label"]) for record in split.records] == [(508, None), (3298, None)]


def test_c3_leaves_questions_without_one_right_choice_out_of_training(load, tmp_path):
    rows = dialogues(
        {"question": "谁？", "choice": ["甲", "乙"], "answer": "丙"},
        {"question": "谁？", "choice": ["甲", "甲", "乙"], "answer": "乙"},
        {"question": "谁？", "choice": ["甲", "乙"], "answer": "甲"},
    )
    train = load("c3", "d-train.json", rows)
    assert train.skipped == {"answer is no choice": 1, "equal choices": 1}
    assert [record["id"] for record in train.records] == [2]
    (tmp_path / "c3" / "d-train.json").unlink()
    dev = load("c3", "d-dev.json", rows)
    assert dev.skipped == {"answer is no choice": 1} and [record["label"] for record in dev.records] == [2, 0]


def test_chid_makes_a_record_of_every_blank_and_keeps_its_list_together(load, tmp_path):
    (tmp_path / "chid").mkdir()
    answers = {"#idiom000001#": 1, "#idiom000002#": 0, "#idiom000003#": 2}
    (tmp_path / "chid" / "dev_answer.json").write_text(json.dumps(answers))
    candidates = ["一心一意", "三心二意", "全心全意"]
    rows = [
        {"content": ["他#idiom000001#又#idiom000002#。", "好"], "candidates": candidates},
        {"content": ["#idiom000003#"], "candidates": candidates},
    ]
    split = load("chid", "dev.json", rows)
    contexts = [record["context"] for record in split.records]
    assert contexts == ["他#idiom#又#other#。", "他#other#又#idiom#。", "#idiom#"]
    assert [record["tag"] for record in split.records] == list(answers)
    assert [(record["group"], record["label"]) for record in split.records] == [(0, 1), (0, 0), (1, 2)]
    assert split.rows == 2 and len(split.records) == 3


def test_fewclue_has_integers_one_passage_and_seven_candidates(load):
    row = {"id": 1734, "candidates": list("甲乙丙丁戊己庚"), "content": "让人#idiom#，真的。", "answer": 3}
    (record,) = load("chid", "train_0.json", [row]).records
    blank = {"tag": "#idiom#", "context": "让人#idiom#，真的。", "question": None, "choices": list("甲乙丙丁戊己庚")}
    assert record == {"id": 1734, "group": 0, "label": 3} | blank
    split = load("tnews", "train_0.json", [{"label": 110, "sentence": "新闻", "keywords": "", "id": 4591}])
    assert split.records == [{"id": 4591, "text_a": "新闻", "text_b": None, "label": "110"}]


def questions(context, *answers):
    listed = [{"text": text, "answer_start": start} for text, start in answers]
    paragraph = {"context": context, "qas": [{"id": "Q", "question": "什么？", "answers": listed}]}
    return json.dumps({"data": [{"paragraphs": [paragraph]}]}, ensure_ascii=False)


def test_answers_beside_their_start_are_repaired_and_those_that_are_nowhere_left_out_of_training(load, tmp_path):
    content = questions(" 在北京，在北京大学", ("北京", 7), ("上海", -1), ("大学", 3))
    train = load("cmrc2018", "train.json", content)
    assert train.records[0]["answers"] == [{"text": "北京", "start": 5}, {"text": "大学", "start": 7}]
    assert train.notes == {"start of an answer repaired": 2, "answer not in its context": 1}
    (tmp_path / "cmrc2018" / "train.json").unlink()
    dev = load("cmrc2018", "dev.json", content)
    assert [answer["start"] for answer in dev.records[0]["answers"]] == [5, -1, 7]


def test_a_question_whose_only_answer_is_nowhere_is_left_out_of_training(load):
    content = json.loads(questions("在北京", ("上海", 1)))
    good = {"id": "R", "question": "哪？", "answers": [{"text": "北京", "answer_start": 1}]}
    content["data"][0]["paragraphs"][0]["qas"].append(good)
    split = load("drcd", "train.json", json.dumps(content, ensure_ascii=False, indent=2))
    assert [record["id"] for record in split.records] == ["R"]
    assert split.skipped == {"no answer in its context": 1}


def test_placeholders_of_a_test_set_are_no_answers_and_real_ones_are(load):
    split = load("cmrc2018", "test.json", questions("在北京", ("FAKE_ANSWER_1", -1)))
    assert split.records[0]["answers"] == [] and not split.labelled
    split = load("drcd", "test.json", questions("在北京", ("北京", 1)))
    assert split.records[0]["answers"] == [{"text": "北京", "start": 1}] and split.labelled


def test_pretty_printed_cluener_and_entities_within_others(load):
    rows = [
        {"text": "《北京的书》 好", "label": {"book": {"《北京的书》": [[0, 5]]}, "address": {"北京": [[1, 2]]}}},
        {"text": "张三", "label": {"name": {"张三": [[0, 1]]}}},
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False, indent=4) for row in rows)
    split = load("cluener", "dev.json", text)
    tags = [" ".join(record["tags"]) for record in split.records]
    assert tags == ["B-book I-book I-book I-book I-book I-book O O", "B-name I-name"]
    assert split.records[0]["chars"] == list(rows[0]["text"]) and split.notes == {"entity within another": 1}


def test_labels_on_which_annotators_did_not_agree_are_left_out_and_counted(load, tmp_path):
    rows = [{"sentence1": "甲", "sentence2": "乙", "label": label} for label in ("-", "neutral", "-")]
    for name in ("cmnli", "ocnli"):
        split = load(name, "dev.json", rows)
        assert split.skipped == {"label -": 2} and split.records[0]["id"] == 1


def test_short_lines_are_left_out_and_counted_but_kept_in_a_test_set(load, tmp_path, caplog):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    train = load("qqp", "train.tsv", f"{header}\n0\t1\t2\ta\tb\t1\n0\t1\t2\ta\n\n0\t1\t2\tc\td\t0")
    assert train.skipped == {"missing field": 2}
    assert [record["text_a"] for record in train.records] == ["a", "c"]
    assert "qqp train: rows left out, missing field: 2" in caplog.text
    (tmp_path / "qqp" / "train.tsv").unlink()
    test = load("qqp", "test.tsv", "id\tquestion1\tquestion2\n0\ta\tb\n1\tc\n2\te\tf\n")
    assert [record["text_b"] for record in test.records] == ["b", "", "f"]
    assert test.notes == {"missing field": 1} and not test.skipped


def test_empty_texts_and_fields_beyond_the_header_are_kept_and_counted(load):
    split = load("chnsenticorp", "dev.tsv", "label\ttext_a\n1\t \n0\ta\tb\n")
    assert [record["text_a"] for record in split.records] == ["", "a"]
    assert split.notes == {"empty text": 1, "fields beyond the header": 1} and not split.skipped


def test_unbalanced_quotes_of_tab_separated_files_are_text(load):
    header = "index\tsentence1\tsentence2\tscore"
    split = load("stsb", "dev.tsv", f'{header}\n0\t"a\tb"c\t3.2\n1\td\t"e"\t0\n')
    assert [(record["text_a"], record["text_b"]) for record in split.records] == [('"a', 'b"c'), ("d", '"e"')]
    assert [record["label"] for record in split.records] == [3.2, 0.0]


NLI = "sentence1\tsentence2\tlabel\n"
BAD = [
    ("rte", "train.tsv", "sentence1\tlabel\na\tentailment\n", r"train\.tsv:2: must have the column sentence2"),
    ("rte", "train.tsv", "sentence1\tsentence2\na\tb\n", r"train\.tsv:2: must have the column label"),
    ("rte", "dev.tsv", f"{NLI}a\tb\tentailment\na\tb\tyes\n", r"dev\.tsv:3: label must be one of .*, got 'yes'"),
    ("rte", "dev.tsv", f"{NLI}a\tb\t0\n", r"dev\.tsv:2: label must be one of entailment, not_entailment, got '0'"),
    ("rte", "dev.tsv", NLI, r"dev\.tsv must hold rows that rte can use, got none"),
    ("rte", "dev.tsv", "", r"dev\.tsv must hold rows that rte can use, got none"),
    ("rte", "dev.tsv", f"{NLI}a\n", r"dev\.tsv must hold rows that rte can use, got none, missing field: 1"),
    ("stsb", "dev.tsv", "sentence1\tsentence2\tscore\na\tb\tnan\n", r"dev\.tsv:2: label must be a number, got 'nan'"),
    ("tnews", "dev.json", '{"sentence": "a", "label": 105}', r"dev\.json:1: label must be one of 100, 101"),
    ("tnews", "dev.json", '{"sentence": "a", "label": 4}', r"dev\.json:1: label must be one of"),  # nobody's order
    ("tnews", "dev.json", '{"sentence": "a", "label": "100"}\n{"sen', r"dev\.json:2: must be JSON, got '\{\"sen'"),
    ("tnews", "dev.json", '{"sentence": 7, "label": "100"}', r"dev\.json:1: sentence must be a string, got 7"),
    ("tnews", "dev.json", "[1, 2]", r"dev\.json:1: must be a JSON object, got 1"),
    ("c3", "d-dev.json", '[\n[["a"],\n [{"question": "q"}], "1"]]', r"d-dev\.json:2: must have the column choice"),
    ("c3", "d-dev.json", '[[["a"], [], "1"]', r"d-dev\.json:1: must be an array that ends in \]"),
    ("c3", "d-dev.json", '[[["a"]]]', r"d-dev\.json:1: must be a row as c3 has them"),
    ("chid", "dev.json", '{"content": ["#idiom1#"], "candidates": ["a"]}', r"dev\.json:1: must have an answer for"),
    ("chid", "dev_0.json", '{"content": "#idiom#", "candidates": ["a"], "answer": 1}', r"json:1: label must be a num"),
    (
        "cmrc2018",
        "dev.json",
        '{"data": [{"paragraphs": [\n{"context": "c", "qas": [\n{"id": "Q", "question": "q"}]}]}]}',
        r"dev\.json:3: must have the column answers",
    ),
    ("cluener", "dev.json", '{"text": "张三", "label": {"pet": {"张三": [[0, 1]]}}}', r"json:1: type must be one"),
    ("cluener", "dev.json", '{"text": "张三", "label": {"name": {"李四": [[0, 1]]}}}', r"dev\.json:1: an entity must"),
    ("msra_ner", "dev.tsv", "text_a\tlabel\n张 三\tO\n", r"dev\.tsv:2: must have a tag for each of 2 .*, got 1"),
    ("msra_ner", "dev.tsv", "text_a\tlabel\n张 三\tO B-X\n", r"dev\.tsv:2: tag must be one of O, B-LOC.*got 'B-X'"),
    ("swag", "val.csv", 'sent1,sent2,ending0,label\n"a,b,c,0\n', r"val\.csv:\d+: must be comma-separated, got unexp"),
    ("swag", "val.csv", "sent1,sent2,ending0,label\na,b,c,1\n", r"val\.csv:2: label must be a number below 1"),
    (
        "cluewsc2020",
        "dev.json",
        json.dumps(winograd("他说", 0, "她", 1, "说")),
        r"dev\.json:1: span1_text must stand at span1_index, got '她' at 0, where '他' stands",
    ),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), BAD)
def test_bad_files_are_errors_of_one_line_that_name_the_place(name, file, content, message, load):
    with pytest.raises(TaskError, match=message) as caught:
        load(name, file, content)
    assert "\n" not in str(caught.value)
