"""Flags of the scripts that run_glue.py replaces, as its own.

Those scripts are transformers' run_glue, run_classification, run_ner, run_qa and run_swag with all flags of its
Trainer, their no_trainer forms, PaddleNLP's run_glue, JunnYu's run_clue_no_trainer and google-research/electra's
run_finetuning. A flag that means the same under another name is an alias in training/finetune/arguments.py. Here stand
those whose value has to be rewritten, those that ask for what is done anyway, and those that cannot be taken, which
are answered by ours.
"""

from collections.abc import Callable, Mapping, Sequence

from common.errors import ArgumentError
from common.flags import FALSE, OVERRIDE, TRUE, Foreign, split_flags, switch
from training.arguments import RunArguments

_OPTIMIZERS = {"adafactor": "adafactor"} | dict.fromkeys(
    ("adamw", "adamw_hf", "adamw_torch", "adamw_torch_fused"), "adamw"
)
_SCHEDULES = {"constant_with_warmup": "constant", "polynomial": "poly"}


def _warmup(value: str) -> list[str]:
    """Steps, or as a number below 1 the share of all."""
    try:
        return ["--warmup_ratio" if 0 < float(value) < 1 else "--warmup_steps", value]
    except ValueError:
        raise ValueError("a number of steps, or a share of them below 1") from None


def _optimizer(value: str) -> list[str]:
    if value not in _OPTIMIZERS:
        raise ValueError(f"one of {', '.join(_OPTIMIZERS)}; --optimizer has muon and adamw_nobc besides")
    return ["--optimizer", _OPTIMIZERS[value]]


def _resume(value: str) -> list[str]:
    if value.lower() in FALSE:
        return ["--resume", "false"]
    if value.lower() not in (*TRUE, "auto", "last"):
        raise ValueError("true or false, for the same command goes on from its newest checkpoint")
    return []


def _only(*allowed: str, instead: str) -> Callable[[str], list[str]]:
    def rewrite(value: str) -> list[str]:
        if value.lower() not in allowed:
            raise ValueError(f"{allowed[-1]}: {instead}")
        return []

    return rewrite


_REWRITTEN: Mapping[str, Callable[[str], list[str]]] = {
    "fp16": switch("--dtype fp16"),
    "bf16": switch("--dtype bf16"),
    "use_amp": switch("--dtype fp16"),
    "load_best_model_at_end": switch("--select best", "--select last"),
    "overwrite_output_dir": switch("--resume false"),
    "no_cuda": switch("--device cpu"),
    "use_cpu": switch("--device cpu"),
    "do_regression": switch("--kind regression", "--kind classification"),
    "adafactor": switch("--optimizer adafactor"),
    "optim": _optimizer,
    "warmup_steps": _warmup,
    "num_warmup_steps_or_radios": _warmup,
    "lr_scheduler_type": lambda value: ["--lr_scheduler_type", _SCHEDULES.get(value, value)],
    "checkpointing_steps": lambda value: ["--save_strategy", "epoch"] if value == "epoch" else ["--save_steps", value],
    # A finished job holds no checkpoints but best/.
    "save_strategy": lambda value: [] if value in ("no", "best") else ["--save_strategy", value],
    "metric_for_best_model": lambda value: ["--metric_for_best", value.removeprefix("eval_")],
    "resume_from_checkpoint": _resume,
    "logging_strategy": _only("steps", instead="--logging_steps says how often"),
    "report_to": _only("none", instead="a job writes train_log.jsonl, which plot_run.py draws"),
    "greater_is_better": _only(*TRUE, instead="all metrics are better when greater"),
    "use_fast_tokenizer": _only(*TRUE, instead="only fast tokenizers are read"),
    "use_slow_tokenizer": _only(*FALSE, instead="only fast tokenizers are read"),
    "dataloader_drop_last": _only(*FALSE, instead="every row is seen"),
    "use_auth_token": _only(*FALSE, instead="log in with hf auth login"),
    "version_2_with_negative": _only(*FALSE, instead="such questions are trained on, but each gets an answer"),
    "label_all_tokens": _only(*FALSE, instead="a word's tag stands at its first token"),
    "return_entity_level_metrics": _only(*FALSE, instead="eval_preds.jsonl holds every tag"),
}
# What they ask for is done anyway, or changes nothing that a result holds.
_IDLE = """
    overwrite_cache pad_to_max_length preprocessing_num_workers dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_in_order
    dataloader_multiprocessing_context disable_tqdm remove_unused_columns save_total_limit log_level
    log_level_replica log_on_each_node logging_dir logging_first_step logging_nan_inf_filter run_name
    ddp_find_unused_parameters ddp_timeout ddp_backend local_rank skip_memory_metrics shuffle_train_dataset
    ignore_mismatched_sizes save_safetensors eval_accumulation_steps average_tokens_across_devices
    group_by_length scale_loss evaluate_during_training save_on_each_node include_for_metrics label_names
    use_cache
"""
_ANSWERED = {
    "cache_dir": "HF_HOME in the environment says where downloads lie",
    "config_name": "the config is that of --model_name_or_path",
    "data_seed": "--seeds decides the order of rows, too",
    "deepspeed": "each process holds the whole model; start several with torchrun",
    "fsdp": "each process holds the whole model; start several with torchrun",
    "auto_find_batch_size": "--per_device_train_batch_size with --gradient_accumulation_steps",
    "gradient_checkpointing": "--per_device_train_batch_size with --gradient_accumulation_steps",
    "eval_on_start": "--do_eval alone scores a model without training",
    "hparams": "--recipe electra, --tasks and the flags of --help",
    "metric_name": "--metric_for_best_model",
    "model_name": "--model_name_or_path",
    "model_revision": "--model_name_or_path takes the folder of a revision",
    "null_score_diff_threshold": "each question gets an answer",
    "remove_columns": "--text_column_name and --label_column_name name what is read",
    "remove_splits": "--train_file, --validation_file and --test_file name what is read",
    "shuffle_seed": "--seeds",
    "test_split_name": "--test_file",
    "text_column_delimiter": "--text_column_name a,b reads two columns as a pair",
    "token": "log in with hf auth login",
    "train_split_name": "--train_file",
    "use_liger_kernel": "--bf16 is what speeds up",
    "validation_split_name": "--validation_file",
    "with_tracking": "a job writes train_log.jsonl, which plot_run.py draws",
}
# Flags of transformers' Trainer that nothing above knows.
_OTHERS = dict.fromkeys(
    RunArguments.__dataclass_fields__, "it has no counterpart here; leave it out, --help lists all flags"
)


def _join_betas(argv: Sequence[str]) -> list[str]:
    """Adam's betas, which have a flag each elsewhere, as one: --betas 0.9,0.999."""
    if OVERRIDE in argv:
        at = argv.index(OVERRIDE)
        return [*_join_betas(argv[:at]), OVERRIDE, *_join_betas(argv[at + 1 :])]
    betas, words = {}, []
    for typed in split_flags(argv):
        name = typed.flag.removeprefix("--").replace("-", "_")
        if name in ("adam_beta1", "adam_beta2") and typed.values:
            betas[name] = typed.values[0]
        else:
            words += typed.words()
    if betas and any(word.startswith("--betas") for word in words):
        raise ArgumentError(f"--betas must stand without --{' and --'.join(betas)}; leave one of them out")
    joined = f"{betas.get('adam_beta1', 0.9)},{betas.get('adam_beta2', 0.999)}"
    return [*words, "--betas", joined] if betas else words


REPLACED = Foreign(rewritten=_REWRITTEN, idle=_IDLE.split(), answered=_OTHERS | _ANSWERED, prepare=_join_betas)
