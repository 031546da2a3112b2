"""run_electra.py: every option trains, sums are exact, runs resume to the last bit, errors name the flag."""

import json
import math
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoTokenizer,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
)

import run_electra
from common.errors import ArgumentError
from data.batches.masking import make_collator
from data.corpus import store
from data.corpus.arrow_shards import CorpusError
from tests.processes import run_together
from tests.runs import assert_close_runs, assert_same_run, curve, killed_in, weights
from training.arguments import RunArguments
from training.electra_arguments import ElectraDataArguments
from training.loop.trainer import Trainer
from training.pretrained import load_tokenizer

ROOT = Path(__file__).parents[1]
SHAPE = "embedding_size=16,hidden_size=32,num_hidden_layers=2,num_attention_heads=4,intermediate_size=64"
NO_DROPOUT = SHAPE + ",hidden_dropout_prob=0,attention_probs_dropout_prob=0"
GAU = "hidden_size=32,intermediate_size=64,num_hidden_layers=2,attention_key_size=16"
METRICS = {"generator_loss", "generator_accuracy", "sampled_accuracy", "discriminator_loss", "discriminator_accuracy"}
METRICS |= {"generator_hidden_accuracy"}
METRICS |= {"discriminator_precision", "discriminator_recall", "discriminator_auc", "share_replaced"}


@pytest.fixture
def flags(prepared, tmp_path):
    """(flag=value, ...) -> the arguments of a tiny run into tmp_path/run; True is a bare flag, None leaves one out."""

    def make(**changes):
        tokenizer, corpus = prepared
        values = {"do_train": True, "tokenizer_name": tokenizer, "train_dir": corpus, "output_dir": tmp_path / "run"}
        values |= {"config_overrides": SHAPE, "per_device_train_batch_size": 8, "learning_rate": 5e-3, "seed": 1234}
        values |= {"max_steps": 8, "warmup_steps": 2, "logging_steps": 4, "save_steps": 3, "report_to": "none"}
        values |= {"dataloader_num_workers": 0, "checkpoint_percents": 100} | changes
        words = []
        for name, value in values.items():
            if value is not None:
                words += [f"--{name}"] if value is True else [f"--{name}", *str(value).split(" ")]
        return words

    return make


@pytest.fixture
def tokenizer(prepared):
    return load_tokenizer(str(prepared[0]), "--tokenizer_name")


# What is trained


def test_a_run_learns_logs_keeps_its_checkpoints_and_exports_plain_folders(flags, tmp_path):
    metrics = run_electra.main(
        flags(
            max_steps=16,
            checkpoint_percents="6.25 12.5 25 50 100",
            save_total_limit=1,
            validation_split=0.2,
            learning_rate=2e-2,
            report_to="tensorboard",
        )
    )
    run = tmp_path / "run"
    records = [record for record in curve(run) if "loss" in record]
    assert records[0].keys() >= METRICS and {f"eval_{name}" for name in METRICS} <= metrics.keys()
    assert records[-1]["generator_loss"] < records[0]["generator_loss"] - 0.1
    assert records[-1]["discriminator_loss"] < records[0]["discriminator_loss"]
    total = metrics["eval_generator_loss"] + 50 * metrics["eval_discriminator_loss"]
    assert metrics["eval_loss"] == pytest.approx(total, rel=1e-6)
    assert list((run / "runs").glob("events*"))
    # 1, 2, 4, 8 and 16 are kept for good, each with both networks; of the others the newest.
    assert sorted(int(path.name[11:]) for path in run.glob("checkpoint-*")) == [1, 2, 4, 8, 15, 16]
    assert all((run / f"checkpoint-{n}" / "discriminator").is_dir() == (n != 15) for n in (1, 2, 4, 8, 15, 16))
    saved = load_file(run / "checkpoint-16" / "model.safetensors")
    for part, auto_class in (("generator", AutoModelForMaskedLM), ("discriminator", AutoModelForPreTraining)):
        model, info = auto_class.from_pretrained(run / part, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        own = model.state_dict()
        for name, tensor in load_file(run / part / "model.safetensors").items():
            assert torch.equal(own[name], tensor)
            assert torch.equal(saved.get(f"{part}.{name}", tensor), tensor)
        assert len(AutoTokenizer.from_pretrained(run / part)) == model.config.vocab_size
    table = "electra.embeddings.word_embeddings.weight"
    assert torch.equal(weights(run)[f"generator/{table}"], weights(run)[f"discriminator/{table}"])


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gau_alpha", "config_overrides": GAU, "mask_unit": "word"},
        {"mask_style": "bert", "sampling": "multinomial", "no_exclude_unk": True, "electra_data": "packed"},
        {"packing": "isolated", "max_seq_length": 48, "sampling": "fp16_gumbel", "temperature": 0.8},
        {"packing": "concat", "gen_smooth_label": "True", "disc_smooth_label": 0.05, "disallow_correct": True},
        {"uniform_generator": True, "schedule": "one_cycle"},
        {"no_untied_generator": True, "schedule": "adjusted_one_cycle", "init": "google"},
        {"untied_generator_embeddings": True, "schedule": "separate_linear", "adam_bias_correction": True},
        {"no_electra_objective": True, "unigram_bias": True, "gradient_accumulation_steps": 2},
        {"optimizer": "muon", "adam_bias_correction": True, "group_by_length": True, "bf16": True},
        {"count_embeddings": True, "initial_temperature": 2.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_kind_of_run_trains(flags, tmp_path, changes):
    run_electra.main(flags(**changes))
    losses = [record["loss"] for record in curve(tmp_path / "run")]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]


@pytest.mark.parametrize("own", [{}, {"untied_generator_embeddings": True}], ids=["shared", "own"])
def test_both_networks_begin_at_counted_vectors(flags, tmp_path, monkeypatch, own):
    def vectors(rows, entries, width, skipped):
        return np.eye(entries, width, dtype=np.float32), np.arange(entries) < width

    monkeypatch.setattr(run_electra, "neighbour_vectors", vectors)
    run_electra.main(flags(count_embeddings=True, max_steps=1, learning_rate=1e-9, warmup_steps=0, **own))
    for name in ("generator", "discriminator"):
        table = weights(tmp_path / "run")[f"{name}/electra.embeddings.word_embeddings.weight"]
        square = table[: table.shape[1]]
        torch.testing.assert_close(square / square[0, 0], torch.eye(len(square)), rtol=1e-4, atol=1e-4)
        assert table[len(square) :].abs().min() < 1e-2 < square[0, 0]


def test_what_networks_are_measured_by_does_not_depend_on_the_training(flags, tmp_path):
    run_electra.main(flags(max_steps=3))
    alone = {"model_name_or_path": tmp_path / "run", "config_overrides": None, "do_train": None, "do_eval": True}
    alone |= {"output_dir": None, "validation_split": 0.2}
    first = run_electra.main(flags(**alone))
    recipe = {"mlm_probability": 0.4, "mask_style": "bert", "mask_unit": "word", "no_exclude_unk": True, "seed": 2}
    assert run_electra.main(flags(**alone | recipe)) == first
    assert run_electra.main(flags(**alone | {"eval_mlm_probability": 0.4})) != first


def test_masks_leave_out_unknown_tokens_unless_told(tokenizer):
    for exclude, masked in ((True, False), (False, True)):
        data_args = ElectraDataArguments(mlm_probability=0.9, exclude_unk=exclude)
        options = run_electra.masking_options(data_args, tokenizer)
        collator = make_collator(tokenizer, len(tokenizer), data_args.mask_unit, 1, **options)
        ids = np.array([tokenizer.cls_token_id, *[tokenizer.unk_token_id] * 50, tokenizer.sep_token_id])
        batch = collator([{"epoch": 0, "index": 0, "input_ids": ids, "continuation": ids * 0}])
        assert bool((batch["labels"] != -100).any()) == masked


# Continued training


def publish(folder, tokenizer, **shape):
    """A generator and a discriminator as google and hfl publish them; they share their embeddings."""
    fields = {"vocab_size": len(tokenizer), "embedding_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    discriminator = ElectraForPreTraining(ElectraConfig(**fields, hidden_size=32, intermediate_size=64))
    generator = ElectraForMaskedLM(ElectraConfig(**fields | {"hidden_size": 16, "intermediate_size": 32} | shape))
    if not shape:
        generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    for name, model in (("discriminator", discriminator), ("generator", generator)):
        model.save_pretrained(folder / name)
    return {"model_name_or_path": folder / "discriminator", "generator_name_or_path": folder / "generator"}


def test_published_networks_train_on_with_the_rate_of_their_schedule(flags, tmp_path, tokenizer):
    published = publish(tmp_path, tokenizer)
    changes = {**published, "config_overrides": None, "steps_before": 92, "logging_steps": 1, "validation_split": 0.2}
    first = run_electra.main(flags(**changes, learning_rate=1e-3))
    rates = [record["learning_rate"] for record in curve(tmp_path / "run") if "loss" in record]
    # The peak is raised by 100 / 8 and the schedule is 92 % through.
    assert rates == pytest.approx([1e-3 * (1 - step / 8) for step in range(8)], rel=1e-6)
    alone = {"model_name_or_path": tmp_path / "run", "do_train": None, "do_eval": True, "output_dir": None}
    again = run_electra.main(flags(**alone, config_overrides=None, validation_split=0.2))
    names = again.keys() - {"epoch"}
    assert [again[name] for name in names] == pytest.approx([first[name] for name in names], rel=1e-6)


# Exact sums


def gradient_run(flags, folder, micro, accumulation):
    """Flags of a run whose weights are its gradients: plain SGD with a rate of 1."""
    changes = {"optim": "sgd", "adam_bias_correction": True, "learning_rate": 0.5, "lr_scheduler_type": "constant"}
    changes |= {"schedule": "separate_linear", "warmup_steps": 0, "max_grad_norm": 1e9, "max_steps": 3}
    return flags(
        output_dir=folder,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        config_overrides=NO_DROPOUT,
        logging_steps=1,
        validation_split=0.2,
        **changes,
    )


def test_neither_accumulation_nor_processes_change_loss_or_gradient(flags, tmp_path):
    run_electra.main(gradient_run(flags, tmp_path / "8x1", 8, 1))
    run_electra.main(gradient_run(flags, tmp_path / "2x4", 2, 4))
    assert_close_runs(tmp_path / "8x1", tmp_path / "2x4", 2e-5, 2e-5)
    run_together(ROOT / "run_electra.py", [*gradient_run(flags, tmp_path / "two", 2, 2), "--use_cpu"], tmp_path)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    assert_close_runs(tmp_path / "8x1", tmp_path / "two", 1e-4, 2e-5)


# Resumption and seeds


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_unit": "word", "validation_split": 0.2, "eval_strategy": "steps", "eval_steps": 4},
        {"schedule": "one_cycle", "packing": "concat", "gradient_accumulation_steps": 2, "bf16": True},
    ],
    ids=["words", "one_cycle"],
)
def test_a_killed_run_ends_like_an_undisturbed_one(flags, tmp_path, changes):
    run_electra.main(flags(output_dir=tmp_path / "whole", **changes))
    with killed_in(8 * changes.get("gradient_accumulation_steps", 1)):
        run_electra.main(flags(dataloader_num_workers=2, **changes))
    assert (tmp_path / "run" / "checkpoint-6").is_dir() and not (tmp_path / "run" / "generator").exists()
    run_electra.main(flags(**changes))
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_rows_of_a_large_corpus_are_made_by_chunks_but_in_a_run_begun_before_that(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SMALL", 0)
    changes = {"electra_data": "packed", "max_seq_length": 48, "validation_split": 0.2, "group_by_length": True}
    with monkeypatch.context() as patch:
        patch.setattr(RunArguments, "rows_by_chunk", False)
        run_electra.main(flags(output_dir=tmp_path / "old", **changes))
        with killed_in(5):
            run_electra.main(flags(**changes))
    run_electra.main(flags(**changes))
    assert_same_run(tmp_path / "old", tmp_path / "run")
    new = flags(output_dir=tmp_path / "new", dataloader_num_workers=2, **changes)
    with killed_in(5):
        run_electra.main(new)
    run_electra.main(new)
    run_electra.main(flags(output_dir=tmp_path / "whole", **changes))
    assert_same_run(tmp_path / "whole", tmp_path / "new")
    settings = json.loads((tmp_path / "new" / "run.json").read_text())["settings"]["arguments"]
    assert settings["rows_by_chunk"] and curve(tmp_path / "new") != curve(tmp_path / "old")


def test_a_seed_of_none_is_drawn_logged_and_kept_by_the_run(flags, tmp_path, caplog):
    with killed_in(5):
        run_electra.main(flags(seed=0))
    (seed,) = re.findall(r"seed (\d+), drawn", caplog.text)
    run_electra.main(flags(seed="None"))
    assert "starting from " + str(tmp_path / "run" / "checkpoint-3") in caplog.text
    run_electra.main(flags(seed=seed, output_dir=tmp_path / "typed"))
    assert_same_run(tmp_path / "typed", tmp_path / "run")


# Layer-wise rates


def test_layer_decay_lowers_the_rates_of_the_discriminator_alone(flags, tmp_path, monkeypatch):
    seen, real = {}, Trainer.create_optimizer

    def watched(self, model=None):
        optimizer = real(self, model)
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for group in optimizer.param_groups:
            seen.update({names[id(parameter)]: group["lr"] for parameter in group["params"]})
        return optimizer

    monkeypatch.setattr(Trainer, "create_optimizer", watched)
    for offset, power in ((2, 0), (1, 1)):
        seen.clear()
        decay = {"layer_decay": 0.5, "layer_decay_offset": offset}
        run_electra.main(flags(max_steps=2, warmup_steps=1, output_dir=tmp_path / str(offset), **decay))
        rates = {name: rate / 5e-3 * 0.5**power for name, rate in seen.items()}
        decayed = {name: rate for name, rate in rates.items() if rate != 0.5**power}
        assert rates["discriminator.electra.encoder.layer.0.output.dense.weight"] == 0.125
        assert rates["discriminator.electra.encoder.layer.1.output.dense.weight"] == 0.25
        (words,) = {rate for name, rate in rates.items() if "word_embeddings" in name}  # one table for both
        assert words == 0.0625
        assert not any("generator.electra.encoder" in name or "predictions" in name for name in decayed)
    with pytest.raises(ArgumentError, match="layer_decay"):
        run_electra.main(flags(layer_decay=0.8, max_steps=2, warmup_steps=1, output_dir=tmp_path / "1"))
    seen.clear()
    run_electra.main(flags(max_steps=2, warmup_steps=1))
    assert set(seen.values()) == {5e-3}


# Errors


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mlm_probability": 0}, "--mlm_probability must lie between 0 and 1, got 0.0"),
        ({"mlm_probability": 1.5}, "--mlm_probability must lie between 0 and 1, got 1.5"),
        ({"size": "huge"}, "--size"),
        ({"sampling": "beam"}, "--sampling"),
        ({"temperature": 0}, "--temperature"),
        ({"initial_temperature": 0}, "--initial_temperature must be positive, got 0"),
        ({"init": "zero"}, "--init"),
        ({"mask_style": "span"}, "--mask_style"),
        ({"electra_data": "shuffled"}, "--electra_data"),
        ({"electra_data": "packed", "packing": "concat"}, "--electra_data packed must stand without --packing concat"),
        ({"schedule": "cosine"}, "--schedule"),
        ({"schedule": "separate_linear", "warmup_steps": 8}, "--warmup_steps must be less than the 8 steps"),
        ({"gen_smooth_label": "some"}, "--gen_smooth_label must be False, True or a number in [0, 1), got some"),
        ({"disc_smooth_label": 1.0}, "--disc_smooth_label"),
        ({"checkpoint_percents": 120}, "--checkpoint_percents must lie in (0, 100]"),
        ({"config_overrides": "hidden_size=33,num_attention_heads=4"}, "--config_overrides hidden_size=33"),
        ({"generator_overrides": "hidden_size=9,num_attention_heads=2"}, "--generator_overrides hidden_size=9"),
        ({"config_overrides": "hidden_sizes=33"}, "--config_overrides"),
        ({"generator_overrides": "hidden_size=x"}, "--generator_overrides"),
        ({"generator_overrides": "vocab_size=77"}, "vocabulary"),
        (
            {
                "max_seq_length": 1024,
                "electra_data": "packed",
                "config_overrides": SHAPE + ",max_position_embeddings=32",
            },
            "--max_seq_length must be at most 32",
        ),
        ({"max_seq_length": 7}, "--max_seq_length must be at least 8, got 7"),
        ({"per_device_train_batch_size": None, "gradient_accumulation_steps": 3}, "must divide the 128 rows"),
        ({"steps_before": 5}, "--steps_before needs trained weights"),
        ({"model_name_or_path": "missing/model", "config_overrides": None}, "--generator_name_or_path must be given"),
        (
            {"model_name_or_path": "missing/model", "config_overrides": None, "uniform_generator": True},
            "--model_name_or_path missing/model",
        ),
        ({"model_name_or_path": "missing/model"}, "--config_overrides is for new networks"),
        (
            {"model_name_or_path": "missing/model", "config_overrides": None, "count_embeddings": True},
            "--count_embeddings is for new networks",
        ),
        ({"do_train": None, "do_eval": True, "validation_split": 0.2}, "--do_eval without --do_train"),
        ({"optimizer": "muon"}, "--optimizer muon needs --adam_bias_correction true"),
        ({"layer_decay": 1.5}, "--layer_decay must lie in (0, 1]"),
        ({"layer_decay": 0.8, "no_electra_objective": True}, "--layer_decay is for a discriminator"),
        ({"uniform_generator": True, "no_untied_generator": True}, "--uniform_generator"),
        (
            {
                "model_type": "flash",
                "config_overrides": "hidden_size=32,num_hidden_layers=2,query_key_dim=16",
                "packing": "isolated",
            },
            "--packing isolated",
        ),
        ({"train_dir": None}, "--train_dir"),
        ({"output_dir": None}, "--output_dir"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_errors_are_one_line_that_names_the_flag(flags, tmp_path, monkeypatch, changes, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((ArgumentError, CorpusError)) as caught:
        run_electra.main(flags(**changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_networks_of_another_vocabulary_and_a_corpus_of_another_tokenizer_are_refused(
    flags, tmp_path, tokenizer, prepared
):
    unlike = publish(tmp_path, tokenizer, vocab_size=len(tokenizer) + 3)
    with pytest.raises(ArgumentError, match="vocabulary"):
        run_electra.main(flags(**unlike, config_overrides=None))
    small = publish(tmp_path / "small", range(50))
    with pytest.raises(ArgumentError, match=r"--generator_name_or_path .* must have an entry for each"):
        run_electra.main(flags(**small, config_overrides=None))
    shutil.copytree(prepared[0], tmp_path / "other")
    with open(tmp_path / "other" / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("龘\n")
    with pytest.raises(CorpusError, match="--tokenizer_name"):
        run_electra.main(flags(tokenizer_name=tmp_path / "other"))


def test_batches_without_any_mask_are_no_numbers_to_fear(flags, tmp_path):
    metrics = run_electra.main(flags(mlm_probability=1e-9, validation_split=0.2))
    for record in [*curve(tmp_path / "run"), metrics]:
        assert all(math.isfinite(value) for value in record.values())
        assert record.get("generator_loss", 0) == record.get("share_replaced", 0) == 0


def test_the_command_line_ends_in_one_line_without_a_traceback(flags, monkeypatch):
    script = str(ROOT / "run_electra.py")
    monkeypatch.setattr(sys, "argv", [script, *flags(train_dir="missing")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code.startswith("run_electra.py: --train_dir") and "\n" not in end.value.code


@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_compiled_training_is_the_same_run(flags, tmp_path, mode):
    torch.compiler.reset()
    changes = {"config_overrides": NO_DROPOUT, "max_steps": 4, "logging_steps": 1, "learning_rate": 1e-3}
    changes |= {"gradient_accumulation_steps": 2, "validation_split": 0.2}
    run_electra.main(flags(output_dir=tmp_path / "plain", **changes))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    changes |= {"torch_compile_mode": mode} if mode else {}
    run_electra.main(flags(torch_compile_backend="aot_eager", **changes))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    assert_close_runs(tmp_path / "plain", tmp_path / "run", rel=1e-4, atol=1e-4)
