"""Labels of a model and of a task are matched by name."""

import pytest

from common.errors import ArgumentError
from training.finetune.label_names import label_numbers

NLI = ("entailment", "neutral", "contradiction")
ORDERS = {0: "CONTRADICTION", 1: "neutral", 2: "Entailment"}


def test_names_are_compared_without_regard_to_case():
    assert label_numbers(NLI, ORDERS, None, "m") == {"entailment": 2, "neutral": 1, "contradiction": 0}


def test_a_typed_order_stands_for_the_models_names():
    wanted = {"entailment": 1, "neutral": 0, "contradiction": 2}
    for names in (ORDERS, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}):
        assert label_numbers(NLI, names, "neutral, entailment,contradiction", "m") == wanted


@pytest.mark.parametrize(
    "names, order, message",
    [
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, None,
         "--model m must name its labels, got LABEL_0 to LABEL_2.*--label_order entailment,neutral,contradiction"),
        ({0: "label_0", 1: "label_1"}, None, "must name its labels"),
        ({0: "negative", 1: "positive", 2: "neutral"}, None, "--model m must have the labels entailment, neutral"),
        ({0: "entailment", 1: "neutral"}, None, "must have the labels"),
        (ORDERS, "entailment,neutral", "--label_order entailment,neutral must name each of the 3 outputs of m, got 2"),
        (ORDERS, "entailment,neutral,neutral", "--label_order entailment,neutral,neutral must have the labels"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused(names, order, message):
    with pytest.raises(ArgumentError, match=message):
        label_numbers(NLI, names, order, "m")
