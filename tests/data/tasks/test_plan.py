"""What a job does with the splits of its task, and the files about its predictions."""

import json
from types import SimpleNamespace

import pytest

from data.features.build import label_array, swapped_pairs
from data.tasks.loading import Split
from data.tasks.plan import Plan, choose_tasks, expand_tasks, read_task
from data.tasks.table import TASKS
from data.tasks.task import Task, TaskError

PAIR = Task("pair", "classification", ("accuracy",), labels=("no", "yes"))


def record(number, label="yes", **more):
    return {"id": number, "text_a": f"a{number}", "text_b": f"b{number}", "label": label} | more


def flags(**values):
    plain = dict.fromkeys(("train_file", "validation_file", "test_file", "kind", "text_columns", "label_column"))
    plain |= dict.fromkeys(("overfit", "max_train_samples", "max_eval_samples", "dry_run", "data_dir"))
    plain |= dict.fromkeys(("max_predict_samples", "dataset_name", "dataset_config_name"))
    plain |= dict.fromkeys(("do_train", "do_eval", "do_predict"), False)
    return SimpleNamespace(**plain | {"csl_joiner": " ", "source": "local"} | values)


def splits(**labels):
    return {name: Split([record(0, label)], name) for name, label in labels.items()}


@pytest.mark.parametrize(
    "present, trains, predicts, training, scored, asked",
    [
        ({"train": "no", "validation": "no", "test": None}, True, False, True, ("validation",), ()),
        ({"train": "no", "validation": "no", "test": None}, True, True, True, ("validation",), ("test",)),
        ({"train": "no", "validation": "no"}, False, False, False, ("validation",), ()),
        ({"validation": "no", "test": "no"}, True, False, False, ("validation",), ()),
        ({"test": "no"}, True, False, False, (), ("test",)),
        ({"train": "no"}, True, False, True, (), ()),
        ({"train": "no", "validation": None}, True, False, True, (), ()),
    ],
)
def test_what_is_trained_scored_and_predicted(present, trains, predicts, training, scored, asked):
    plan = Plan.of(PAIR, splits(**present), trains, predicts)
    assert (plan.training, plan.scored, plan.asked) == (training, scored, asked)


def test_nothing_to_do_is_an_error_and_no_training_data_a_warning(caplog):
    with pytest.raises(TaskError, match="--tasks pair must have splits"):
        Plan.of(PAIR, splits(train="no"), False, False)
    Plan.of(PAIR, splits(validation="no"), True, False)
    assert "pair has no training data here: evaluating only" in caplog.text


def test_names_of_tasks_and_where_they_start():
    names, sources = choose_tasks("mnli,RTE,ax,stsb", None, None, None)
    assert names == ["mnli", "rte", "ax", "stsb"] and sources == {"rte": "mnli", "stsb": "mnli", "ax": "mnli"}
    assert choose_tasks("rte,ax", None, None, None) == (["rte", "ax"], {})
    assert choose_tasks("mnli,ax,SST-2", None, None, {"sst": "MNLI"})[1] == {"sst2": "mnli", "ax": "mnli"}
    assert choose_tasks(None, "tagging", None, {}) == (["adhoc"], {})
    with pytest.raises(TaskError, match="--tasks must name tasks"):
        choose_tasks(None, None, None, {})


def test_groups_expand_to_their_tasks_each_once():
    glue8 = ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte"]
    assert [task.name for task in expand_tasks("glue8")] == glue8
    clue10 = ["afqmc", "tnews", "iflytek", "cmnli", "ocnli", "cluewsc2020", "csl", "cmrc2018", "chid", "c3"]
    assert [task.name for task in expand_tasks("clue10")] == clue10
    assert [task.name for task in expand_tasks("clue11")] == [name for name in clue10 if name != "cmnli"]
    assert [task.name for task in expand_tasks("clue_cls")] == clue10[:7]
    assert [task.name for task in expand_tasks("wsc, clue_cls")] == ["cluewsc2020", *clue10[:5], "csl"]
    assert len(expand_tasks("all")) == len(TASKS) == 29
    assert len(expand_tasks("zh_extra")) == 5


def test_a_board_stands_for_its_tasks_in_the_data_folder_and_else_for_the_usual_ones(tmp_path):
    for folder in ("CoLA", "glue/WNLI", "clue/cluener_public", "c3", "msra_ner"):
        (tmp_path / folder).mkdir(parents=True)
    assert [task.name for task in expand_tasks("glue", tmp_path)] == ["cola", "wnli"]
    assert [task.name for task in expand_tasks("clue,glue", tmp_path)] == ["c3", "cluener", "cola", "wnli"]
    assert [task.name for task in expand_tasks("clue")] == [task.name for task in expand_tasks("clue10")]
    assert expand_tasks("glue", tmp_path / "clue") == expand_tasks("glue8")
    with pytest.raises(TaskError, match=r"--tasks must name a task or one of .*glue8.*, got ' ,'"):
        expand_tasks(" ,")


def test_debugging_flags_cut_the_splits(tmp_path):
    file = tmp_path / "rows.jsonl"
    lines = (json.dumps({"sentence": f"s{number}", "label": number % 2}) + "\n" for number in range(100))
    file.write_text("".join(lines), encoding="utf-8")
    own = {"kind": "classification", "train_file": file, "validation_file": file}

    def sizes(**more):
        return {name: len(split.records) for name, split in read_task("own", flags(**own | more), True)[1].items()}

    assert sizes() == {"train": 100, "validation": 100}
    assert sizes(max_train_samples=7, max_eval_samples=5) == {"train": 7, "validation": 5}
    assert sizes(test_file=file, max_eval_samples=5, max_predict_samples=3)["test"] == 3
    for flag, file in (("do_predict", "test"), ("do_train", "train"), ("do_eval", "validation")):
        with pytest.raises(TaskError, match=f"--{flag} needs rows, got none of its own; add --{file}_file"):
            sizes(**{flag: True, f"{file}_file": None})
    assert sizes(dry_run=True) == {"train": 64, "validation": 64}
    assert sizes(overfit=9) == {"train": 9, "validation": 9}


def test_pairs_are_swapped_beside_the_originals():
    records = swapped_pairs([record(0, "no"), record(1)])
    swaps = [(swap["text_a"], swap["text_b"], swap["label"]) for swap in records[2:]]
    assert swaps == [("b0", "a0", "no"), ("b1", "a1", "yes")]
    assert records[:2] == [record(0, "no"), record(1)]
    with pytest.raises(ValueError, match="--swap_augment"):
        swapped_pairs([record(0), record(1, text_b=None)])


def test_labels_are_the_models_outputs():
    tagged = Task("tags", "tagging", ("f1",), labels=("O", "B-X", "I-X"))
    split = Split([{"tags": ["B-X", "I-X"]}, {"tags": ["O"]}], "here")
    assert label_array(tagged, split, {"O": 5, "B-X": 1, "I-X": 0}).tolist() == [1, 0, 5]
    assert label_array(PAIR, Split([record(0), record(1, "no")], "here"), {"no": 1, "yes": 0}).tolist() == [0, 1]
    assert label_array(Task("r", "regression", ("pearson",)), Split([record(0, 1.5)], "here"), {}).size == 0
