"""Flags that cannot train, lack a package or would do nothing: one line, before anything is written."""

import shutil

import pytest

from common.errors import UserError
from training.arguments import RunArguments, parse_arguments


def refusal(tmp_path, *words):
    with pytest.raises(UserError) as caught:
        parse_arguments([RunArguments], ["--output_dir", str(tmp_path / "run"), "--use_cpu", *words])
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    "words, line",
    [
        ("--learning_rate nan", "--learning_rate must be at least 0 and finite, got nan"),
        ("--adam_beta2 1", "--adam_beta2 must lie in [0, 1), got 1.0"),
        ("--adam_epsilon 0", "--adam_epsilon must be positive and finite, got 0.0"),
        ("--warmup_ratio 2", "--warmup_ratio must lie in [0, 1), got 2.0"),
        ("--seed -1", "--seed must lie in 0..4294967295, got -1"),
        ("--num_train_epochs 0", "--num_train_epochs must be positive"),
        ("--logging_steps -1", "--logging_steps must be positive, got -1.0; to have none give --logging_strategy no"),
        ("--max_train_minutes nan", "--max_train_minutes must be positive, got nan"),
        ("--per_gpu_train_batch_size 0", "--per_device_train_batch_size must be at least 1, got 0"),
        ("--fp16 --bf16", "--fp16 must stand without --bf16"),
        ("--tf32 true", "--tf32"),
        ("--ddp_backend gloo", "--ddp_backend gloo needs several processes"),
        ("--fsdp full_shard", "--fsdp needs several processes"),
        ("--deepspeed no.json", "--deepspeed"),
        ("--use_liger_kernel", "--use_liger_kernel needs the package liger_kernel"),
        ("--lr_scheduler_kwargs [1]", "--lr_scheduler_kwargs must be a JSON object"),
        ('--activation_checkpointing_kwargs {"a":1}', "--activation_checkpointing_kwargs must hold"),
        ("--optim sgd --optimizer muon", "--optim sgd and --optim_args have no effect under --optimizer muon"),
        ("--optim sgd --adam_bias_correction false", "--adam_bias_correction false needs --optim adamw_torch"),
        ("--torch_compile_backend x", "--torch_compile_backend must be one of"),
        ("--torch_compile_mode x", "--torch_compile_mode x: Unrecognized mode"),
        ("--hub_strategy checkpoint --push_to_hub", "--hub_strategy checkpoint is not supported here"),
        ("--enable_jit_checkpoint", "--enable_jit_checkpoint True is not supported here, as SIGTERM"),
        ("--accelerator_config {}", "--accelerator_config {} is not supported here"),
        ("--do_predict", "--do_predict True is not supported here"),
    ],
    ids=lambda value: value.split("=")[0].removeprefix("--").split(" ")[0],
)
def test_what_cannot_train_is_refused(tmp_path, words, line):
    assert refusal(tmp_path, *words.split()).startswith(line)


def test_compiling_needs_a_compiler(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert refusal(tmp_path, "--torch_compile").startswith("--torch_compile needs a C++ compiler")


@pytest.mark.parametrize("flag", ["--output_dir", "--logging_dir"])
def test_names_that_no_file_can_have_are_refused(tmp_path, flag):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert f"a link to {tmp_path / 'nowhere'}, which is not there" in refusal(tmp_path, flag, str(tmp_path / "link"))
    assert f"{flag} must be a name in UTF-8" in refusal(tmp_path, flag, "caf\udce9")


@pytest.mark.parametrize(
    "words, line",
    [
        ("--hub_token hf_abcdefghi", "--hub_token has no effect without --push_to_hub"),
        ("--fsdp_config {}", "--fsdp_config has no effect without --fsdp"),
        ("--eval_steps 3", "--eval_steps has no effect without --eval_strategy steps"),
        (
            "--schedule one_cycle --lr_scheduler_type cosine",
            "--lr_scheduler_type cosine has no effect under --schedule",
        ),
    ],
)
def test_what_does_nothing_is_told(tmp_path, caplog, words, line):
    parse_arguments([RunArguments], ["--output_dir", str(tmp_path), "--use_cpu", *words.split()])
    assert line in caplog.text and "abcdefghi" not in caplog.text


@pytest.mark.parametrize(
    "name, settled, greater",
    [("eval_loss", "loss", False), ("eval_perplexity", "perplexity", False), ("mlm_accuracy", "mlm_accuracy", True)],
)
def test_the_best_model_is_known_by_either_name_of_a_number(tmp_path, name, settled, greater):
    (args,) = parse_arguments([RunArguments], ["--output_dir", str(tmp_path), "--metric_for_best_model", name])
    assert (args.metric_for_best_model, args.greater_is_better) == (settled, greater)
