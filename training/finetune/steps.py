"""The steps of one finetuning job: its arguments, its checkpoint, its best weights, its result.

Its folder gets train_log.jsonl, checkpoints while it trains, best/ and at last result.json, which says that it is
finished. A killed job goes on from its newest checkpoint and ends with the same numbers.
"""

import copy
import json
import logging
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers

from common.errors import ArgumentError
from common.flags import flag_name
from common.secrecy import shown_command
from training.arguments import RunArguments
from training.files import CHECKSUMS, PARTIAL, broken_seal, read_json, write_whole
from training.finetune.arguments import SCHEDULE_NAMES, JobArguments
from training.finetune.job import BEST, RESULT_FILE, Job, read_result
from training.folder_lock import locked
from training.loop.checkpoints import PROGRESS, all_checkpoints, discard, newest_checkpoint, publish, remove_partial
from training.loop.schedules import SCHEDULES
from training.run_folder import first_decides
from training.sharing.adapters import merge_adapters, save_model
from training.sharing.model_folder import command_line, save_tokenizer, write_card

logger = logging.getLogger(__name__)


def job_arguments(job: Job) -> JobArguments:
    """The flags of a job. ArgumentError for those that no job has, or of another type."""
    try:
        return JobArguments(**job.settings)
    except TypeError as error:
        raise ArgumentError(f"--job {job.folder} must hold known flags of the right types: {error}") from error


def run_arguments(job: JobArguments, folder: Path, seed: int, metric: str | None, use_cpu: bool) -> RunArguments:
    """Arguments of the Trainer for settled flags. metric: what selects the best step; None without validation."""
    own = job.schedule in SCHEDULES
    every, saves = job.eval_steps or job.save_steps, job.save_steps or job.eval_steps
    evaluates = job.eval_strategy or ("steps" if every else "epoch")
    keeps = job.save_strategy or ("steps" if saves else "epoch")
    beta1, beta2 = _numbers("--betas", job.betas, 2)
    warmup = job.warmup_steps if job.warmup_steps is not None else job.warmup_ratio
    try:
        return RunArguments(
            output_dir=str(folder),
            do_train=True,
            do_eval=metric is not None,
            seed=seed,
            use_cpu=use_cpu,
            per_device_train_batch_size=job.batch_size,
            per_device_eval_batch_size=job.eval_batch_size or job.batch_size,
            gradient_accumulation_steps=job.grad_accum,
            learning_rate=job.lr,
            num_train_epochs=job.epochs,
            max_steps=2 if job.dry_run else job.max_steps,
            warmup_steps=warmup,
            weight_decay=job.weight_decay,
            schedule=job.schedule if own else None,
            lr_scheduler_type="linear" if own else SCHEDULE_NAMES[job.schedule],
            adafactor=job.optimizer == "adafactor",
            optimizer="muon" if job.optimizer == "muon" else "adamw",
            muon_learning_rate=job.muon_lr,
            adam_bias_correction=job.optimizer != "adamw_nobc",
            adam_beta1=beta1,
            adam_beta2=beta2,
            adam_epsilon=job.eps,
            max_grad_norm=job.clip,
            bf16=job.dtype == "bf16",
            fp16=job.dtype == "fp16",
            on_nan=job.on_nan,
            nan_steps=job.nan_steps,
            logging_steps=job.logging_steps,
            eval_strategy="no" if metric is None else evaluates,
            eval_steps=every if metric else None,
            save_strategy=keeps,
            save_steps=saves or 500,
            save_total_limit=1,
            metric_for_best_model=metric,
            greater_is_better=True,
            report_to=[],
        )
    except ValueError as error:
        raise ArgumentError(" ".join(str(error).split())) from error


def _numbers(flag: str, text: str, count: int) -> list[float]:
    try:
        numbers = [float(word) for word in str(text).split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ArgumentError(f"{flag} must be {count} numbers with commas between, got {text}; correct it")
    return numbers


def class_weights(setting: str | None, labels: np.ndarray, count: int) -> torch.Tensor | None:
    """Weight of each of `count` labels: as typed, or for `balanced` in inverse proportion to how often it occurs.

    labels: int64, of the training records. A label that never occurs weighs as the rarest that does.
    """
    if setting is None:
        return None
    if not count:
        raise ArgumentError("--class_weights needs a task with a set of labels; leave it out")
    if setting == "balanced":
        occurrences = np.bincount(labels, minlength=count).astype(np.float64)
        occurrences[occurrences == 0] = occurrences[occurrences > 0].min()
        return torch.tensor(occurrences.sum() / (count * occurrences), dtype=torch.float32)
    weights = torch.tensor(_numbers("--class_weights", setting, count))
    if not (weights > 0).all():
        raise ArgumentError(f"--class_weights must be positive, got {setting}; correct it")
    return weights


@contextmanager
def held(folder: Path, args) -> Iterator[dict | None]:
    """Lock a job's folder, on the first process, and clear what a killed one left; gives result.json if there is one.

    ArgumentError on all processes where another one works in the folder.
    """
    with ExitStack() as stack:

        def take() -> dict | None:
            stack.enter_context(locked(folder, f"--job {folder}"))
            remove_partial(folder)
            return read_result(folder)

        yield first_decides(args, take)


def find_checkpoint(folder: Path, args: RunArguments) -> tuple[Path | None, RunArguments]:
    """The newest usable checkpoint, None of a fresh job, and a copy of the arguments with as many rows a step as it.

    The copy is the Trainer's, which changes it. ArgumentError where none of several is usable, or processes cannot
    share so many rows.
    """
    way_out = f"move {folder} away, and the same command starts this job over"

    def decide() -> tuple:
        checkpoint = newest_checkpoint(folder, args, way_out)
        progress = checkpoint and read_json(checkpoint / PROGRESS)
        return checkpoint, progress and progress["places"] // max(progress["step"], 1)

    checkpoint, rows = first_decides(args, decide)
    args = copy.copy(args)
    if checkpoint is None:
        return None, args
    logger.info("going on from %s", checkpoint)
    share, left = divmod(rows, args.data_processes)
    if left:
        raise ArgumentError(
            f"--job {folder} was begun with {rows} rows a step, which {args.data_processes} processes cannot share; "
            f"start another number of them"
        )
    if share != args.per_device_train_batch_size * args.gradient_accumulation_steps:
        fitting = max(part for part in range(1, args.per_device_train_batch_size + 1) if share % part == 0)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = fitting, share // fitting
        logger.info("%d rows a step as before: %d x %d a process", rows, fitting, share // fitting)
    return checkpoint, args


def train(trainer, checkpoint: Path | None) -> bool:
    """Train to the end; False after a signal, which leaves another checkpoint."""
    trainer.train(checkpoint)
    return not trainer.stop.signalled


def keep_model(trainer, folder: Path) -> None:
    """Write the model and its tokenizer as they are now to best/, whole or not at all."""
    if not trainer.args.should_save:
        return
    partial = folder / f"{PARTIAL}{BEST}"
    shutil.rmtree(partial, ignore_errors=True)
    save_model(trainer.model, partial)
    save_tokenizer(trainer.processing_class, partial)
    publish(partial, folder / BEST)


def keep_selected(trainer, folder: Path, select_best: bool) -> None:
    """After training: give the model the weights that keep_model wrote last, or let it write those of now."""
    if not select_best:
        keep_model(trainer, folder)
        merge_adapters(trainer.model)
        return
    merge_adapters(trainer.model)
    trainer.accelerator.wait_for_everyone()
    weights = trainer.peers.fetch(folder / BEST)
    if (fault := broken_seal(weights)) is not None:
        raise ArgumentError(
            f"{folder / BEST} must hold the best weights as they were written, got a folder that {fault}; "
            f"move {folder} away, and the same command starts this job over"
        )
    best = type(trainer.model).from_pretrained(weights, dtype=torch.float32)
    trainer.model.load_state_dict(best.state_dict())
    trainer.peers.clear()


def finish(folder: Path, result: dict, keep_best: bool) -> None:
    """Remove what only an unfinished job needs, then write result.json, last of all and whole."""
    for checkpoint in all_checkpoints(folder):
        discard(checkpoint)  # a kill leaves no part of one behind, from which nothing could go on
    if keep_best:
        (folder / BEST / CHECKSUMS).unlink(missing_ok=True)
        if (folder / BEST / "config.json").is_file():  # not of a job that only evaluates
            _write_card(folder / BEST, result)
    else:
        shutil.rmtree(folder / BEST, ignore_errors=True)
    write_whole(folder / RESULT_FILE, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def _write_card(folder: Path, result: dict) -> None:
    """Of the best weights of a job."""
    flags = {"tasks": result["task"], "seed": result["seed"]} | result["settings"]
    words = [word for name, value in flags.items() for word in (f"--{flag_name(name)}", str(value))]
    splits = (f"{split} {numbers['records']:,} records" for split, numbers in result["splits"].items())
    scores = result["metrics"] | {f"test_{name}": value for name, value in result["test"].items()}
    data = f"The task {result['task']}: {', '.join(splits)}."
    write_card(folder, data, command_line(["run_glue.py", *words]), scores, result["settings"].get("model"))


def surroundings(device: torch.device) -> dict:
    """What a result was made with: device, most memory in bytes, versions, commit, command."""
    cuda = device.type == "cuda"
    memory = (
        torch.cuda.max_memory_allocated(device) if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads",
        "peak_memory": memory,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "commit": _commit(),
        "command": shown_command(sys.argv),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def describe_run(job: Job, settings: JobArguments, trainer) -> dict:
    """What result.json says of the job itself and of the course of its training."""
    args, state = trainer.args, trainer.state
    rows = state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.data_processes
    last = next((logs for logs in reversed(state.log_history) if "primary" in logs), {})
    return {
        "task": job.task,
        "config": job.config,
        "seed": job.seed,
        "settings": job.settings,
        "init_from": str(job.init_from) if job.init_from else None,
        "arguments": asdict(settings),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "steps": state.global_step,
        "max_steps": args.max_steps,
        "best_step": state.best_global_step,
        "last": {name.removeprefix("eval_"): value for name, value in last.items() if name.startswith("eval_")},
        "samples_per_second": rows / trainer.stop.seconds if trainer.stop.seconds else None,
    }


def _commit() -> str | None:
    """Of this repository; None outside of git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
