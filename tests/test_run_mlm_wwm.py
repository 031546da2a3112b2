"""run_mlm_wwm.py: the seed command, exact normalisation, exact resumption, safe output folders, clear errors."""

import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import run_mlm_wwm
from benchmarks.learning import quickstart_baseline
from common.errors import ArgumentError
from data.batches.masking import make_eval_collator
from data.corpus.arrow_shards import CorpusError
from tests.processes import run_together
from tests.runs import as_before_checksums, assert_close_runs, assert_same_run, curve, killed_in, read_log, weights
from training.arguments import ModelArguments, RunArguments
from training.loop.extension import Extension
from training.loop.trainer import Trainer
from training.model_setup import make_config
from training.pretrained import entry_count, load_config, load_tokenizer

ROOT = Path(__file__).parents[1]
SHAPE = "hidden_size=32,intermediate_size=64,num_hidden_layers=2,attention_key_size=16"
NO_DROPOUT = SHAPE + ",hidden_dropout_prob=0,attention_probs_dropout_prob=0"


@pytest.fixture
def flags(prepared, tmp_path):
    """(flag=value, ...) -> the arguments of a tiny run into tmp_path/run; True is a bare flag, None leaves one out."""

    def make(**changes):
        tokenizer, corpus = prepared
        values = {"do_train": True, "tokenizer_name": tokenizer, "train_dir": corpus, "output_dir": tmp_path / "run"}
        values |= {"config_overrides": SHAPE, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "seed": 1234}
        values |= {"max_steps": 12, "logging_steps": 5, "save_steps": 4, "report_to": "none"} | changes
        pairs = [(name, value) for name, value in values.items() if value is not None]
        return [
            word for name, value in pairs for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
        ]

    return make


# The commands


def test_the_seed_command_trains_and_logs(flags, tmp_path, caplog, monkeypatch, prepared):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(prepared[0], "junnyu/roformer_chinese_char_base")
    run_mlm_wwm.main(
        flags(
            tokenizer_name="junnyu/roformer_chinese_char_base",
            logging_dir=tmp_path / "logs",
            gradient_accumulation_steps=4,
            weight_decay=0.01,
            adam_epsilon=1e-6,
            max_steps=20,
            warmup_steps=2,
            max_grad_norm=3.0,
            dataloader_num_workers=2,
            fp16=True,
            overwrite_output_dir=True,
            report_to=None,
            validation_split=0.2,
        )
    )
    records = read_log(tmp_path / "run")
    training, evaluation = [r for r in records if "loss" in r], [r for r in records if "eval_loss" in r]
    assert training[-1]["loss"] < training[0]["loss"] - 0.3
    wanted = {"step", "loss", "mlm_accuracy", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "tokens_seen"}
    assert wanted <= training[0].keys()
    accuracies = {"eval_mlm_accuracy", "eval_mlm_hidden_accuracy"}
    assert {"eval_loss", "eval_perplexity"} | accuracies <= evaluation[-1].keys()
    assert all(0 <= record["mlm_hidden_accuracy"] <= 1 for record in training)
    assert list((tmp_path / "logs").glob("events*"))
    assert caplog.text.count("--fp16 has no use on a CPU") == 1
    line = next(message for message in caplog.messages if message.startswith("step 5/20"))
    assert all(
        word in line
        for word in ("loss", "accuracy", "of hidden tokens", "lr", "grad norm", "tokens/s", "MFU", "tokens seen")
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model_type"] == "gau_alpha" and config["architectures"] == ["GAUAlphaForMaskedLM"]


def test_without_model_flags_it_is_gau_alpha_of_24_layers(prepared):
    model_args = ModelArguments(tokenizer_name=str(prepared[0]))
    tokenizer = load_tokenizer(model_args.tokenizer_name, "--tokenizer_name")
    config = make_config(model_args, tokenizer)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("gau_alpha", 24, 768)
    assert config.vocab_size == len(tokenizer)


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_file_of_flags_does_the_same(flags, tmp_path, kind):
    words = flags(max_steps=2)
    values = {"do_train": True}
    for name, value in zip(words[1::2], words[2::2], strict=True):
        values[name[2:]] = value
    file = tmp_path / f"flags.{kind}"
    file.write_text(json.dumps(values) if kind == "json" else yaml.safe_dump(values))
    run_mlm_wwm.main([str(file)])
    assert curve(tmp_path / "run")[-1]["step"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {
            "model_type": "flash_quad",
            "config_overrides": "hidden_size=32,num_hidden_layers=2,s=16",
            "unigram_bias": True,
            "count_embeddings": True,
        },
        {
            "model_type": "flash",
            "config_overrides": "hidden_size=32,num_hidden_layers=2,query_key_dim=16,group_size=16",
        },
        {"model_type": "bert", "config_overrides": "hidden_size=32,num_hidden_layers=2,num_attention_heads=2"},
        {"group_by_length": True, "gradient_accumulation_steps": 2, "gradient_checkpointing": True},
        {"optimizer": "muon", "replace_by_word": True, "mask_share": 0.7, "random_share": 0.15, "bf16": True},
        {"max_steps": None, "num_train_epochs": 1, "evaluation_strategy": "epoch", "warmup_ratio": 0.1},
    ],
    ids=lambda changes: changes.get("model_type", next(iter(changes))),
)
def test_every_kind_of_run_learns(flags, tmp_path, changes):
    metrics = run_mlm_wwm.main(flags(validation_split=0.2, logging_steps=4, **changes))
    losses = [record["loss"] for record in read_log(tmp_path / "run") if "loss" in record]
    assert losses[-1] < losses[0] and metrics["eval_loss"] < 5
    if changes.get("model_type") == "flash":
        assert json.loads((tmp_path / "run/config.json").read_text())["linear_divisor"] == "valid"


def test_training_continues_from_a_model_and_evaluates_without_training(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run_mlm_wwm.main(flags(validation_split=0.2))
    again = {"model_name_or_path": tmp_path / "run", "config_overrides": None, "validation_split": 0.2}
    second = run_mlm_wwm.main(flags(**again, output_dir=tmp_path / "second"))
    assert second["eval_loss"] < first["eval_loss"]
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    alone = run_mlm_wwm.main(flags(**again, do_train=None, do_eval=True, output_dir=None))
    assert alone["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-6)
    assert json.loads(capsys.readouterr().out) == alone
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["gau_alpha", "flash_quad", "flash"])
def test_a_published_folder_trains_on_and_resumes_exactly(flags, tmp_path, published, write_corpus, name):
    folder = published(name)
    changes = {"model_name_or_path": folder, "tokenizer_name": folder, "config_overrides": None, "max_steps": 6}
    changes |= {"train_dir": write_corpus(tmp_path / "corpus", folder), "learning_rate": 1e-3}
    run_mlm_wwm.main(flags(output_dir=tmp_path / "whole", **changes))
    with killed_in(6):
        run_mlm_wwm.main(flags(**changes))
    run_mlm_wwm.main(flags(**changes))
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_published_flash_folders_get_the_divisor_they_were_trained_with(published, tmp_path):
    folder = published("flash")
    config = load_config(str(folder), "--model_name_or_path")
    assert config.linear_divisor == "max_position"
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"linear_divisor": "valid"}))
    assert load_config(str(folder), "--model_name_or_path").linear_divisor == "valid"


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_training_is_the_same_run_under_the_same_names(flags, tmp_path, backend):
    torch.compiler.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    changes = {"config_overrides": NO_DROPOUT, "max_steps": 5, "logging_steps": 1, "save_steps": 2}
    changes |= {"validation_split": 0.2, "learning_rate": 1e-3}
    run_mlm_wwm.main(flags(output_dir=tmp_path / "plain", **changes))
    changes |= {"torch_compile_backend": backend}
    with killed_in(5):
        run_mlm_wwm.main(flags(**changes))
    assert 4 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 8
    run_mlm_wwm.main(flags(**changes))
    assert_close_runs(tmp_path / "plain", tmp_path / "run", rel=1e-4, atol=1e-4)
    states = [load_file(tmp_path / run / "checkpoint-4/model.safetensors") for run in ("plain", "run")]
    assert states[0].keys() == states[1].keys()


# Exact sums


def gradient_run(flags, folder, micro, accumulation):
    """Flags of a run whose weights are its gradients: plain SGD with a rate of 1."""
    return flags(
        output_dir=folder,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        config_overrides=NO_DROPOUT,
        optim="sgd",
        learning_rate=1,
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        max_steps=2,
        logging_steps=1,
        validation_split=0.2,
    )


def test_accumulation_changes_neither_loss_nor_gradient(flags, tmp_path):
    run_mlm_wwm.main(gradient_run(flags, tmp_path / "8x1", 8, 1))
    run_mlm_wwm.main(gradient_run(flags, tmp_path / "2x4", 2, 4))
    assert_close_runs(tmp_path / "8x1", tmp_path / "2x4")


def test_processes_change_neither_loss_nor_gradient_nor_evaluation(flags, tmp_path):
    run_mlm_wwm.main(gradient_run(flags, tmp_path / "8x1", 8, 1))
    words = [*gradient_run(flags, tmp_path / "2 processes", 2, 2), "--use_cpu"]
    run_together(ROOT / "run_mlm_wwm.py", words, tmp_path)
    started = json.loads((tmp_path / "2 processes" / "run.json").read_text())
    assert started["processes"] == 2
    assert_close_runs(tmp_path / "8x1", tmp_path / "2 processes")


def test_gradient_checkpointing_changes_nothing(flags, tmp_path):
    run_mlm_wwm.main(gradient_run(flags, tmp_path / "plain", 8, 1))
    run_mlm_wwm.main([*gradient_run(flags, tmp_path / "saving", 8, 1), "--gradient_checkpointing"])
    assert_close_runs(tmp_path / "plain", tmp_path / "saving")


RECIPES = (
    {"seed": 2},
    {"mlm_probability": 0.4},
    {"mask_share": 0.5, "random_share": 0.3},
    {"mask_unit": "token"},
    {"replace_by_word": True},
    {"packing": "concat"},
)


def test_what_a_checkpoint_is_measured_by_does_not_depend_on_the_training(flags, tmp_path):
    """Nor on the batch and the processes, but for the order of sums; flags of its own change it."""
    run_mlm_wwm.main(flags(validation_split=0.2))
    alone = {"model_name_or_path": tmp_path / "run", "config_overrides": None, "do_train": None, "do_eval": True}
    alone |= {"validation_split": 0.2, "per_device_eval_batch_size": 3, "output_dir": None}
    first = run_mlm_wwm.main(flags(**alone))
    assert {"eval_loss", "eval_mlm_accuracy", "eval_mlm_hidden_accuracy"} <= first.keys()
    for recipe in RECIPES:
        assert run_mlm_wwm.main(flags(**alone | recipe)) == first, recipe
    accuracies = {name: value for name, value in first.items() if "accuracy" in name}
    words = [*flags(**alone | {"per_device_eval_batch_size": 4} | RECIPES[1]), "--use_cpu"]
    several = json.loads(run_together(ROOT / "run_mlm_wwm.py", words, tmp_path))
    for numbers in (several, run_mlm_wwm.main(flags(**alone | {"per_device_eval_batch_size": 16}))):
        assert numbers | accuracies == numbers and numbers == pytest.approx(first, rel=1e-6)
    for name, value in (("mlm_probability", 0.4), ("mask_share", 0.5), ("random_share", 0), ("mask_unit", "token")):
        other = run_mlm_wwm.main(flags(**alone | {f"eval_{name}": value}))
        assert abs(other["eval_loss"] / first["eval_loss"] - 1) > 1e-5, name


def test_the_quickstarts_baseline_is_measured_by_the_same_masks(prepared):
    tokenizer = load_tokenizer(str(prepared[0]), "--tokenizer_name")
    data_args = run_mlm_wwm.DataArguments()
    options = run_mlm_wwm.eval_masking_options(data_args)
    assert data_args.eval_mask_unit == "word" and quickstart_baseline.eval_collator(tokenizer) == make_eval_collator(
        tokenizer, entry_count(tokenizer), data_args.eval_mask_unit, 1, **options
    )


# Resumption


HELD_OUT = {"validation_split": 0.2, "eval_strategy": "steps", "eval_steps": 3}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(flags function, changes) -> the folder of an uninterrupted run with these flags, made once."""
    folders = {}

    def run(flags, **changes):
        key = json.dumps(changes)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("undisturbed") / "run"
            run_mlm_wwm.main(flags(output_dir=folders[key], **changes))
        return folders[key]

    return run


KILLED = [(Trainer, "_save_scaler", 2), (Extension, "add_to_checkpoint", 1), (Trainer, "training_step", 8)]


@pytest.mark.parametrize("owner, method, call", KILLED)
def test_a_killed_run_ends_like_an_undisturbed_one(flags, tmp_path, undisturbed, owner, method, call):
    with killed_in(call, method, owner):
        run_mlm_wwm.main(flags(**HELD_OUT))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "as before, though it raised"
    partial = list((tmp_path / "run").glob("incomplete-*"))
    assert bool(partial) == (method != "training_step")
    run_mlm_wwm.main(flags(**HELD_OUT))
    assert not list((tmp_path / "run").glob("incomplete-*"))
    assert_same_run(undisturbed(flags, **HELD_OUT), tmp_path / "run")


def test_muon_workers_and_grouping_resume_exactly(flags, tmp_path):
    changes = {"optimizer": "muon", "group_by_length": True, "gradient_accumulation_steps": 2, "max_steps": 6}
    run_mlm_wwm.main(flags(output_dir=tmp_path / "whole", **changes))
    with killed_in(10):
        run_mlm_wwm.main(flags(dataloader_num_workers=2, **changes))
    run_mlm_wwm.main(flags(**changes))
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_run_from_before_masks_of_the_evaluation_goes_on_and_is_told(flags, tmp_path, undisturbed, caplog):
    changes = HELD_OUT | {"mlm_probability": 0.3}
    with killed_in(6):
        run_mlm_wwm.main(flags(**changes))
    for file, part in (("run.json", ("settings", "data")), ("checkpoint-4/progress.json", ("sums",))):
        content = values = json.loads((tmp_path / "run" / file).read_text())
        for name in part:
            values = values[name]
        for name in [name for name in values if name.startswith("eval_") or "hidden" in name]:
            del values[name]
        (tmp_path / "run" / file).write_text(json.dumps(content))
    as_before_checksums(tmp_path / "run" / "checkpoint-4")
    run_mlm_wwm.main(flags(**changes))
    assert "other masks from here on" in caplog.text and "data.eval_mlm_probability 0.3 (now 0.15)" in caplog.text
    whole = weights(undisturbed(flags, **changes))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(tmp_path / "run").items())


def test_a_finished_run_stays_as_it_is(flags, tmp_path, undisturbed):
    finished = undisturbed(flags, **HELD_OUT)
    shutil.copytree(finished, tmp_path / "run")
    last = [record for record in read_log(finished) if "eval_loss" in record][-1]
    metrics = run_mlm_wwm.main(flags(overwrite_output_dir=True, **HELD_OUT))
    assert metrics | {"max_steps": last["max_steps"]} == last
    assert_same_run(finished, tmp_path / "run")


def test_sigterm_saves_and_the_same_command_goes_on(flags, tmp_path, monkeypatch, undisturbed, caplog):
    real, calls = Trainer.training_step, []

    def with_signal(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 7:
            for process in [*multiprocessing.active_children(), multiprocessing.current_process()]:
                os.kill(process.pid, signal.SIGTERM)  # a scheduler signals the whole job
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", with_signal)
        run_mlm_wwm.main(flags(dataloader_num_workers=2, **HELD_OUT))
    assert (tmp_path / "run" / "checkpoint-7").is_dir() and not (tmp_path / "run" / "model.safetensors").exists()
    assert "stopped at step 7 of 12 (SIGTERM); the same command goes on from here" in caplog.text
    run_mlm_wwm.main(flags(**HELD_OUT))
    assert_same_run(undisturbed(flags, **HELD_OUT), tmp_path / "run")


def test_a_time_limit_saves_evaluates_and_goes_on(flags, tmp_path, undisturbed, caplog):
    metrics = run_mlm_wwm.main(flags(max_train_minutes=1e-9, **HELD_OUT))
    assert (tmp_path / "run" / "checkpoint-1").is_dir() and (tmp_path / "run" / "model.safetensors").exists()
    assert metrics["eval_loss"] > 0 and "--max_train_minutes" in caplog.text
    run_mlm_wwm.main(flags(**HELD_OUT))
    ends = [weights(folder) for folder in (undisturbed(flags, **HELD_OUT), tmp_path / "run")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_schedule_by_time_ends_with_the_minutes(flags, tmp_path, caplog):
    caplog.set_level("INFO")
    changes = {"max_steps": 100000, "max_train_minutes": 0.05, "schedule_by_time": True, "logging_steps": 1}
    run_mlm_wwm.main(flags(save_steps=100000, **changes))
    rates = [record["learning_rate"] for record in read_log(tmp_path / "run")]
    assert rates[0] > 0.009 and rates[-1] < 0.002 and rates == sorted(rates, reverse=True)
    assert "as --schedule_by_time has it; more minutes go on from here" in caplog.text
    assert f"finished: the model is in {tmp_path / 'run'}; next, for example" in caplog.text
    run_mlm_wwm.main(flags(**changes))  # the time is up: one more step
    more = [record["learning_rate"] for record in read_log(tmp_path / "run")][len(rates) :]
    assert len(more) == 1 and more[0] <= rates[-1]


def test_incomplete_checkpoints_are_passed_over_and_refused_by_name(flags, tmp_path, undisturbed, caplog):
    shutil.copytree(undisturbed(flags, **HELD_OUT), tmp_path / "run")
    for checkpoint, lost in (("checkpoint-12", "optimizer.pt"), ("checkpoint-8", "rng_state.pth")):
        (tmp_path / "run" / checkpoint / lost).unlink()
        with pytest.raises(ArgumentError, match=rf"--resume_from_checkpoint .*{lost}"):
            run_mlm_wwm.main(flags(resume_from_checkpoint=tmp_path / "run" / checkpoint, **HELD_OUT))
    run_mlm_wwm.main(flags(**HELD_OUT))
    assert "checkpoint-12, which lacks optimizer.pt" in caplog.text
    assert "from " + str(tmp_path / "run" / "checkpoint-4") in caplog.text
    assert_same_run(undisturbed(flags, **HELD_OUT), tmp_path / "run")


@pytest.mark.parametrize("grouped", [None, True])
def test_a_run_that_was_begun_with_the_order_of_sorted_draws_goes_on_with_it(flags, tmp_path, monkeypatch, grouped):
    old, new = {"output_dir": tmp_path / "old"}, {"output_dir": tmp_path / "new"}
    with monkeypatch.context() as patch:
        patch.setattr(RunArguments, "row_order", "sorted")
        run_mlm_wwm.main(flags(group_by_length=grouped, **old))
        with killed_in(7):
            run_mlm_wwm.main(flags(group_by_length=grouped))
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["arguments"]
    assert "row_order" not in settings, "as earlier code wrote them"
    run_mlm_wwm.main(flags(group_by_length=grouped))
    assert_same_run(tmp_path / "old", tmp_path / "run")
    run_mlm_wwm.main(flags(group_by_length=grouped, **new))
    settings = json.loads((tmp_path / "new" / "run.json").read_text())["settings"]["arguments"]
    assert settings["row_order"] == "permuted" and curve(tmp_path / "new") != curve(tmp_path / "old")


def test_intervals_of_the_command_line_win_on_resumption(flags, tmp_path):
    run_mlm_wwm.main(flags(max_train_minutes=1e-9))
    run_mlm_wwm.main(flags(save_steps=5, logging_steps=2))
    saved = sorted(int(folder.name.split("-")[1]) for folder in (tmp_path / "run").glob("checkpoint-*"))
    assert saved == [1, 5, 10, 12]
    assert [record["step"] for record in read_log(tmp_path / "run")] == [1, 2, 4, 6, 8, 10, 12]


def test_only_the_wanted_number_of_checkpoints_is_kept(flags, tmp_path):
    run_mlm_wwm.main(flags(save_steps=2, save_total_limit=2))
    assert sorted(folder.name for folder in (tmp_path / "run").glob("*point-*")) == ["checkpoint-10", "checkpoint-12"]


def test_a_checkpoint_of_another_model_is_refused(flags, tmp_path):
    run_mlm_wwm.main(flags(max_steps=2))
    other = flags(output_dir=tmp_path / "other", resume_from_checkpoint=tmp_path / "run" / "checkpoint-2")
    deeper = [*other, "--config_overrides", SHAPE.replace("num_hidden_layers=2", "num_hidden_layers=3")]
    with pytest.raises(ArgumentError, match=r"--resume_from_checkpoint .*num_hidden_layers"):
        run_mlm_wwm.main(deeper)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(ArgumentError, match=r"--resume_from_checkpoint .*encoder.layer.2"):
        run_mlm_wwm.main(deeper)


@pytest.mark.slow
def test_a_run_killed_at_five_random_moments_ends_bit_for_bit_the_same(flags, tmp_path):
    changes = {"save_steps": 1, "save_total_limit": 3, "max_steps": 40, "validation_split": 0.2}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(folder):
        command = [sys.executable, str(ROOT / "run_mlm_wwm.py"), *flags(output_dir=folder, **changes)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    assert start(tmp_path / "whole").wait() == 0
    moments = random.Random(0)
    amid_saving = 0
    for kill in range(5):
        process = start(tmp_path / "run")
        while "starting" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(moments.uniform(0.5, 1.5))
        while kill % 2 and process.poll() is None and not list((tmp_path / "run").glob("incomplete-checkpoint-*")):
            pass  # every other kill comes while a checkpoint is being written
        process.kill()
        process.wait()
        amid_saving += bool(list((tmp_path / "run").glob("incomplete-checkpoint-*")))
    assert amid_saving >= 1
    assert start(tmp_path / "run").wait() == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# Output folders


def test_a_named_checkpoint_goes_on_from_there_and_later_ones_make_way(flags, tmp_path, undisturbed):
    shutil.copytree(undisturbed(flags, **HELD_OUT), tmp_path / "run")
    whole = weights(tmp_path / "run")
    run_mlm_wwm.main(flags(resume_from_checkpoint=tmp_path / "run" / "checkpoint-4", **HELD_OUT))
    assert sorted(path.name for path in (tmp_path / "run.old-1").iterdir()) == ["checkpoint-12", "checkpoint-8"]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(tmp_path / "run").items())


def test_a_named_checkpoint_may_change_the_schedule_and_nothing_else(flags, tmp_path, undisturbed):
    named = {"resume_from_checkpoint": undisturbed(flags, **HELD_OUT) / "checkpoint-8", **HELD_OUT}
    with pytest.raises(ArgumentError, match=r"--resume_from_checkpoint .*learning_rate 0.01 \(now 0.5\)"):
        run_mlm_wwm.main(flags(learning_rate=0.5, **named))
    run_mlm_wwm.main(flags(max_steps=14, **named))
    first = next(record for record in read_log(tmp_path / "run") if "loss" in record)
    assert first["learning_rate"] == pytest.approx(0.01 * 5 / 14, rel=1e-6)


# Errors


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mlm_probability": 1.5}, "--mlm_probability must lie between 0 and 1, got 1.5"),
        ({"mask_share": 0.95}, "--mask_share"),
        ({"eval_mlm_probability": 0}, "--eval_mlm_probability must lie between 0 and 1, got 0"),
        ({"eval_random_share": 0.3}, "--eval_mask_share must leave room for random_share"),
        ({"train_dir": "missing"}, "--train_dir"),
        ({"train_dir": None}, "--train_dir"),
        ({"output_dir": None}, "--output_dir"),
        ({"tokenizer_name": "missing/tokenizer"}, "--tokenizer_name missing/tokenizer"),
        ({"model_name_or_path": "./missing", "config_overrides": None}, "--model_name_or_path ./missing"),
        ({"model_type": "nothing"}, "--model_type nothing"),
        ({"model_type": "bert", "config_overrides": "hidden_size=33"}, "--config_overrides"),
        ({"config_overrides": "attention_key_size=15"}, "--config_overrides"),
        ({"config_overrides": "hidden_sizes=32"}, "--config_overrides"),
        ({"config_overrides": "hidden_size"}, "--config_overrides"),
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size must be at least 1, got 0"),
        ({"max_steps": "many"}, "--max_steps"),
        ({"no_such_flag": True}, "--no_such_flag"),
        ({"label_smoothing_factor": 0.1}, "--label_smoothing_factor 0.1"),
        ({"train_sampling_strategy": "sequential"}, "--train_sampling_strategy"),
        ({"do_train": None}, "--do_train or --do_eval"),
        ({"validation_split": 1.5}, "--validation_split"),
        ({"eval_strategy": "steps"}, "--validation_split"),
        ({"unigram_bias": True}, "--unigram_bias"),
        ({"count_embeddings": True, "model_name_or_path": "bert", "config_overrides": None}, "--count_embeddings"),
        ({"schedule_by_time": True}, "--schedule_by_time"),
        ({"resume_from_checkpoint": "missing"}, "--resume_from_checkpoint missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_errors_are_one_line_that_names_the_flag(flags, monkeypatch, changes, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((ArgumentError, CorpusError)) as caught:
        run_mlm_wwm.main(flags(**changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_corpus_of_another_tokenizer_and_an_empty_one_are_refused(flags, tmp_path, prepared, write_corpus):
    shutil.copytree(prepared[0], tmp_path / "other")
    with open(tmp_path / "other" / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("龘\n")
    with pytest.raises(CorpusError, match="--tokenizer_name"):
        run_mlm_wwm.main(flags(tokenizer_name=tmp_path / "other"))
    with pytest.raises((ArgumentError, CorpusError), match="--train_dir"):
        run_mlm_wwm.main(flags(train_dir=write_corpus(tmp_path / "empty", prepared[0], rows=0)))


def test_the_command_line_ends_in_one_line_without_a_traceback(flags, monkeypatch):
    script = str(ROOT / "run_mlm_wwm.py")
    monkeypatch.setattr(sys, "argv", [script, *flags(train_dir="missing")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code.startswith("run_mlm_wwm.py: --train_dir") and "\n" not in end.value.code
