"""Flags of the scripts that run_glue.py replaces, as its own.

Those scripts are transformers' run_glue, run_classification, run_ner, run_qa and run_swag with all flags of its
Trainer, their no_trainer forms, PaddleNLP's run_glue, JunnYu's run_clue_no_trainer and google-research/electra's
run_finetuning. A flag that means the same under another name is an alias in training/finetune/arguments.py. Here stand
those whose value has to be rewritten, those that ask for what is done anyway, and those that cannot be taken, which
are answered by ours.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields

from common.errors import ArgumentError
from training.arguments import RunArguments

logger = logging.getLogger(__name__)

_TRUE, _FALSE = ("", "1", "yes", "true"), ("0", "no", "false")
_OPTIMIZERS = {"adafactor": "adafactor"} | dict.fromkeys(
    ("adamw", "adamw_hf", "adamw_torch", "adamw_torch_fused"), "adamw"
)
_SCHEDULES = {"constant_with_warmup": "constant", "polynomial": "poly"}


def _switch(on: str = "", off: str = "") -> Callable[[str], list[str]]:
    """A flag of yes or no -> words for either."""

    def rewrite(value: str) -> list[str]:
        if value.lower() not in (*_TRUE, *_FALSE):
            raise ValueError("true or false")
        return (on if value.lower() in _TRUE else off).split()

    return rewrite


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
    if value.lower() in _FALSE:
        return ["--resume", "false"]
    if value.lower() not in (*_TRUE, "auto", "last"):
        raise ValueError("true or false, for the same command goes on from its newest checkpoint")
    return []


def _only(*allowed: str, instead: str) -> Callable[[str], list[str]]:
    def rewrite(value: str) -> list[str]:
        if value.lower() not in allowed:
            raise ValueError(f"{allowed[-1]}: {instead}")
        return []

    return rewrite


_REWRITTEN: Mapping[str, Callable[[str], list[str]]] = {
    "fp16": _switch("--dtype fp16"),
    "bf16": _switch("--dtype bf16"),
    "use_amp": _switch("--dtype fp16"),
    "load_best_model_at_end": _switch("--select best", "--select last"),
    "overwrite_output_dir": _switch("--resume false"),
    "no_cuda": _switch("--device cpu"),
    "use_cpu": _switch("--device cpu"),
    "do_regression": _switch("--kind regression", "--kind classification"),
    "adafactor": _switch("--optimizer adafactor"),
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
    "greater_is_better": _only(*_TRUE, instead="all metrics are better when greater"),
    "use_fast_tokenizer": _only(*_TRUE, instead="only fast tokenizers are read"),
    "use_slow_tokenizer": _only(*_FALSE, instead="only fast tokenizers are read"),
    "dataloader_drop_last": _only(*_FALSE, instead="every row is seen"),
    "push_to_hub": _only(*_FALSE, instead="results stay in --output_dir"),
    "use_auth_token": _only(*_FALSE, instead="log in with hf auth login"),
    "version_2_with_negative": _only(*_FALSE, instead="such questions are trained on, but each gets an answer"),
    "label_all_tokens": _only(*_FALSE, instead="a word's tag stands at its first token"),
    "return_entity_level_metrics": _only(*_FALSE, instead="eval_preds.jsonl holds every tag"),
}
# What they ask for is done anyway, or changes nothing that a result holds.
_ANYWAY = {
    "overwrite_cache", "pad_to_max_length", "preprocessing_num_workers", "dataloader_num_workers",
    "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_in_order", "dataloader_multiprocessing_context", "disable_tqdm", "remove_unused_columns",
    "save_total_limit", "log_level", "log_level_replica", "log_on_each_node", "logging_dir",
    "logging_first_step", "logging_nan_inf_filter", "run_name", "ddp_find_unused_parameters", "ddp_timeout",
    "ddp_backend", "local_rank", "skip_memory_metrics", "shuffle_train_dataset", "ignore_mismatched_sizes",
    "save_safetensors", "eval_accumulation_steps", "average_tokens_across_devices", "group_by_length",
    "scale_loss", "evaluate_during_training", "save_on_each_node", "include_for_metrics", "label_names",
    "use_cache",
}  # fmt: skip
_ANSWERED = {
    "cache_dir": "HF_HOME in the environment says where downloads lie",
    "config_name": "the config is that of --model",
    "data_seed": "--seeds decides the order of rows, too",
    "deepspeed": "each process holds the whole model; start several with torchrun",
    "fsdp": "each process holds the whole model; start several with torchrun",
    "auto_find_batch_size": "--batch_size with --grad_accum",
    "gradient_checkpointing": "--batch_size with --grad_accum",
    "eval_on_start": "--do_eval alone scores a model without training",
    "hparams": "--recipe electra, --tasks and the flags of --help",
    "hub_model_id": "results stay in --output_dir",
    "hub_token": "log in with hf auth login",
    "metric_name": "--metric_for_best",
    "model_name": "--model",
    "model_revision": "--model takes the folder of a revision",
    "null_score_diff_threshold": "each question gets an answer",
    "remove_columns": "--text_columns and --label_column name what is read",
    "remove_splits": "--train_file, --validation_file and --test_file name what is read",
    "shuffle_seed": "--seeds",
    "test_split_name": "--test_file",
    "text_column_delimiter": "--text_columns a,b reads two columns as a pair",
    "token": "log in with hf auth login",
    "train_split_name": "--train_file",
    "use_liger_kernel": "--dtype bf16 is what speeds up",
    "validation_split_name": "--validation_file",
    "with_tracking": "a job writes train_log.jsonl, which plot_run.py draws",
}
_TRAINERS = frozenset(field.name for field in fields(RunArguments))


def rewrite_flags(argv: Sequence[str], known: set[str]) -> list[str]:
    """A command line in which all flags are ours.

    known: names of ours and their aliases, without dashes in front.

    Raises:
        ArgumentError: a flag that has no counterpart, or a value of one; the line says what to use instead.
    """
    words, betas, precisions = [], {}, set()
    for flag, values in split_flags(argv):
        name = flag.removeprefix("--").replace("-", "_")
        value = values[0] if values else ""
        if name in ("adam_beta1", "adam_beta2"):
            betas[name] = value
        elif name in _REWRITTEN and len(values) < 2:
            words += (found := _rewritten(name, value))
            precisions |= {name} if found[:1] == ["--dtype"] else set()
        elif name in known or not flag.startswith("--"):
            words += [flag if not flag.startswith("--") else f"--{name}", *values]
        elif name in _ANYWAY:
            logger.info("--%s is taken, and changes nothing here", name)
        elif name in _ANSWERED or name in _TRAINERS:
            instead = _ANSWERED.get(name, "it has no counterpart here; leave it out, --help lists all flags")
            raise ArgumentError(f"--{name} is a flag of another script: {instead}")
        else:
            words += [flag, *values]
    if len(precisions) > 1:
        raise ArgumentError(f"--{' and --'.join(sorted(precisions))} must not stand together; leave one of them out")
    if betas:
        words += ["--betas", f"{betas.get('adam_beta1', 0.9)},{betas.get('adam_beta2', 0.999)}"]
    return words


def _rewritten(name: str, value: str) -> list[str]:
    try:
        return _REWRITTEN[name](value)
    except ValueError as error:
        raise ArgumentError(f"--{name} must be {error}, got {value or 'nothing'}; change it") from None


def split_flags(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (flag, values) of a command line; words before the first flag come one by one."""
    flag, values = None, []
    for word in argv:
        if not word.startswith("--"):
            if flag is None:
                yield word, []
            values.append(word)
            continue
        if flag is not None:
            yield flag, values
        flag, equals, value = word.partition("=")
        values = [value] if equals else []
    if flag is not None:
        yield flag, values
