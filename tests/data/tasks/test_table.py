"""The table of tasks is whole, and tasks are found by any of their names."""

import pytest

from data.scoring.metrics import METRICS
from data.tasks.records import READERS
from data.tasks.table import GROUPS, TASKS, add_task, find_task
from data.tasks.task import KINDS, Task, TaskError


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_row_of_the_table_is_whole(task):
    assert task.kind in KINDS and task.reader in READERS
    assert set(task.metrics) <= set(METRICS[task.kind]) and set(task.constant) <= set(task.metrics)
    assert bool(task.labels) == (task.kind in ("classification", "tagging"))
    assert len(set(task.labels)) == len(task.labels) and set(task.spellings.values()) <= set(task.labels)
    assert (
        {*task.eval_splits, *task.test_splits}
        <= set(task.files)
        <= {key for key in task.sizes if "." not in key} | {"test1.0"}
    )
    assert (task.train_split in task.files) == (task.model_of is None)
    for other in filter(None, (task.init_from, task.model_of)):
        assert TASKS[other].kind == "classification"
    assert set(task.defaults) == {"lr", "batch_size", "epochs", "warmup_ratio", "weight_decay"}
    assert task.groups and set(task.groups) <= set(GROUPS)


def test_label_names_are_those_of_the_official_files():
    assert TASKS["tnews"].labels == tuple(str(code) for code in (*range(100, 105), *range(106, 111), *range(112, 117)))
    assert TASKS["iflytek"].labels[0] == "0" and TASKS["iflytek"].labels[-1] == "118"
    assert len(TASKS["iflytek"].labels) == 119
    assert TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["ocnli"].labels == TASKS["cmnli"].labels == ("neutral", "entailment", "contradiction")
    assert TASKS["cluewsc2020"].labels == ("true", "false")
    assert TASKS["qnli"].labels[0] == TASKS["rte"].labels[0] == TASKS["wnli"].labels[1] == "entailment"
    assert TASKS["msra_ner"].labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER", "B-ORG", "I-ORG")
    assert len(TASKS["cluener"].labels) == 21


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("SST-2", "sst2"),
        ("sst", "sst2"),
        ("STS-B", "stsb"),
        ("CoLA", "cola"),
        ("wsc", "cluewsc2020"),
        ("CLUEWSC", "cluewsc2020"),
        ("cmrc", "cmrc2018"),
        ("diagnostics", "clue_diagnostics"),
        ("diagnostic", "ax"),
        ("book-review", "book_review"),
        ("smp2020_ewect_usual", "smp2020-ewect-usual"),
        ("cluener2020", "cluener"),
    ],
)
def test_a_task_is_found_by_any_of_its_names(typed, name):
    assert find_task(typed) is TASKS[name]


def test_an_unknown_task_is_refused_with_the_names_that_there_are():
    with pytest.raises(TaskError, match=r"^--tasks must name tasks of cola, sst2, .*, got 'boolq'; correct the name$"):
        find_task("boolq")


def test_a_task_that_is_added_is_found_by_its_names_alone(monkeypatch):
    monkeypatch.setattr("data.tasks.table.TASKS", dict(TASKS))
    add_task(Task("my_headlines", "classification", ("accuracy",), labels=("no", "yes"), aliases=("headlines",)))
    assert find_task("My-Headlines") is find_task("headlines")
    for name in ("headlines", "SST-2", "sst"):
        with pytest.raises(TaskError, match="must have a name of its own"):
            add_task(Task(name, "classification", ("accuracy",)))
