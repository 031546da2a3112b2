"""Flags of the scripts that ours replace are taken, or answered in one line that names ours."""

import re

import pytest

import generate_text
import run_clm
import run_mlm_wwm
from common.errors import ArgumentError
from training.arguments import (
    DataclassParser,
    ModelArguments,
    ModelParallelArguments,
    RunArguments,
    parse_arguments,
)
from training.electra_arguments import ElectraDataArguments, ElectraModelArguments, ElectraRunArguments
from training.pretraining_flags import TRAINING

CLASSES = {
    "run_clm": [run_clm.CausalModelArguments, run_clm.DataArguments, ModelParallelArguments],
    "run_mlm_wwm": [ModelArguments, run_mlm_wwm.DataArguments, RunArguments],
    "run_electra": [ElectraModelArguments, ElectraDataArguments, ElectraRunArguments],
}
PARSERS = {script: DataclassParser(classes, foreign=TRAINING) for script, classes in CLASSES.items()}
VALUES = {"device": "gpu", "dtype": "auto"}  # of flags that do not take 1
# What each replaced script takes, besides transformers' TrainingArguments.
LOADING = """
    model_name_or_path model_type config_overrides config_name tokenizer_name cache_dir use_fast_tokenizer
    model_revision token trust_remote_code dtype low_cpu_mem_usage dataset_name dataset_config_name train_file
    validation_file max_train_samples max_eval_samples overwrite_cache validation_split_percentage streaming
    preprocessing_num_workers
"""
WITHOUT_TRAINER = """
    per_device_train_batch_size per_device_eval_batch_size learning_rate weight_decay num_train_epochs
    max_train_steps gradient_accumulation_steps lr_scheduler_type num_warmup_steps output_dir seed push_to_hub
    hub_model_id hub_token checkpointing_steps resume_from_checkpoint with_tracking report_to
"""
MEGATRON = """
    num-layers hidden-size num-attention-heads hidden-dropout attention-dropout max-position-embeddings
    mem-length train-data xl-dataset transformer-xl tokenizer-type tokenizer-model-type seq-length split save
    load save-interval train-iters resume-dataloader lr lr-decay-style lr-decay-iters lr-decay-ratio warmup
    clip-grad batch-size weight-decay checkpoint-activations deepspeed-activation-checkpointing fp16
    log-interval eval-interval eval-iters deepspeed_config distributed-backend model-parallel-size
    no-load-lr-scheduler seed
"""
PADDLE = """
    model_type model_name_or_path input_dir output_dir max_predictions_per_seq batch_size learning_rate
    weight_decay adam_epsilon max_grad_norm num_train_epochs max_steps warmup_steps logging_steps save_steps
    seed device use_amp scale_loss to_static use_recompute
"""
ELECTRA = """
    train_batch_size base_run_name size schedule electra_mask_style gen_smooth_label datas disc_smooth_label
    num_workers logger lr steps max_length mask_prob adam_bias_correction sampling gen_weight
"""
SCRIPTS = [
    ("run_clm", LOADING + " block_size keep_linebreaks" + WITHOUT_TRAINER),
    ("run_clm", MEGATRON),
    ("run_mlm_wwm", LOADING + " train_ref_file validation_ref_file max_seq_length mlm_probability pad_to_max_length"),
    ("run_mlm_wwm", LOADING + " line_by_line" + WITHOUT_TRAINER),
    ("run_mlm_wwm", PADDLE),
    ("run_electra", PADDLE + ELECTRA),
]


@pytest.mark.parametrize(("script", "flags"), SCRIPTS)
def test_every_flag_of_a_replaced_script_is_taken_or_answered_with_ours(script, flags):
    known = {word for words in PARSERS[script].flags() for word in words}
    for name in flags.split():
        try:
            words = PARSERS[script].in_own_words([f"--{name}", VALUES.get(name, "1")])
        except ArgumentError as error:
            assert re.fullmatch(rf"--{name.replace('-', '_')} is a flag of another script: [^\n]+", str(error))
        else:
            assert {word for word in words if word.startswith("--")} <= known, (name, words)


def test_renamed_flags_keep_their_values():
    parser = PARSERS["run_clm"]
    command = "--seq_length 8 --validation_split_percentage 5 --adam-eps=1e-3 --keep_linebreaks true --do_train"
    own = "--max_seq_length 8 --validation_split 0.05 --adam_epsilon=1e-3 --do_train"
    assert parser.in_own_words(command.split()) == own.split()
    with pytest.raises(ArgumentError, match="--keep_linebreaks is a flag of another script: leave it out"):
        parser.in_own_words(["--keep_linebreaks", "false"])
    with pytest.raises(ArgumentError, match="--validation_split_percentage must be a number, got x"):
        parser.in_own_words(["--validation_split_percentage", "x"])
    with pytest.raises(ArgumentError, match=r"--train_file is a flag of another script: prepare .*--train_dir"):
        run_mlm_wwm.main(["--train_file", "a.txt"])
    with pytest.raises(ArgumentError, match="unknown flags --nonsense"):
        run_clm.main(["--nonsense", "1"])


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("--block_size 8 --lr=1e-3 --epochs 2", {"learning_rate": 1e-3, "num_train_epochs": 2}),
        ("--dtype bfloat16", {"bf16": True, "fp16": False}),
        ("--dtype fp32", {"bf16": False, "fp16": False}),
        ("--device cpu", {"use_cpu": True}),
        ("--betas 0.8,0.98 --eps 1e-6 --clip 0", {"adam_beta1": 0.8, "adam_beta2": 0.98, "max_grad_norm": 0}),
        ("--optimizer adamw_nobc", {"adam_bias_correction": False, "optimizer": "adamw"}),
        ("--optimizer adafactor", {"optim": "adafactor", "optimizer": "adamw"}),
        ("--adafactor", {"optim": "adafactor"}),
        ("--optimizer muon --muon_lr 0.1", {"optimizer": "muon", "muon_learning_rate": 0.1}),
        ("--lr_scheduler_type separate_linear", {"schedule": "separate_linear"}),
        ("--batch_size 3 --grad_accum 2", {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}),
        ("--per_gpu_eval_batch_size 5 --no_cuda", {"per_device_eval_batch_size": 5, "use_cpu": True}),
    ],
)
def test_words_of_the_other_scripts_of_this_repository_are_taken(tmp_path, words, changed):
    classes = CLASSES["run_clm"]
    *_, args = parse_arguments(classes, ["--output_dir", str(tmp_path), *words.split()], TRAINING)
    assert {name: getattr(args, name) for name in changed} == changed


@pytest.mark.parametrize("words", ["--dtype fp32 --fp16", "--device gpu --use_cpu", "--betas .8,.9 --adam_beta1 .9"])
def test_words_that_contradict_each_other_are_refused(words):
    with pytest.raises(ArgumentError, match="contradict each other; leave one of them out"):
        parse_arguments(CLASSES["run_clm"], words.split(), TRAINING)


def test_flags_of_other_generation_scripts():
    words = "M --prompt x --length 9 --k 3 --p 0.5 --no_cuda --prefix y"
    args = generate_text.parse(words.split())
    assert (args.max_new_tokens, args.top_k, args.top_p, args.use_cpu, args.source_prefix) == (9, 3, 0.5, True, "y")
    args = generate_text.parse(["M", "--input-source", "a.txt", "--out-seq-length", "12", "--num-beams", "2"])
    assert (args.input_file, args.max_length, args.num_beams) == ("a.txt", 12, 2)
    for flag in ("num_return_sequences", "stop_token", "model_type", "length_penalty", "mem-length", "load"):
        with pytest.raises(ArgumentError, match="is a flag of another script: "):
            generate_text.parse(["M", f"--{flag}", "1"])
    with pytest.raises(ArgumentError, match="unrecognized arguments: --nonsense"):
        generate_text.parse(["M", "--nonsense", "1"])


@pytest.mark.parametrize(
    ("words", "dtype", "use_cpu"),
    [
        ("M --fp16", "float16", False),
        ("--bf16 M", "bfloat16", False),
        ("M --dtype fp32 --device cpu", "float32", True),
        ("M --dtype float16 --fp16 --device cuda", "float16", False),
        ("M", "auto", False),
    ],
)
def test_generation_takes_the_words_of_training(words, dtype, use_cpu):
    args = generate_text.parse(words.split())
    assert (args.model, args.dtype, args.use_cpu) == ("M", dtype, use_cpu)
    with pytest.raises(ArgumentError, match="--dtype float32 and --fp16 contradict each other"):
        generate_text.parse(["M", "--dtype", "float32", "--fp16"])
