"""Flags of the scripts that ours replace are taken, or answered in one line that names ours."""

import re

import pytest

import generate_text
import run_clm
import run_mlm_wwm
from common.errors import ArgumentError
from training.arguments import ModelArguments, ModelParallelArguments, RunArguments
from training.electra_arguments import ElectraDataArguments, ElectraModelArguments, ElectraRunArguments
from training.pretraining_flags import known_flags, to_own_flags

KNOWN = {
    "run_clm": known_flags([run_clm.CausalModelArguments, run_clm.DataArguments, ModelParallelArguments]),
    "run_mlm_wwm": known_flags([ModelArguments, run_mlm_wwm.DataArguments, RunArguments]),
    "run_electra": known_flags([ElectraModelArguments, ElectraDataArguments, ElectraRunArguments]),
}
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
SCRIPTS = [
    ("run_clm", LOADING + " block_size keep_linebreaks" + WITHOUT_TRAINER),
    ("run_clm", MEGATRON),
    ("run_mlm_wwm", LOADING + " train_ref_file validation_ref_file max_seq_length mlm_probability pad_to_max_length"),
    ("run_mlm_wwm", LOADING + " line_by_line" + WITHOUT_TRAINER),
    ("run_mlm_wwm", PADDLE),
    ("run_electra", PADDLE + " train_batch_size base_run_name size schedule electra_mask_style gen_smooth_label datas "
     "disc_smooth_label num_workers logger lr steps max_length mask_prob adam_bias_correction sampling gen_weight"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "flags"), SCRIPTS)
def test_every_flag_of_a_replaced_script_is_taken_or_answered_with_ours(script, flags):
    for name in flags.split():
        try:
            words = to_own_flags([f"--{name}", "1"], KNOWN[script])
        except ArgumentError as error:
            assert re.fullmatch(rf"--{name.replace('-', '_')} is a flag of another script: [^\n]+", str(error))
        else:
            assert all(word.removeprefix("--") in KNOWN[script] for word in words if word.startswith("--")), (
                name,
                words,
            )


def test_renamed_flags_keep_their_values():
    command = "--block_size 8 --validation_split_percentage 5 --lr=1e-3 --keep_linebreaks true --do_train"
    found = to_own_flags(command.split(), KNOWN["run_clm"])
    assert found == ["--max_seq_length", "8", "--validation_split", "0.05", "--learning_rate", "1e-3", "--do_train"]
    with pytest.raises(ArgumentError, match="--keep_linebreaks is a flag of another script: leave it out"):
        to_own_flags(["--keep_linebreaks", "false"], KNOWN["run_clm"])
    with pytest.raises(ArgumentError, match="--validation_split_percentage must be a number, got 'x'"):
        to_own_flags(["--validation_split_percentage", "x"], KNOWN["run_clm"])
    with pytest.raises(ArgumentError, match=r"--train_file is a flag of another script: prepare .*--train_dir"):
        run_mlm_wwm.main(["--train_file", "a.txt"])
    with pytest.raises(ArgumentError, match="unknown flags --nonsense"):
        run_clm.main(["--nonsense", "1"])


def test_flags_of_other_generation_scripts():
    found = generate_text.parse(
        ["M", "--prompt", "x", "--length", "9", "--k", "3", "--p", "0.5", "--no_cuda", "--prefix", "y"]
    )
    assert (found.max_new_tokens, found.top_k, found.top_p, found.use_cpu, found.source_prefix) == (
        9,
        3,
        0.5,
        True,
        "y",
    )
    found = generate_text.parse(["M", "--input-source", "a.txt", "--out-seq-length", "12", "--num-beams", "2"])
    assert (found.input_file, found.max_length, found.num_beams) == ("a.txt", 12, 2)
    for flag in ("fp16", "num_return_sequences", "stop_token", "model_type", "length_penalty", "mem-length", "load"):
        with pytest.raises(ArgumentError, match="is a flag of another script: "):
            generate_text.parse(["M", f"--{flag}", "1"])
    with pytest.raises(ArgumentError, match="unrecognized arguments: --nonsense"):
        generate_text.parse(["M", "--nonsense", "1"])
