"""Scores are the boards': their metrics, in percent, never NaN, and means that say what they are made of."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from data.scoring.metrics import METRICS, is_degenerate, merge_splits, score
from data.scoring.predictions import decode
from data.tasks.table import TASKS


def labelled(labels):
    return [{"id": i, "label": label} for i, label in enumerate(labels)]


def test_every_task_names_metrics_that_exist():
    for task in TASKS.values():
        assert set(task.metrics) <= set(METRICS[task.kind]), task.name


def test_mrpc_by_its_majority():
    task = TASKS["mrpc"]
    records = labelled([task.labels[1]] * 279 + [task.labels[0]] * 129)
    scores = score(task, records, [task.labels[1]] * 408)
    assert scores == {"accuracy": pytest.approx(68.38, abs=5e-3), "f1": pytest.approx(81.22, abs=5e-3)}
    assert scores == pytest.approx(dict(task.constant), abs=5e-3)
    assert list(scores) == list(task.metrics)
    assert is_degenerate(task, records, [task.labels[1]] * 408)


def test_mcc_of_a_constant_is_0():
    task = TASKS["cola"]
    records = labelled([task.labels[i % 3 > 0] for i in range(30)])
    assert score(task, records, [task.labels[1]] * 30)["mcc"] == 0.0
    assert score(task, records, [record["label"] for record in records])["mcc"] == 100
    assert score(task, records, [task.labels[i % 3 == 0] for i in range(30)])["mcc"] == -100


@pytest.mark.parametrize(
    ("gold", "predicted", "what"), [([1.0, 2, 4], [3.0] * 3, "predictions"), ([3.0] * 3, [1.0, 2, 4], "labels")]
)
def test_a_correlation_with_a_constant_is_0_with_a_warning(gold, predicted, what, caplog):
    with caplog.at_level(logging.WARNING):
        assert score(TASKS["stsb"], labelled(gold), predicted) == {"pearson": 0.0, "spearman": 0.0}
    assert f"all {what} are 3.0" in caplog.text


def test_correlations():
    scores = score(TASKS["stsb"], labelled([0.0, 1, 2, 3]), [0.0, 1, 4, 9])
    assert scores == {"pearson": pytest.approx(95.8315, abs=1e-3), "spearman": pytest.approx(100)}


def test_sts_b_is_clipped_and_other_regression_is_not():
    assert decode(TASKS["stsb"], [{}] * 3, np.array([-0.1, 5.37, 3.5], np.float32)) == [0.0, 5.0, 3.5]
    other = SimpleNamespace(name="adhoc", kind="regression", layout="text")
    assert decode(other, [{}] * 2, np.array([-2.0, 9.0])) == [-2.0, 9.0]


def test_labels_go_by_name():
    task = TASKS["tnews"]
    logits = np.eye(15, dtype=np.float32)[[2, 14, 0]]
    assert decode(task, [{}] * 3, logits) == ["102", "116", "100"]


def test_logits_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="logits must be finite"):
        decode(TASKS["sst2"], [{}], np.array([[0.0, np.nan]]))


def test_chid_reports_all_three_ways_to_decode():
    task, outputs = TASKS["chid"], [np.array([5.0, 4.0]), np.array([3.0, 2.0, 1.0]), np.array([4.9, 1.0])]
    records = [{"id": 0, "group": 1, "label": 1}, {"id": 1, "group": 2, "label": 0}, {"id": 2, "group": 1, "label": 0}]
    predictions = decode(task, records, outputs)
    assert predictions == [1, 0, 0]
    assert decode(task, records, outputs, chid_decode="greedy") == [0, 0, 1]
    scores = score(task, records, predictions, outputs)
    assert list(scores) == ["accuracy", "accuracy_argmax", "accuracy_greedy", "accuracy_optimal"]
    assert list(scores.values()) == pytest.approx([100, 200 / 3, 100 / 3, 100])


def test_c3_chooses_among_the_choices_there_are_and_scores_its_files_apart():
    task, outputs = TASKS["c3"], [np.array([-5.0, -4.0]), np.array([0.0, 1, 2, 3]), np.array([2.0, 1, 0])]
    records = [{"id": i, "label": label} for i, label in enumerate((1, 3, 1))]
    predictions = decode(task, records, outputs)
    assert predictions == [1, 3, 0]
    scores = score(task, records, predictions, parts={"d-dev.json": 2, "m-dev.json": 1})
    assert scores == {"accuracy": pytest.approx(200 / 3), "accuracy_d-dev.json": 100, "accuracy_m-dev.json": 0}


def test_questions():
    records = [
        {"context": "光荣公司开发", "answers": [{"text": "光荣公司"}, {"text": "光荣"}]},
        {"context": "甲，乙", "answers": [{"text": "甲，乙"}]},
    ]
    task = TASKS["cmrc2018"]
    assert score(task, records, ["光荣公", "甲乙"]) == {"em": 50, "f1": pytest.approx(100 * (6 / 7 + 1) / 2)}


def test_missing_answers_count_0_and_are_reported(caplog):
    records = [{"context": "甲乙", "answers": [{"text": "甲"}]}] * 4
    with caplog.at_level(logging.WARNING):
        assert score(TASKS["cmrc2018"], records, ["甲", None, "甲", None])["em"] == 50
    assert "2 of 4 questions have no prediction" in caplog.text


def test_empty_answers_are_counted(caplog):
    shape = (2, 4)
    outputs = SimpleNamespace(
        start=np.zeros(shape),
        end=np.full(shape, -np.inf),
        record=np.arange(2),
        offsets=np.zeros((*shape, 2), int),
        allowed=np.zeros(shape, bool),
    )
    with caplog.at_level(logging.WARNING):
        assert decode(TASKS["cmrc2018"], [{"context": "文"}] * 2, outputs) == ["", ""]
    assert "2 of 2 questions got no answer" in caplog.text


def tagged(text, tags):
    return {"id": 0, "text": text, "chars": list(text), "tags": tags}


def test_cluener_macro_over_entity_strings_and_micro_over_positions():
    """In the first text the name is found at its second place only: right for the board, wrong for seqeval."""
    task = TASKS["cluener"]
    records = [
        tagged("张三说张三", ["B-name", "I-name", "O", "O", "O"]),
        tagged("李四在北大", ["B-name", "I-name", "O", "B-organization", "I-organization"]),
        tagged("看电影", ["O", "B-movie", "I-movie"]),
    ]
    predictions = [
        ["O", "O", "O", "B-name", "I-name"],
        ["B-name", "I-name", "O", "B-address", "I-address"],
        ["O", "B-movie", "I-movie"],
    ]
    scores = score(task, records, predictions)
    assert scores["macro_f1"] == pytest.approx(
        100 * (1 + 0 + 0 + 1) / 4
    )  # organization never predicted, address never there
    assert scores["f1"] == pytest.approx(100 * 2 * 2 / (4 + 4))


def test_tags_are_made_legal_before_they_are_scored():
    task = TASKS["msra_ner"]
    logits = [np.eye(7)[[task.labels.index(tag) for tag in ("I-LOC", "I-LOC", "O", "I-PER")]]]
    assert decode(task, [{}], logits) == [["B-LOC", "I-LOC", "O", "B-PER"]]
    assert score(task, [tagged("北京和张", ["I-LOC", "I-LOC", "O", "I-PER"])], decode(task, [{}], logits)) == {
        "f1": 100
    }


def test_degenerate_is_no_better_than_the_best_constant():
    task = TASKS["rte"]
    records = labelled([task.labels[i % 5 == 0] for i in range(20)])  # 80 % entailment
    gold = [record["label"] for record in records]
    assert is_degenerate(task, records, [task.labels[1]] * 20)
    assert is_degenerate(task, records, [task.labels[0]] * 20)
    assert is_degenerate(task, records, [*gold[:15], *(task.labels[label == task.labels[0]] for label in gold[15:])])
    assert not is_degenerate(task, records, gold)
    assert not is_degenerate(task, records[1:5], gold[1:5]), "one label only: nothing can be told"


def test_degenerate_without_labels_to_choose_from():
    assert is_degenerate(TASKS["stsb"], labelled([1.0, 2, 3]), [2.0] * 3)
    assert not is_degenerate(TASKS["stsb"], labelled([1.0, 2, 3]), [1.0, 2, 2.5])
    questions = [{"context": "甲乙", "answers": [{"text": text}]} for text in "甲乙"]
    assert is_degenerate(TASKS["cmrc2018"], questions, ["", ""])
    assert not is_degenerate(TASKS["cmrc2018"], questions, ["甲", ""])
    sentences = [tagged("张三", ["B-PER", "I-PER"]), tagged("说话了", ["O", "O", "O"])]
    assert is_degenerate(TASKS["msra_ner"], sentences, [["O"] * 2, ["O"] * 3])
    assert not is_degenerate(TASKS["msra_ner"], sentences, [["B-PER", "I-PER"], ["O"] * 3])


@pytest.mark.parametrize("records", [[], [{"label": "positive"}, {"label": None}]])
def test_records_without_labels_are_never_scored(records):
    with pytest.raises(ValueError, match="must have their label"):
        score(TASKS["sst2"], records, ["positive"] * len(records))


def test_predictions_must_match_the_records():
    with pytest.raises(ValueError, match="as many as records, got 3, 2"):
        score(TASKS["sst2"], labelled(["positive"] * 2), ["positive"] * 3)


def test_mnli_is_the_mean_of_its_two_splits():
    merged = merge_splits(
        TASKS["mnli"], {"validation_matched": {"accuracy": 84.0}, "validation_mismatched": {"accuracy": 85.0}}
    )
    assert merged == {"accuracy": 84.5, "accuracy_matched": 84.0, "accuracy_mismatched": 85.0}
    assert merge_splits(TASKS["rte"], {"validation": {"accuracy": 60.0}}) == {"accuracy": 60.0}
