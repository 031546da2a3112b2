"""Flags of the scripts that run_glue.py replaces do the same here, or are answered in one line that names ours."""

import dataclasses

import pytest
from transformers import TrainingArguments

from common.errors import ArgumentError
from training.arguments import DataclassParser, parse_arguments
from training.finetune.arguments import JobArguments, SweepArguments
from training.finetune.replaced_flags import REPLACED

CLASSES = [JobArguments, SweepArguments]


def as_ours(line):
    return parse_arguments(CLASSES, line.split(), REPLACED)


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
        (
            "--adam_beta2 0.98 --epochs 9 --override --betas 0.8,0.9 --num_train_epochs 3",
            {"betas": "0.8,0.9", "epochs": 3},
        ),
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
        ("--fp16 --bf16", "--fp16 and --bf16 contradict each other; leave one of them out"),
        ("--cache_dir x", "--cache_dir is a flag of another script: HF_HOME"),
        ("--model_revision main", "--model_name_or_path takes the folder"),
        ("--train_split_name train", "--train_file"),
        ("--text_column_delimiter ,", "--text_column_name a,b"),
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
    parser = DataclassParser(CLASSES, foreign=REPLACED)
    known = {word for words in parser.flags() for word in words}
    for name in {*FOREIGN.split(), *(field.name for field in dataclasses.fields(TrainingArguments))}:
        for value in ("true", "1", "no"):
            try:
                words = parser.in_own_words([f"--{name}", value])
            except ArgumentError as error:
                assert str(error).startswith(f"--{name} ") and "\n" not in str(error)
            else:
                assert {word for word in words if word.startswith("--")} <= known, name
