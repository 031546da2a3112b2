"""run_glue.py on one's own files: rows of several labels, unlabelled files, predictions with text and probability."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, pipeline

import run_glue
from common.errors import ArgumentError
from data.tasks.task import TaskError

CHARACTERS = {"north": "北", "sky": "天", "life": "生"}


def rows(count, labelled=True):
    for number in range(count):
        names = [name for place, name in enumerate(CHARACTERS) if number >> place & 1]
        text = "".join(CHARACTERS[name] for name in names) + "我爱你"
        yield {"text": text} | ({"labels": names} if labelled else {})


def write(file, records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


@pytest.fixture
def run(small_runs, tmp_path):
    """(**flags) -> (folder of the job, result) of a run on files of several labels."""

    def train(**changes):
        data = write(tmp_path / "rows.jsonl", rows(48))
        flags = {"kind": "multi_label", "train_file": data, "validation_file": data, "device": "cpu", "epochs": 20}
        flags |= {"model": small_runs.folder / "encoder", "lr": 1e-2, "batch_size": 16, "output_dir": tmp_path / "out"}
        pairs = [(name, value) for name, value in (flags | changes).items() if value is not None]
        words = [str(word) for name, value in pairs for word in ((f"--{name}", value)[: 1 if value is True else 2])]
        (result,) = run_glue.main(words)
        (file,) = (tmp_path / changes.get("output_dir", "out")).glob("adhoc/*/seed42/result.json")
        return file.parent, result

    return train


def predictions(folder, name):
    return [json.loads(line) for line in (folder / f"{name}_preds.jsonl").read_text(encoding="utf-8").splitlines()]


def test_several_labels_are_learned_scored_and_predicted_for_a_file_without_labels(run, tmp_path):
    folder, result = run(pooling="mean", dropout=0)
    assert result["metrics"].keys() >= {"micro_f1", "macro_f1", "accuracy"}
    assert result["metrics"]["micro_f1"] > 95
    assert AutoConfig.from_pretrained(folder / "best").problem_type == "multi_label_classification"
    lines = predictions(folder, "eval")
    assert lines[0]["text_a"] == "我爱你"
    assert lines[0]["label"] == []
    unlabelled = write(tmp_path / "new.jsonl", rows(16, labelled=False))
    files = {"train_file": None, "validation_file": None, "test_file": unlabelled, "model": folder / "best"}
    again, _ = run(**files, do_predict=True, output_dir=tmp_path / "again")
    lines = predictions(again, "test")
    assert [line["text_a"] for line in lines] == [row["text"] for row in rows(16)]
    assert all("label" not in line for line in lines)
    right = [set(line["prediction"]) == set(row["labels"]) for line, row in zip(lines, rows(16), strict=True)]
    assert np.mean(right) > 0.9
    for line in lines:
        assert set(line["prediction"]) == {name for name, share in line["probability"].items() if share > 0.5}
    said = pipeline("text-classification", str(folder / "best"), top_k=None)([lines[3]["text_a"]])[0]
    told = {entry["label"]: entry["score"] for entry in said}
    assert told == pytest.approx(lines[3]["probability"], abs=1e-5)


def test_predictions_of_one_label_have_its_text_and_probability(run, tmp_path):
    records = [
        {"sentence1": row["text"], "sentence2": "天", "label": row["labels"][0]} for row in rows(24) if row["labels"]
    ]
    data = write(tmp_path / "pairs.jsonl", records)
    folder, _ = run(kind="classification", train_file=data, validation_file=data, epochs=2)
    logits = torch.from_numpy(np.load(folder / "eval_preds.logits.npy"))
    for line, record, row in zip(predictions(folder, "eval"), records, logits, strict=True):
        assert (line["text_a"], line["text_b"]) == (record["sentence1"], "天")
        assert line["probability"] == pytest.approx(row.softmax(-1).max().item(), abs=1e-5)


def test_a_model_of_one_label_does_not_predict_several(run, tmp_path):
    data = write(
        tmp_path / "one.jsonl", [{"text": row["text"], "label": str(bool(row["labels"]))} for row in rows(16)]
    )
    folder, _ = run(kind="classification", train_file=data, validation_file=None, epochs=1)
    with pytest.raises(ArgumentError, match="must have a head for a task of multi_label"):
        files = {"train_file": None, "validation_file": None, "test_file": tmp_path / "rows.jsonl"}
        run(**files, model=folder / "best", do_predict=True, output_dir=tmp_path / "again")


@pytest.mark.parametrize(
    ("line", "flags", "wrong"),
    [
        ({"text": "a", "labels": {"x": 1}}, {}, r"jsonl:49: label must be a list of labels"),
        ({"text": "a", "labels": "['x"}, {}, r"jsonl:49: label must be a list of labels"),
        ({"text": "a", "labels": [["x"]]}, {}, r"jsonl:49: label must be a list of labels"),
        ({"text": "a", "labels": ["north"]}, {"label_smoothing": 0.1}, "label_smoothing_factor has no meaning"),
        ({"text": "a", "labels": ["north"]}, {"class_weights": "balanced"}, "class_weights has no meaning"),
    ],
)
def test_what_cannot_be_several_labels_is_one_line(run, tmp_path, line, flags, wrong):
    data = write(tmp_path / "bad.jsonl", [*rows(48), line])
    with pytest.raises((ArgumentError, TaskError), match=wrong) as error:
        run(train_file=data, **flags)
    assert "\n" not in str(error.value)
