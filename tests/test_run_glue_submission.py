"""run_glue.py from test files to the zip of a board: ids and order of the files, and no truncated run."""

import json
import zipfile

import pytest
import torch
from transformers import BertConfig, BertModel

import run_glue
from data.scoring.predictions import SubmissionError
from training.pretrained import load_tokenizer

TEXT = "今天天气很好我们去公园玩"
C3 = {"question": "去哪里？", "choice": ["公园", "酒店", "学校"]}
LISTS = [
    {
        "content": [f"他#idiom00000{2 * i}#的人，也#idiom00000{2 * i + 1}#。"],
        "candidates": list("今天气很好我们去公园")[:10],
    }
    for i in range(3)
]
ANSWERS = {f"#idiom00000{i}#": i for i in range(6)}
ENTITIES = {"address": {"公园": [[9, 10]]}}


def squad(name, answers):
    questions = [{"id": f"{name}_Q{i}", "question": "去哪里？", "answers": answers} for i in (1, 0)]
    return {"data": [{"paragraphs": [{"id": name, "context": TEXT, "qas": questions}]}]}


# Folder: file -> lines, or one value. Every id stands where no counter would put it.
FILES = {
    "c3": {
        "d-train.json": [[[TEXT], [C3 | {"answer": "公园"}], "3-1"]],
        "d-dev.json": [[[TEXT], [C3 | {"answer": "公园"}], "3-2"]],
        "test1.1.json": [[[TEXT], [C3 | {"id": 508}, C3 | {"id": 3298}], "a"], [[TEXT], [C3 | {"id": 7}], "b"]],
    },
    "chid": {
        "train.json": LISTS,
        "train_answer.json": ANSWERS,
        "dev.json": LISTS,
        "dev_answer.json": ANSWERS,
        "test1.1.json": LISTS[:2],
    },
    "cmrc2018": {
        "train.json": squad("TRAIN", [{"text": "公园", "answer_start": 9}]),
        "dev.json": squad("DEV", [{"text": "公园", "answer_start": 9}]),
        "test.json": squad("TEST", [{"text": "", "answer_start": -1}]),
    },
    "cluener": {
        "train.json": [{"text": TEXT, "label": ENTITIES}] * 4,
        "dev.json": [{"text": TEXT, "label": ENTITIES}] * 2,
        "test.json": [{"id": 1, "text": TEXT}, {"id": 0, "text": "公园 好"}],
    },
    "wnli": {
        "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\t今天\t天气\t1\n1\t我们\t公园\t0\n",
        "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\t今天\t天气\t1\n1\t我们\t公园\t0\n",
        "test.tsv": "index\tsentence1\tsentence2\n0\t今天\t天气\n1\t我们\t公园\n2\t我们\t天气\n",
    },
}


@pytest.fixture
def flags(bert_folder, tmp_path):
    """(task, **flags) -> command line for one step of a tiny BERT."""
    torch.manual_seed(0)
    folder = bert_folder()
    tokenizer = load_tokenizer(str(folder), "--tokenizer")
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    for task, files in FILES.items():
        (tmp_path / "data" / task).mkdir(parents=True)
        for name, rows in files.items():
            by_line = task in ("chid", "cluener") and isinstance(rows, list)
            lines = (
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) if by_line else json.dumps(rows)
            )
            text = rows if isinstance(rows, str) else lines
            (tmp_path / "data" / task / name).write_text(text, encoding="utf-8")

    def make(task, **more):
        common = {"data_dir": tmp_path / "data", "output_dir": tmp_path / "out", "model": folder, "device": "cpu"}
        common |= {"tasks": task, "max_steps": 1, "batch_size": 4, "max_length": 48} | more
        return ["--do_predict", *(str(word) for name, value in common.items() for word in (f"--{name}", value))]

    return make


def test_every_kind_of_answer_gets_from_the_test_file_into_the_zip(flags, tmp_path):
    *tasks, last = FILES
    for task in tasks:
        run_glue.main(flags(task))
    run_glue.main(flags(last, submission_dir=tmp_path / "submission", team="gau", clue_version="1.1"))
    glue, clue = sorted((tmp_path / "submission").iterdir())
    assert glue.name == "glue.zip" and clue.name.startswith("submit_gau_")
    with zipfile.ZipFile(glue) as archive:
        assert len(archive.namelist()) == 11
        assert len(archive.read("WNLI.tsv").decode().split("\n")) == 1 + 3 + 1
    with zipfile.ZipFile(clue) as archive:
        files = {name.removesuffix("_predict.json"): archive.read(name).decode() for name in archive.namelist()}
    assert set(files) == {"c311", "chid11", "cmrc2018", "cluener"}
    rows = {name: [json.loads(line) for line in text.strip("\n").split("\n")] for name, text in files.items()}
    assert [row["id"] for row in rows["c311"]] == [508, 3298, 7]
    assert all(row["label"] in range(3) for row in rows["c311"])
    (cloze,) = rows["chid11"]
    assert list(cloze) == [f"#idiom00000{i}#" for i in range(4)]
    assert cloze["#idiom000000#"] != cloze["#idiom000001#"], "a candidate is used once per list"
    (answers,) = rows["cmrc2018"]
    assert list(answers) == ["TEST_Q1", "TEST_Q0"]
    assert all(answer and answer in TEXT for answer in answers.values())
    assert [(row["id"], row["text"]) for row in rows["cluener"]] == [(1, TEXT), (0, "公园 好")]


def test_a_truncated_run_writes_no_zip(flags, tmp_path):
    with pytest.raises(SubmissionError, match=r"wnli: .* got one with --max_train_samples"):
        run_glue.main(flags("wnli", submission_dir=tmp_path / "submission", max_train_samples=1))
    assert not (tmp_path / "submission").exists()
