"""Flags of a run: those that transformers dropped do what they did, a CPU gets micro-batches that suit it."""

import pytest
import torch
from transformers import TrainingArguments

from training.arguments import CPU_TOKENS, RunArguments, parse_arguments, split_for_cpu


@pytest.mark.parametrize(
    ("rows", "longest", "expected"),
    [(256, 512, (16, 64)), (6, CPU_TOKENS // 2, (2, 12)), (3, 2 * CPU_TOKENS, (1, 12)), (128, 64, (128, 4))],
)
def test_a_cpu_gets_smaller_micro_batches_and_the_same_rows_per_update(tmp_path, rows, longest, expected):
    args = RunArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=rows, gradient_accumulation_steps=4, use_cpu=True
    )
    split_for_cpu(args, longest)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == expected
    assert expected[0] * expected[1] == rows * 4


def parse(tmp_path, *flags):
    return parse_arguments([RunArguments], ["--output_dir", str(tmp_path), *flags])[0]


def test_flags_that_transformers_dropped_do_what_they_did(tmp_path):
    flags = "--overwrite_output_dir --logging_dir logs --evaluation_strategy steps --no_cuda --group_by_length"
    flags += " --warmup_ratio 0.1 --adafactor --per_gpu_train_batch_size 3 --per_gpu_eval_batch_size 5"
    flags += " --max_steps 50 --gradient_checkpointing"
    args = parse(tmp_path, *flags.split())
    assert args.overwrite_output_dir and args.logging_dir == "logs" and args.use_cpu
    assert args.eval_strategy == "steps" and args.train_sampling_strategy == "group_by_length"
    assert args.get_warmup_steps(50) == 5 and args.optim == "adafactor" and args.activation_checkpointing
    assert (args.train_batch_size, args.eval_batch_size) == (3, 5)
    assert parse(tmp_path, "--warmup_ratio", "0.1", "--warmup_steps", "7").get_warmup_steps(50) == 7


@pytest.mark.skipif(torch.accelerator.is_available(), reason="speaks of machines without one")
def test_fp16_on_a_cpu_becomes_bf16_with_one_line(tmp_path, caplog):
    args = parse(tmp_path, "--fp16")
    assert (args.fp16, args.bf16, args.mixed_precision) == (False, True, "bf16")
    assert [record.message.count("\n") for record in caplog.records] == [0]


@pytest.mark.parametrize("able", [True, False])
def test_a_card_without_bf16_trains_in_fp16_with_one_line(tmp_path, caplog, monkeypatch, able):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    monkeypatch.setattr(RunArguments, "_check", lambda self: None)
    monkeypatch.setattr(RunArguments, "device", torch.device("cuda:0"))
    monkeypatch.setattr(RunArguments, "n_gpu", 1)
    args = RunArguments(output_dir=str(tmp_path), bf16=True)
    assert (args.bf16, args.fp16) == (able, not able)
    assert [record.message for record in caplog.records if "Ampere" not in record.message] == []
    assert len(caplog.records) == (not able)


def test_held_out_rows_have_loader_processes_where_a_device_computes(tmp_path, monkeypatch):
    args = parse(tmp_path, "--use_cpu", "--dataloader_num_workers", "3")
    assert args.eval_workers == 0
    monkeypatch.setattr(RunArguments, "device", torch.device("cuda:0"))
    assert args.eval_workers == 3


@pytest.mark.parametrize(
    ("flags", "switched"),
    [((), []), (("--torch_compile",), [False]), (("--torch_compile", "--tf32", "true"), [True])],
    ids=str,
)
def test_compiling_alone_does_not_switch_tf32_on(tmp_path, monkeypatch, flags, switched):
    """transformers does, for fp32 on a card that has it; what the flag says stays a setting of the run."""
    calls = []
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.enable_tf32", calls.append)
    args = parse(tmp_path, "--use_cpu", *flags)
    assert calls[-1:] == switched and args.tf32 is (True if True in switched else None)


def test_compiling_is_off_unless_asked_for(tmp_path):
    assert not parse(tmp_path, "--use_cpu").torch_compile
    assert not parse(tmp_path, "--use_cpu", "--torch_compile", "false").torch_compile
