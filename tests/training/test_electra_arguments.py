"""Flags of run_electra.py: a size stands for its published settings, and what is typed outweighs it."""

import re

import pytest

from training.arguments import parse_arguments
from training.electra_arguments import ElectraDataArguments, ElectraRunArguments, fill_from_size, run_name


@pytest.mark.parametrize(
    "size, rate, rows, steps, tokens, probability, kept",
    [
        ("small", 5e-4, 128, 1_000_000, 128, 0.15, [62_500, 125_000, 250_000, 500_000, 1_000_000]),
        ("base", 2e-4, 256, 766_000, 512, 0.15, [47_875, 95_750, 191_500, 383_000, 766_000]),
        ("large", 2e-4, 2048, 400_000, 512, 0.25, [25_000, 50_000, 100_000, 200_000, 400_000]),
    ],
)
def test_a_size_stands_for_its_published_settings(size, rate, rows, steps, tokens, probability, kept, tmp_path):
    words = ["--size", size, "--output_dir", str(tmp_path), "--do_train", "--train_dir", "corpus"]
    data_args, args = parse_arguments([ElectraDataArguments, ElectraRunArguments], words)
    fill_from_size(data_args, args)
    assert (args.learning_rate, args.per_device_train_batch_size, args.max_steps) == (rate, rows, steps)
    assert (data_args.max_seq_length, data_args.mlm_probability, sorted(args.kept_steps)) == (
        tokens,
        probability,
        kept,
    )
    assert (args.warmup_steps, args.adam_epsilon, args.weight_decay, args.max_grad_norm) == (10_000, 1e-6, 0.01, 1.0)
    assert (args.seed, args.schedule, run_name(args)) == (11081, "original_linear", "vanilla_11081")
    assert not args.adam_bias_correction
    assert (data_args.electra_data, data_args.mask_style, data_args.mask_unit) == ("reference", "electra", "token")
    assert (args.adam_beta1, args.adam_beta2, args.dataloader_num_workers) == (0.9, 0.999, 3)


def test_a_flag_outweighs_the_size(tmp_path):
    flags = "--size base --learning_rate 1e-4 --per_device_train_batch_size 7 --num_train_epochs 2 --warmup_ratio 0.1"
    flags += " --mlm_probability 0.2 --max_seq_length 64 --base_run_name mine --seed 36"
    words = [*flags.split(), "--output_dir", str(tmp_path)]
    data_args, args = parse_arguments([ElectraDataArguments, ElectraRunArguments], words)
    fill_from_size(data_args, args)
    assert (args.learning_rate, args.per_device_train_batch_size, args.max_steps) == (1e-4, 7, -1)
    assert (args.num_train_epochs, args.warmup_steps, run_name(args)) == (2, 0.1, "mine_36")
    assert (data_args.mlm_probability, data_args.max_seq_length) == (0.2, 64)
    args.base_run_name = ""
    assert re.fullmatch(r"[01]\d[0-3]\d[0-2]\d[0-5]\d[0-5]\d", run_name(args))
    (args,) = parse_arguments([ElectraRunArguments], ["--output_dir", "x", "--gradient_accumulation_steps", "8"])
    assert args.per_device_train_batch_size == 16
