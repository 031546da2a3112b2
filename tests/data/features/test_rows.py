"""Rows of features: what they hold, windows of one record averaged, what is refused."""

import numpy as np
import pytest

from data.features.build import TaskCollator, combine
from data.tasks.task import Task

PAIR = Task("pair", "classification", ("accuracy",), labels=("no", "yes"))
SINGLE = {"id": 0, "text_b": None, "label": "yes"}


def test_models_without_token_types_get_none(tokenizers, make):
    records = [SINGLE | {"text_a": text} for text in ("好", "今天")]
    features = make(PAIR, records, tokenizers["bert"], 20, token_types=False)
    assert "token_type_ids" not in features[0]
    assert "token_type_ids" not in TaskCollator("classification", 0)(features.rows([0, 1]))


def test_logits_of_windows_are_averaged(tokenizers, caplog, make):
    records = [SINGLE | {"text_a": "好" * length} for length in (3, 30, 8, 21)]
    whole = make(PAIR, records, tokenizers["bert"], 12)
    assert whole.record.tolist() == [0, 1, 1, 1, 2, 3, 3, 3] and whole.truncated == 0.5
    assert whole.lengths.tolist() == [5, 12, 12, 12, 10, 12, 12, 12]
    logits = np.random.default_rng(0).normal(size=(8, 2))
    means = combine(whole, logits)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, [logits[rows].mean(0) for rows in ([0], [1, 2, 3], [4], [5, 6, 7])], rtol=1e-6)
    assert not caplog.records
    assert len(make(PAIR, records, tokenizers["bert"], 12, long_rows="truncate")) == 4
    assert "50.0 % of the rows are longer than 12 tokens" in caplog.text
    scores = Task("score", "regression", ())
    numbered = make(scores, [record | {"label": 2.5} for record in records], tokenizers["bert"], 12)
    np.testing.assert_allclose(combine(numbered, logits[:, :1])[1], logits[1:4, 0].mean(), rtol=1e-6)


def test_a_bad_length_label_or_number_of_logits_is_refused(tokenizers, make):
    records = [SINGLE | {"text_a": "好", "label": label} for label in ("yes", "maybe", None)]
    for chosen, length, training, message in (
        (records[:1], 4, False, "--max_seq_length must be at least 5, got 4"),
        (records[:2], 20, True, "label maybe must be one that the model knows, no, yes"),
        (records[2:], 20, True, "record 0 of pair must have a label to train on"),
    ):
        with pytest.raises(ValueError, match=message):
            make(PAIR, chosen, tokenizers["bert"], length, training=training)
    features = make(PAIR, [records[0], records[2]], tokenizers["bert"], 20)
    assert "labels" not in features[0]
    with pytest.raises(ValueError, match="all 2 rows, got 1"):
        combine(features, [np.zeros(2)])


def test_labels_follow_the_numbers_of_the_model(tokenizers, make):
    records = [SINGLE | {"text_a": "好", "label": label} for label in ("yes", "no")]
    rows = make(PAIR, records, tokenizers["bert"], 20, label_ids={"yes": 0, "other": 1, "no": 2})
    assert [row["labels"] for row in rows] == [0, 2]
