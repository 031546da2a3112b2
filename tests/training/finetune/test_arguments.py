"""What a flag of a job is when it is left out, and which jobs are known as the same."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from common.errors import ArgumentError
from data.tasks.table import TASKS
from training.arguments import parse_arguments
from training.finetune.arguments import RECIPES, JobArguments, SweepArguments, flag_names, to_own_flags
from training.finetune.steps import class_weights, run_arguments


def parse(*words):
    return parse_arguments([JobArguments, SweepArguments], list(words))


def test_what_is_typed_goes_before_recipe_task_and_default():
    defaults = {"lr": 5e-5, "epochs": 7}
    plain = JobArguments().settle("cola", defaults)
    assert (plain.lr, plain.epochs, plain.batch_size, plain.head, plain.lwlrd) == (5e-5, 7, 32, "auto", None)
    electra = JobArguments(recipe="electra", epochs=2.0).settle("cola", defaults)
    assert (electra.lr, electra.epochs, electra.head, electra.lwlrd_offset) == (1e-4, 2.0, "linear", 2)
    assert (electra.optimizer, electra.schedule, electra.eps) == ("adamw_nobc", "original_linear", 1e-6)


def test_electras_recipe_has_more_epochs_and_pairs_for_small_tasks():
    for name, epochs, swaps in (("rte", 10, None), ("stsb", 10, True), ("mrpc", 3, True), ("cola", 3, None)):
        settled = JobArguments(recipe="electra").settle(name, TASKS[name].defaults)
        assert (settled.epochs, settled.swap_augment) == (epochs, swaps)
    assert parse("--recipe", "electra", "--swap_augment", "false")[0].settle("mrpc", {}).swap_augment is False


def test_defaults_of_all_tasks_and_recipes_are_flags():
    for task in TASKS.values():
        for recipe in (None, *RECIPES):
            JobArguments(recipe=recipe).settle(task.name, task.defaults)
    with pytest.raises(ArgumentError, match="must hold flags of a job, got speed"):
        JobArguments().settle("new", {"speed": 3})


def test_a_job_is_known_by_the_flags_that_were_changed():
    assert JobArguments().changed() == {}
    assert parse("--model", "m", "--learning_rate", "1e-4", "--do_predict")[0].changed() == {
        "model": "m",
        "lr": 1e-4,
        "do_predict": True,
    }
    again = JobArguments(**JobArguments(model="m", lr=1e-4).changed())
    assert again == JobArguments(model="m", lr=1e-4)


def test_old_names_are_flags_too():
    old = "--model_type roberta --model_name_or_path a --tokenizer_name_or_path b --max_seq_length 64 --batch_size 8"
    old += " --learning_rate 3e-5 --num_train_epochs 3 --logging_steps 1 --save_steps 100 --task_name SST-2"
    job, sweep = parse(*old.split(), "--output_dir", "o", "--device", "gpu")
    assert (job.arch, job.model, job.tokenizer, job.max_length, job.lr, job.epochs) == (
        "roberta",
        "a",
        "b",
        64,
        3e-5,
        3,
    )
    assert (sweep.tasks, sweep.output_dir, sweep.device) == ("SST-2", "o", "gpu")
    names = flag_names()
    assert names["learning_rate"] == names["lr"] == "lr" and names["max_seq_length"] == "max_length"
    assert set(names.values()) == {field.name for field in dataclasses.fields(JobArguments)}


@pytest.mark.parametrize(
    "words, trains",
    [((), True), (("--do_eval",), False), (("--do_train", "--do_eval"), True), (("--do_predict",), True)],
)
def test_it_trains_unless_only_evaluation_is_asked(words, trains):
    assert parse(*words)[0].trains is trains


@pytest.mark.parametrize(
    "flags, steps",
    [
        ({}, ("epoch", None)),
        ({"save_steps": 100}, ("steps", 100)),
        ({"save_steps": 100, "eval_steps": 20}, ("steps", 20)),
    ],
)
def test_evaluation_follows_checkpoints_unless_told(tmp_path, flags, steps):
    job = JobArguments(**flags).settle("cola", {})
    args = run_arguments(job, tmp_path, 3, "mcc", use_cpu=True)
    assert (str(args.eval_strategy.value), args.eval_steps) == steps
    assert args.seed == 3 and args.save_steps == flags.get("save_steps", args.save_steps)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "poly", "original_linear"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_nobc", "adafactor", "muon"])
def test_every_schedule_and_optimizer_makes_arguments(tmp_path, schedule, optimizer):
    job = JobArguments(schedule=schedule, optimizer=optimizer, betas="0.8,0.98").settle("cola", {})
    args = run_arguments(job, tmp_path, 1, None, use_cpu=True)
    assert (args.adam_beta1, args.adam_beta2) == (0.8, 0.98) and args.eval_strategy.value == "no"
    assert args.adam_bias_correction is (optimizer != "adamw_nobc")
    assert args.optimizer == ("muon" if optimizer == "muon" else "adamw") and args.muon_learning_rate == 5e-3


def test_class_weights():
    labels = np.array([0, 0, 0, 1, 2, 2])
    weights = class_weights("balanced", labels, 4)
    assert torch.allclose(weights, torch.tensor([6 / 12, 6 / 4, 6 / 8, 6 / 4]) * 7 / 6)  # the absent one as the rarest
    assert torch.equal(class_weights("1,2,3,4", labels, 4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert class_weights(None, labels, 4) is None
    for text, count in (("1,2", 4), ("a,b,c,d", 4), ("1,0,1,1", 4), ("balanced", 0)):
        with pytest.raises(ArgumentError, match="--class_weights"):
            class_weights(text, labels, count)


# Flags of the scripts that run_glue.py replaces


def as_ours(line):
    return parse_arguments([JobArguments, SweepArguments], line.split(), to_own_flags)


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("--fp16", {"dtype": "fp16"}),
        ("--bf16 true", {"dtype": "bf16"}),
        ("--bf16 false", {}),
        ("--use_amp True --scale_loss 1024", {"dtype": "fp16"}),
        ("--per_device_eval_batch_size 4", {"eval_batch_size": 4}),
        ("--per-device-train-batch-size=4 --per_gpu_eval_batch_size 2", {"batch_size": 4, "eval_batch_size": 2}),
        ("--eval_strategy steps --eval_steps 5", {"eval_strategy": "steps", "eval_steps": 5}),
        ("--save_strategy no --logging_strategy steps", {}),
        ("--evaluation_strategy no --save_strategy epoch", {"eval_strategy": "no", "save_strategy": "epoch"}),
        ("--load_best_model_at_end --metric_for_best_model eval_f1", {"metric_for_best": "f1"}),
        ("--load_best_model_at_end false", {"select": "last"}),
        ("--label_smoothing_factor 0.1 --max_predict_samples 3", {"label_smoothing": 0.1, "max_predict_samples": 3}),
        ("--dataset_name a/b --dataset_config_name c", {"dataset_name": "a/b", "dataset_config_name": "c"}),
        ("--do_regression true", {"kind": "regression"}),
        ("--text_column_names a,b --label_column_name c", {"text_columns": "a,b", "label_column": "c"}),
        ("--optim adamw_torch --adam_beta2 0.98", {"optimizer": "adamw", "betas": "0.9,0.98"}),
        ("--adafactor --max_train_steps 9", {"optimizer": "adafactor", "max_steps": 9}),
        ("--adam_epsilon 1e-6 --warmup_proportion 0.1", {"eps": 1e-6, "warmup_ratio": 0.1}),
        ("--warmup_steps 0.1", {"warmup_ratio": 0.1}),
        ("--num_warmup_steps_or_radios 100 --checkpointing_steps 7", {"warmup_steps": 100, "save_steps": 7}),
        ("--lr_scheduler_type constant_with_warmup", {"schedule": "constant"}),
        ("--n_best_size 5 --max_answer_length 30 --doc_stride 64", {"n_best": 5, "max_answer": 30, "doc_stride": 64}),
        ("--pad_to_max_length False --overwrite_cache --report_to none --use_fast_tokenizer true", {}),
        ("--no_keep_model --resume_from_checkpoint true", {"keep_model": False}),
    ],
)
def test_flags_of_the_scripts_that_it_replaces_do_the_same(theirs, ours):
    assert as_ours(theirs)[0].changed() == ours


def test_flags_of_the_scripts_that_it_replaces_reach_the_sweep():
    sweep = as_ours("--overwrite_output_dir --no_cuda --seed 7 --version 1.1 --task-name SST-2")[1]
    assert (sweep.resume, sweep.device, sweep.seeds, sweep.clue_version) == (False, "cpu", "7", "1.1")
    assert as_ours("--overwrite_output_dir false")[1].resume


@pytest.mark.parametrize(
    "theirs, answer",
    [
        ("--fp16 --bf16", "--bf16 and --fp16 must not stand together"),
        ("--cache_dir x", "--cache_dir is a flag of another script: HF_HOME"),
        ("--model_revision main", "--model takes the folder"),
        ("--train_split_name train", "--train_file"),
        ("--text_column_delimiter ,", "--text_columns a,b"),
        ("--report_to wandb", "--report_to must be none: .*, got wandb"),
        ("--greater_is_better false", "--greater_is_better must be"),
        ("--optim sgd", "--optim must be one of .*adamw"),
        ("--neftune_noise_alpha 5", "--neftune_noise_alpha is a flag of another script: it has no counterpart"),
        ("--hparams {}", "--recipe electra"),
        ("--fp16 maybe", "--fp16 must be true or false, got maybe"),
        ("--eval_strategy best", "--eval_strategy must be one of no, steps, epoch"),
        ("--warmup_steps few", "--warmup_steps must be a number of steps"),
        ("--speed 3", "unknown flags --speed 3"),
    ],
)
def test_what_cannot_be_taken_is_answered_with_ours(theirs, answer):
    with pytest.raises(ArgumentError, match=answer):
        as_ours(theirs)


# Of transformers' run_glue, run_classification, run_ner, run_qa and run_swag and their no_trainer forms, PaddleNLP's
# run_glue, JunnYu's run_clue_no_trainer and its script for predictions, google-research/electra's run_finetuning.
FOREIGN = """adam_epsilon batch_size cache_dir checkpointing_steps config_name data_dir dataset_config_name
    dataset_name device do_regression doc_stride hparams hub_model_id hub_token ignore_mismatched_sizes
    label_all_tokens
    label_column_name learning_rate logging_steps lr_scheduler_type max_answer_length max_eval_samples max_grad_norm
    max_length max_predict_samples max_seq_length max_steps max_train_samples max_train_steps metric_name model_name
    model_name_or_path model_revision model_type n_best_size null_score_diff_threshold num_train_epochs
    num_warmup_steps num_warmup_steps_or_radios output_dir overwrite_cache overwrite_output_dir pad_to_max_length
    per_device_eval_batch_size per_device_train_batch_size per_gpu_eval_batch_size per_gpu_train_batch_size
    preprocessing_num_workers push_to_hub remove_columns remove_splits report_to resume_from_checkpoint
    return_entity_level_metrics save_steps scale_loss seed shuffle_seed shuffle_train_dataset task_name test_file
    test_split_name text_column_delimiter text_column_name text_column_names token tokenizer_name
    tokenizer_name_or_path train_file train_split_name trust_remote_code use_amp use_auth_token use_fast_tokenizer
    use_slow_tokenizer validation_file validation_split_name version version_2_with_negative warmup_proportion
    warmup_steps weight_decay with_tracking"""


def test_no_flag_of_another_script_is_unknown():
    """Each is taken, or its answer names it: also all of the newest Trainer's."""
    for name in {*FOREIGN.split(), *(field.name for field in dataclasses.fields(TrainingArguments))}:
        for value in ("true", "1", "no"):
            try:
                words = to_own_flags([f"--{name}", value])
            except ArgumentError as error:
                assert str(error).startswith(f"--{name} ") and "\n" not in str(error)
            else:
                known = {*flag_names(), *flag_names(SweepArguments)}
                assert {word[2:] for word in words if word.startswith("--")} <= known, name
