"""Means over a board say what they are made of."""

import pytest

from data.scoring.boards import average

GLUE = {
    "cola": {"mcc": 50.0, "accuracy": 80.0},
    "sst2": {"accuracy": 90.0},
    "mrpc": {"accuracy": 80.0, "f1": 90.0},
    "stsb": {"pearson": 80.0, "spearman": 70.0},
    "qqp": {"accuracy": 90.0, "f1": 80.0},
    "mnli": {"accuracy": 84.5, "accuracy_matched": 84.0, "accuracy_mismatched": 85.0},
    "qnli": {"accuracy": 90.0},
    "rte": {"accuracy": 60.0},
    "wnli": {"accuracy": 56.0},
    "ax": {"mcc": 30.0},
}


def test_glue_averages_metrics_first_then_nine_tasks():
    result = average("glue", GLUE)
    assert result.mean == pytest.approx((50 + 90 + 85 + 75 + 85 + 84.5 + 90 + 60 + 56) / 9)
    assert not result.missing
    assert result.formed_by["mrpc"] == ("accuracy", "f1")
    assert "ax" not in result.tasks, "the diagnostic set does not count"


def test_papers_take_accuracy_spearman_and_often_no_wnli():
    result = average("glue8", GLUE, papers=True)
    assert result.mean == pytest.approx((50 + 90 + 80 + 70 + 90 + 84.5 + 90 + 60) / 8)
    assert (result.formed_by["mrpc"], result.formed_by["stsb"]) == (("accuracy",), ("spearman",))
    assert result.board == "glue8 as in papers"


def test_an_average_says_which_tasks_are_missing():
    result = average("clue11", {"cmrc2018": {"em": 60.0, "f1": 80.0}, "afqmc": {"accuracy": 70.0}})
    assert result.mean == pytest.approx(65)
    assert result.harmonic_mean == pytest.approx(2 / (1 / 60 + 1 / 70))
    assert {"tnews", "ocnli", "chid", "c3"} <= set(result.missing)
    assert "cmnli" not in result.missing
    assert average("glue", {"afqmc": {"accuracy": 70.0}}) is None
