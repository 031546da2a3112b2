"""Batches of task rows, in training and at evaluation, and the order of their outputs."""

from itertools import islice

import numpy as np
import pytest
import torch

from data.features.build import TaskCollator, combine, in_order, make_eval_batches, make_train_batches
from data.tasks.task import Task

PAIR = Task("pair", "classification", ("accuracy",), labels=("no", "yes"))
SINGLE = {"id": 0, "text_b": None, "label": "yes"}
REVIEWS = [SINGLE | {"text_a": "好" * length} for length in np.random.default_rng(3).integers(1, 60, 103)]


def test_training_batches_are_a_function_of_the_seed_and_hold_rows_of_like_length(tokenizers, make):
    features = make(PAIR, REVIEWS, tokenizers["bert"], 64, training=True)

    def batches(micro=8, accumulation=1, processes=1, process=0, seed=1):
        return make_train_batches(features, micro, accumulation, processes, process, steps=13, seed=seed)

    def flat(batches):
        return sorted(pair for batch in batches for pair in batch)

    first = list(islice(batches(), 12))  # as many whole steps as an epoch has
    assert first == list(islice(batches(), 12)) != list(islice(batches(seed=2), 12))
    assert len({row for _, row in flat(first)}) == 96  # nothing comes twice before everything has come
    padding = 1 - sum(features.lengths[row] for _, row in flat(first)) / sum(
        8 * max(features.lengths[row] for _, row in batch) for batch in first
    )
    assert padding < 0.1
    shared = [batch for process in (0, 1) for batch in islice(batches(4, 1, 2, process), 12)]
    assert flat(shared) == flat(first) == flat(islice(batches(4, 2), 24))


def test_a_tiny_training_set_is_never_sorted_over_epochs(tokenizers, make):
    features = make(PAIR, REVIEWS[:32], tokenizers["bert"], 64, training=True)
    rows = [row for batch in islice(make_train_batches(features, 8, 1, 1, 0, steps=8, seed=0), 8) for _, row in batch]
    assert sorted(rows[:32]) == sorted(rows[32:]) == list(range(32))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_gives_every_row_once_in_order_for_any_number_of_processes(tokenizers, processes, make):
    features = make(PAIR, REVIEWS, tokenizers["bert"], 32)
    assert len(features) > len(REVIEWS)
    indices, outputs = [], []
    for process in range(processes):
        for batch in make_eval_batches(features, 8, processes, process):
            rows = [row for _, row in batch]
            indices += rows
            outputs += list(
                TaskCollator("classification", 0)(features.rows(rows))["input_ids"].sum(1, keepdim=True).numpy()
            )
    expected_sums = [[row["input_ids"].sum()] for row in features]
    assert in_order(features, indices, outputs) == expected_sums
    assert len(combine(features, in_order(features, indices, outputs))) == len(REVIEWS)
    for wrong in (indices + indices[:1], indices[1:], indices[1:] + indices[1:2]):
        with pytest.raises(ValueError, match="must have one output"):
            in_order(features, wrong, [0] * len(wrong))


def test_float_labels_and_padding_have_the_types_of_the_model(tokenizers, make):
    records = [SINGLE | {"text_a": "好" * length, "label": float(length)} for length in (1, 3)]
    batch = TaskCollator("regression", 7, 8)(
        make(Task("score", "regression", ()), records, tokenizers["bert"], 64).rows([1, 0])
    )
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [3.0, 1.0]
    assert batch["input_ids"].shape == (2, 8) and batch["input_ids"][1, 3:].tolist() == [7] * 5
    assert batch["attention_mask"].sum(1).tolist() == [5, 3] and not batch["token_type_ids"].any()
