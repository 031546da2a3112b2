"""Labels of a model and of a task are matched by name."""

import pytest

from common.errors import ArgumentError
from training.finetune.task_model import match_labels

NLI = ("entailment", "neutral", "contradiction")
ORDERS = {0: "CONTRADICTION", 1: "neutral", 2: "Entailment"}


def test_names_are_compared_without_regard_to_case():
    assert match_labels(NLI, ORDERS, None, "m") == {"entailment": 2, "neutral": 1, "contradiction": 0}


def test_a_typed_order_stands_for_the_models_names():
    wanted = {"entailment": 1, "neutral": 0, "contradiction": 2}
    for names in (ORDERS, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}):
        assert match_labels(NLI, names, "neutral, entailment,contradiction", "m") == wanted


NAMELESS = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
OTHERS = {0: "negative", 1: "positive", 2: "neutral"}
ADVICE = "--label_order entailment,neutral,contradiction"
TWICE = "entailment,neutral,neutral"


@pytest.mark.parametrize(
    "names, order, message",
    [
        (NAMELESS, None, f"--model_name_or_path m must name its labels, got LABEL_0 to LABEL_2.*{ADVICE}"),
        ({0: "label_0", 1: "label_1"}, None, "must name its labels"),
        (OTHERS, None, "--model_name_or_path m must have the labels entailment, neutral"),
        ({0: "entailment", 1: "neutral"}, None, "must have the labels"),
        (ORDERS, "entailment,neutral", "--label_order entailment,neutral must name each of the 3 outputs of m, got 2"),
        (ORDERS, TWICE, f"--label_order {TWICE} must have the labels"),
    ],
)
def test_what_cannot_be_matched_is_refused(names, order, message):
    with pytest.raises(ArgumentError, match=message):
        match_labels(NLI, names, order, "m")
