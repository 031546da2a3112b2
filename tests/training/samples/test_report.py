"""--probe_file while training: samples in their file, on the console and in TensorBoard, and no trace in the run."""

import json

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import UserError
from probe_mlm import Probe
from training.loop.logs import read_log
from training.samples.report import SAMPLES

QUESTIONS = "天安[MASK]我爱你\t门\n北京大[MASK]和清[MASK]\n我爱[MASK]\t桥\n[MASK]天\t今\n"
SHAPE = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64,max_position_embeddings=40"
BERT = {"model_type": "bert", "config_overrides": SHAPE}
EVALUATED = {"validation_split": 0.2, "eval_strategy": "steps", "eval_steps": 3, "report_to": "tensorboard"}


@pytest.fixture
def probes(tmp_path):
    (tmp_path / "probes.txt").write_text(QUESTIONS, encoding="utf-8")
    return tmp_path / "probes.txt"


def written(folder):
    return read_log(folder / SAMPLES)


@pytest.mark.parametrize("script", ["mlm", "electra"])
def test_each_evaluation_fills_the_blanks_and_changes_nothing(small_runs, probes, tmp_path, caplog, script):
    small_runs.run(script, tmp_path / "plain", **EVALUATED)
    caplog.set_level("INFO")
    small_runs.run(script, tmp_path / "run", **EVALUATED, probe_file=probes)
    models = ["."] if script == "mlm" else ["generator", "discriminator"]
    for model in models:
        plain, run = (load_file(tmp_path / name / model / "model.safetensors") for name in ("plain", "run"))
        assert all(plain[name].equal(run[name]) for name in plain)
    records = written(tmp_path / "run")
    assert [record["step"] for record in records] == [step for step in (3, 6, 8) for _ in range(4)]
    probe = Probe(str(tmp_path / "run" / models[0]))
    lines = QUESTIONS.splitlines()
    assert [record["text"] for record in records[-4:]] == [line.split("\t")[0] for line in lines]
    assert all(record["filled"].startswith(probe.fill(record["text"], 3)) for record in records[-4:])
    assert "4 samples, probe_accuracy" in caplog.text and f"all in {tmp_path / 'run' / SAMPLES}" in caplog.text
    events = EventAccumulator(str(tmp_path / "run" / "runs")).Reload()
    scalars = [tag for tag in events.Tags()["scalars"] if tag.endswith("probe_accuracy")]
    assert [event.step for event in events.Scalars(scalars[0])] == [3, 6, 8]
    right = ["wanted" not in record["filled"] for record in records[-4:]]
    assert events.Scalars(scalars[0])[-1].value == pytest.approx((right[0] + right[2] + right[3]) / 3)
    (tag,) = [tag for tag in events.Tags()["tensors"] if "samples" in tag]
    text = events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    assert "天安[" in text and text.count("\n| ") == 4


@pytest.mark.parametrize("model", [{}, BERT], ids=["gau_alpha", "bert"])
def test_without_held_out_rows_samples_come_with_the_loss_and_go_on_after_a_stop(small_runs, probes, tmp_path, model):
    options, out = model | {"probe_file": probes, "logging_steps": 2}, tmp_path / "run"
    small_runs.run("mlm", out, **options)
    whole = written(out)
    assert sorted({record["step"] for record in whole}) == [2, 4, 6, 8]
    for folder in out.glob("checkpoint-[68]"):
        folder.rename(tmp_path / folder.name)
    record = json.loads((out / "run.json").read_text())
    del record["finished"]
    (out / "run.json").write_text(json.dumps(record))
    small_runs.run("mlm", out, **options)
    assert written(out) == whole


def test_beginnings_are_continued_as_they_would_be_later(small_runs, tmp_path, caplog):
    file = tmp_path / "prompts.txt"
    file.write_text("北京\n\n天安门我\n", encoding="utf-8")
    caplog.set_level("INFO")
    options = EVALUATED | {"report_to": "none"}
    small_runs.run("clm", tmp_path / "plain", **options)
    small_runs.run("clm", tmp_path / "run", **options, probe_file=file)
    plain, run = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "run"))
    assert all(plain[name].equal(run[name]) for name in plain)
    records = written(tmp_path / "run")
    assert [record["step"] for record in records] == [3, 3, 6, 6, 8, 8]
    assert [record["prompt"] for record in records[:2]] == ["北京", "天安门我"]
    assert all(record["text"].startswith(record["prompt"]) for record in records)
    assert len({record["text"] for record in records}) > 3 and "2 samples\n  北京" in caplog.text


TRAINED = {"do_train": "false", "do_eval": True, "model_name_or_path": "nowhere", "config_overrides": ""}


@pytest.mark.parametrize(
    "script, options, line",
    [
        ("mlm", TRAINED, "--probe_file needs --do_train; ask a finished model with probe_mlm.py"),
        ("clm", TRAINED, "--probe_file needs --do_train; ask a finished model with generate_text.py"),
        ("electra", {"uniform_generator": True}, "--probe_file asks the generator, which --uniform_generator leaves"),
        ("mlm", {"probe_file": "nowhere"}, "--probe_file must name a file, got 'nowhere'"),
        ("clm", {"probe_file": "nowhere"}, "--probe_file must name a file, got 'nowhere'"),
        ("mlm", {"text": "北京"}, r"--probe_file .* line 1 must hold a text with \[MASK\]"),
        ("mlm", {"text": ""}, r"--probe_file .* must hold a text with \[MASK\], got none"),
        ("clm", {"text": ""}, "--probe_file must hold at least one prompt"),
        ("mlm", BERT | {"text": "北" * 40 + "[MASK]"}, "--probe_file .* line 1 must have at most 40 tokens"),
    ],
)
def test_what_cannot_be_asked_is_told_before_a_folder_is_touched(small_runs, probes, tmp_path, script, options, line):
    options = {"probe_file": probes, "validation_split": 0.2} | options
    if "text" in options:
        probes.write_text(options.pop("text"), encoding="utf-8")
    with pytest.raises(UserError, match=line):
        small_runs.run(script, tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/*"))
