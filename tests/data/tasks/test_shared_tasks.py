"""Real files, where they lie beside the repository, are read whole by their tasks."""

import json

import pytest

from data.tasks.loading import load_task
from data.tasks.own_files import adhoc_task
from data.tasks.table import TASKS
from data.tasks.task import TaskError

pytestmark = pytest.mark.needs_shared

FILES = [  # data folder, task, training, {split: (file, rows, left out)}
    ("glue", "cola", True, {"train": ("CoLA/train.tsv", 8551, 0), "validation": ("CoLA/dev.tsv", 1043, 0)}),
    (
        "glue",
        "stsb",
        True,
        {
            "train": ("STS-B/train.tsv", 5749, 0),
            "validation": ("STS-B/dev.tsv", 1500, 0),
            "test": ("STS-B/test.tsv", 1379, 0),
        },
    ),
    ("glue", "mrpc", False, {"test": ("MRPC/msr_paraphrase_test.txt", 1725, 0)}),
    ("hf_fixtures", "mrpc", True, {"train": ("MRPC/train.tsv", 6, 0), "validation": ("MRPC/dev.tsv", 6, 0)}),
    ("hf_fixtures", "stsb", True, {"train": ("STS-B/train.tsv", 9, 0), "validation": ("STS-B/dev.tsv", 9, 0)}),
    ("clue", "afqmc", True, {"validation": ("afqmc/dev.json", 4316, 0)}),
    (
        "clue",
        "ocnli",
        True,
        {
            "train": ("ocnli/train.3k.json", 2994, 6),
            "validation": ("ocnli/dev.json", 2950, 50),
            "test": ("ocnli/test.json", 3000, 0),
        },
    ),
    ("clue", "c3", True, {"validation": ("c3/d-dev.json", 1825, 0)}),
    ("clue", "cmrc2018", True, {"validation": ("cmrc2018/dev.json", 3219, 0)}),
    (
        "clue",
        "cluener",
        True,
        {
            "train": ("cluener/train.json", 10748, 0),
            "validation": ("cluener/dev.json", 1343, 0),
            "test": ("cluener/test.json", 1345, 0),
        },
    ),
    (
        "",
        "chnsenticorp",
        True,
        {
            "train": ("chnsenticorp/train.tsv", 9600, 0),
            "validation": ("chnsenticorp/dev.tsv", 1200, 0),
            "test": ("chnsenticorp/test.tsv", 1200, 0),
        },
    ),
    ("", "msra_ner", True, {"validation": ("msra_ner/dev.tsv", 2318, 0)}),
    *(
        (
            "clue/fewclue",
            name,
            True,
            {"train": (f"{folder}/train_0.json", rows, 0), "validation": (f"{folder}/dev_0.json", rows, 0)},
        )
        for name, folder, rows in (
            ("tnews", "tnews", 240),
            ("ocnli", "ocnli", 32),
            ("cluewsc2020", "cluewsc", 32),
            ("csl", "csl", 32),
            ("chid", "chid", 42),
        )
    ),
]
ADHOC = [  # kind, file, rows, options
    ("classification", "clue/fewclue/bustm/train_0.json", 32, {"text_columns": "sentence1,sentence2"}),
    ("classification", "clue/fewclue/bustm/dev_0.json", 32, {}),
    ("classification", "hf_fixtures/MRPC/train.csv", 6, {}),
    ("classification", "hf_fixtures/MRPC/dev.csv", 6, {}),
    ("multiple_choice", "hf_fixtures/swag/sample.json", 10, {}),
    ("question_answering", "hf_fixtures/SQUAD/sample.json", 14, {}),
    ("tagging", "hf_fixtures/conll/sample.json", 10, {"text_columns": "words", "label_column": "ner"}),
]
OTHERS = {  # no rows of a task, or read below
    "clue/fewclue/tnews/label_index2en2zh.json",
    "msra_ner/label2id.json",
    "hf_fixtures/wmt16/sample.json",
    "hf_fixtures/xsum/sample.json",
    "hf_fixtures/sample_text.txt",
    "glue/MRPC/msr_paraphrase_train.txt",
}


@pytest.mark.parametrize(("root", "name", "training", "expected"), FILES)
def test_every_row_is_read(shared, root, name, training, expected):
    splits = load_task(TASKS[name], shared / "data" / root, "local", training=training)
    read = {}
    for part, split in splits.items():
        left_out = sum(split.skipped.values())
        read[part] = ("".join(split.parts), split.rows, left_out)
        if root not in ("hf_fixtures", "") or name == "chnsenticorp":
            assert split.expected in (split.rows, split.rows + left_out)
    assert read == {split: (file.rpartition("/")[2], *rest) for split, (file, *rest) in expected.items()}


@pytest.mark.parametrize(("kind", "file", "rows", "options"), ADHOC)
def test_files_of_no_task_are_tasks_of_the_users(shared, kind, file, rows, options):
    task, splits = adhoc_task(kind, shared / "data" / file, shared / "data" / file, None, **options)
    assert len(splits["train"].records) == len(splits["validation"].records) == rows
    assert splits["validation"].labelled and not splits["train"].skipped
    if "conll" in file:
        assert task.labels == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")


def test_swag_reads_its_sample_and_mrpc_stops_for_its_dev_ids(shared):
    split = load_task(TASKS["swag"], files={"validation": shared / "data/hf_fixtures/swag/sample.json"})["validation"]
    assert len(split.records) == 10 and split.labelled
    with pytest.raises(TaskError, match=r"must hold dev_ids\.tsv or mrpc_dev_ids\.tsv"):
        load_task(TASKS["mrpc"], shared / "data/glue")


def test_mrpc_is_assembled_of_the_real_training_file_once_there_are_ids(tmp_path, shared):
    raw = shared / "data/glue/MRPC/msr_paraphrase_train.txt"
    (tmp_path / "MRPC").mkdir()
    (tmp_path / "MRPC" / raw.name).symlink_to(raw)
    pairs = ["\t".join(line.split("\t")[1:3]) for line in raw.read_text("utf-8-sig").split("\n")[1:409]]
    (tmp_path / "MRPC" / "dev_ids.tsv").write_text("\n".join(pairs))  # any 408; the official ones are not there
    splits = load_task(TASKS["mrpc"], tmp_path)
    assert {name: len(split.records) for name, split in splits.items()} == {"train": 3668, "validation": 408}


def test_labels_are_those_of_the_files_that_list_them(shared):
    lines = (shared / "data/clue/fewclue/tnews/label_index2en2zh.json").read_text("utf-8").strip().split("\n")
    assert tuple(json.loads(line)["label"] for line in lines) == TASKS["tnews"].labels
    numbers = json.loads((shared / "data/msra_ner/label2id.json").read_text("utf-8"))
    assert tuple(sorted(numbers, key=numbers.get)) == TASKS["msra_ner"].labels


def test_no_file_is_forgotten(shared):
    read = {file for _, file, _, _ in ADHOC} | OTHERS
    read |= {f"{root}/{file}".lstrip("/") for root, _, _, splits in FILES for file, *_ in splits.values()}
    folders = ("glue", "clue", "chnsenticorp", "msra_ner", "hf_fixtures")
    there = {
        str(path.relative_to(shared / "data"))
        for folder in folders
        for path in (shared / "data" / folder).rglob("*")
        if path.is_file()
    }
    assert there <= read
