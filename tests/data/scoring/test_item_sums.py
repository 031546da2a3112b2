import json
import random

import numpy as np
import pytest

from data.scoring.item_sums import item_sums
from data.scoring.metrics import merge_splits, score
from data.scoring.predictions import write_predictions
from data.tasks.table import find_task


def invented(task, count, rng):
    """Records and predictions of a task, right about half of the time."""
    records, predictions = [], []
    for number in range(count):
        record = {"id": str(number)}
        if task.kind == "classification":
            record["label"] = rng.choice(task.labels)
            predictions.append(record["label"] if rng.random() < 0.4 else rng.choice(task.labels))
        elif task.kind == "regression":
            record["label"] = 5 * rng.random()
            predictions.append((record["label"] + 5 * rng.random()) / 2)
        elif task.kind == "multiple_choice":
            record["label"] = rng.randrange(4)
            predictions.append(rng.randrange(4))
        elif task.kind == "question_answering":
            answers = ["北京的秋天", "秋天", "1998年"]
            record["answers"] = [{"text": text, "start": 0} for text in rng.sample(answers, 2)]
            predictions.append(rng.choice([*answers, "", "北京"]))
        else:
            length = rng.randrange(1, 12)
            record["chars"] = [rng.choice("甲乙丙") for _ in range(length)]
            record["tags"] = tags(task, length, rng)
            predictions.append(tags(task, length, rng) if rng.random() < 0.6 else record["tags"])
        records.append(record)
    return records, predictions


def tags(task, length, rng):
    kinds = sorted({label[2:] for label in task.labels if label != "O"})[:3]  # the others are never there
    tags = []
    while len(tags) < length:
        kind = rng.choice(kinds)
        tags += rng.choice([["O"], ["O", "O"], [f"B-{kind}"], [f"B-{kind}", f"I-{kind}"]])
    return tags[:length]


@pytest.mark.parametrize(
    "name", ["cola", "sst2", "smp2020-ewect-usual", "stsb", "mrpc", "iflytek", "c3", "cmrc2018", "cluener", "msra_ner"]
)
def test_the_metric_of_the_sums_is_the_score(tmp_path, name):
    task, rng = find_task(name), random.Random(name)
    records, predictions = invented(task, 60, rng)
    write_predictions(tmp_path / "eval_preds.jsonl", task, records, predictions)
    items = item_sums(task, tmp_path / "eval_preds.jsonl")
    wanted = score(task, records, predictions)[task.metrics[0]]
    assert items.metric(items.sums.sum(0)) == pytest.approx(wanted, abs=1e-9)
    assert 0 < abs(wanted) < 100
    assert (items.hits is not None) == (task.metrics[0] == "accuracy")
    assert items.keys[3] == ("test", "3")
    chosen = [rng.randrange(60) for _ in range(60)]  # a resampled set
    wanted = score(task, [records[i] for i in chosen], [predictions[i] for i in chosen])[task.metrics[0]]
    batch = np.stack([items.sums[chosen].sum(0)] * 2)
    assert items.metric(batch) == pytest.approx([wanted] * 2, abs=1e-9)


def test_a_constant_prediction_has_no_correlation(tmp_path):
    for name, label, guess in (("cola", "acceptable", "acceptable"), ("stsb", 2.5, 3.0)):
        task = find_task(name)
        records = [{"id": str(i), "label": label if i else task.labels[0] if task.labels else 1.0} for i in range(4)]
        write_predictions(tmp_path / name, task, records, [guess] * 4)
        items = item_sums(task, tmp_path / name)
        assert items.metric(items.sums.sum(0)) == pytest.approx(0, abs=1e-6)


def test_several_splits_count_alike(tmp_path):
    task, rng = find_task("mnli"), random.Random(1)
    parts = {"validation_matched": invented(task, 30, rng), "validation_mismatched": invented(task, 50, rng)}
    records = [record for part, _ in parts.values() for record in part]
    predictions = [prediction for _, part in parts.values() for prediction in part]
    splits = [split for split, (part, _) in parts.items() for _ in part]
    write_predictions(tmp_path / "eval_preds.jsonl", task, records, predictions, splits)
    items = item_sums(task, tmp_path / "eval_preds.jsonl")
    wanted = merge_splits(task, {split: score(task, *part) for split, part in parts.items()})["accuracy"]
    assert items.metric(items.sums.sum(0)) == pytest.approx(wanted)
    assert len(set(items.keys)) == 80
    assert items.hits.sum() == sum(r["label"] == p for r, p in zip(records, predictions, strict=True))


def test_a_metric_that_is_no_sum_is_named(tmp_path):
    task = find_task("stsb")
    task = type(task)(**{**vars(task), "metrics": ("spearman",)})
    (tmp_path / "eval_preds.jsonl").write_text(json.dumps({"split": "v", "id": "1", "prediction": 1.0, "label": 2.0}))
    with pytest.raises(
        ValueError, match="stsb: the primary metric must be a function of sums over items, got spearman"
    ):
        item_sums(task, tmp_path / "eval_preds.jsonl")
