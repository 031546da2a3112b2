"""What a run tells of itself: at its start what it will do and where, at its end where the model is and what is next.

The first process alone tells it, in one block of lines. None of it waits for the device.
"""

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback

from common.script import next_command
from training.files import read_json
from training.finetune.job import BEST
from training.run_folder import RUN_FILE

logger = logging.getLogger(__name__)

MUCH_PADDING = 0.05  # share of the positions from which on the flag that lowers it is worth a word


class RunReport(TrainerCallback):
    """Tells at the start of training what the run is.

    args: RunArguments, settled; batches: this process's training batches (data/batches/); lengths: int64 [rows],
    tokens of each row; lowered_by: flags that lower the share of padding.
    """

    def __init__(self, args, batches, lengths, lowered_by: Sequence[str] = ()):
        self.batches, self.lengths, self.lowered_by = batches, lengths, lowered_by
        self.tensorboard = tensorboard_folder(args)
        self.parameters = self.trained = 0

    def on_init_end(self, args, state, control, model=None, **kwargs):
        """Before the model is cut into parts or spread over processes."""
        sizes = [(_size(parameter), parameter.requires_grad) for parameter in model.parameters()]
        self.parameters = sum(size for size, _ in sizes)
        self.trained = sum(size for size, is_trained in sizes if is_trained)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            lines = [f"  {name:<12}{text}" for name, text in self.facts(args, state).items()]
            logger.info("%s", "\n".join(("this run", *lines)))

    def facts(self, args, state) -> dict[str, str]:
        """Name and text of each line."""
        facts = {
            "device": f"{describe_device(args)}; {describe_processes(args)}",
            "a step": self._step(args),
            "model": f"{self.parameters:,} parameters"
            + ("" if self.trained == self.parameters else f", {self.trained:,} of them trained"),
            "course": self._course(args, state),
        }
        if self.batches.sources is not None:
            facts["corpora"] = self.batches.sources
        if self.batches.padding is not None:
            facts["padding"] = self._padding(self.batches.padding, self.batches.padding_unpacked)
        if self.tensorboard is not None:
            folder = shlex.quote(str(self.tensorboard))
            facts["curves"] = f"{folder}, shown by: tensorboard --logdir {folder}"
        return facts

    def _step(self, args) -> str:
        rows = self.batches.step_size
        parts = f"{args.train_batch_size} x {args.gradient_accumulation_steps} accumulation x {args.data_processes}"
        tokens = rows * float(self.lengths.mean())
        return f"{rows:,} rows ({parts} process{'es' if args.data_processes > 1 else ''}), {tokens:,.0f} tokens"

    def _padding(self, share: float, unpacked: float | None) -> str:
        text = f"{share:.1%} of the positions"
        if unpacked is not None and unpacked != share:
            text += f" ({unpacked:.1%} in rows of the corpus)"
        if share > MUCH_PADDING and self.lowered_by:
            text += f"; {' or '.join(self.lowered_by)} lowers it"
        return text

    def _course(self, args, state) -> str:
        steps = self.batches.steps
        epochs = self.batches.epoch_at(steps * self.batches.step_size)
        course = f"{steps:,} steps, {epochs:.3g} epochs of {len(self.lengths):,} rows"
        if state.global_step:
            course += f", from step {state.global_step:,} on"
        if args.max_train_minutes is not None:
            course += f"; at most {args.max_train_minutes:g} minutes"
        return course


def tensorboard_folder(args) -> Path | None:
    """Where TensorBoard's files of a run are written; None where they are not."""
    return Path(args.logging_dir or Path(args.output_dir) / "runs") if "tensorboard" in args.report_to else None


def describe_device(args) -> str:
    """The device of a process, and the precision it computes in."""
    precision = {"fp16": "fp16", "bf16": "bf16"}.get(args.mixed_precision, "fp32")
    if args.device.type != "cuda":
        return f"{args.device.type}, {torch.get_num_threads()} threads, {precision}"
    return f"{torch.cuda.get_device_name(args.device)}, {precision}"


def describe_processes(args) -> str:
    """How many train together, and how to start more where a launcher was used and started one."""
    if args.world_size > 1:
        share = f", {args.model_parallel_size} to a model" if args.model_parallel_size > 1 else ""
        return f"{args.world_size} processes{share}"
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return "1 process, all that accelerate launch starts with --cpu; torchrun --nproc_per_node N starts more"
    if any(name.startswith("ACCELERATE_") for name in os.environ):
        return "1 process, which is all that accelerate launch started; --num_processes N starts more"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "1 process, which is all that torchrun started; --nproc_per_node N starts more"
    return "1 process"


def _size(parameter: torch.Tensor) -> int:
    """Numbers in a parameter, also in one that DeepSpeed has spread over processes."""
    return getattr(parameter, "ds_numel", parameter.numel())


def tell_end(args, models: Sequence[Path | str], commands: Sequence[str]) -> None:
    """After a run in args.output_dir: whether it is finished, where its models are, and what to do next."""
    if args.process_index:
        return
    finished = "finished" in read_json(Path(args.output_dir, RUN_FILE))
    written = all(Path(model, "config.json").is_file() for model in models)  # not after a signal
    where = " and ".join(map(str, models))
    if finished or (written and args.schedule_by_time):  # whose rate has come down with the minutes
        lines = [f"finished: the model is in {where}; next, for example", *(f"  {command}" for command in commands)]
        logger.info("%s", "\n".join(lines))
    elif written:
        logger.info("not finished: the model as it is now is in %s; the same command goes on", where)


def padding_flags(args, data_args) -> list[str]:
    """Flags that lower the padding of a masked LM's or ELECTRA's batches and were not given."""
    flags = [] if args.train_sampling_strategy == "group_by_length" else ["--group_by_length"]
    if data_args.packing == "none":
        flags.append("--packing concat")
    return flags


def finetuning_command(model: Path | str, output_dir: str) -> str:
    """A line that finetunes an encoder; DATA is the reader's word. output_dir: of the run that trained it."""
    words = ("--model_name_or_path", model, "--data_dir", "DATA", "--tasks", "afqmc")
    return next_command("run_glue.py", *words, "--output_dir", f"{output_dir}_tasks")


def tell_sweep(jobs: Sequence, devices: Sequence[str], jobs_per_device: int, output_dir: str) -> None:
    """Before the jobs of a sweep (training/finetune/job.py): how many there are, where they run and leave results."""
    tasks, configurations, seeds = ({getattr(job, name) for job in jobs} for name in ("task", "config", "seed"))
    places = ", ".join(device if device == "cpu" else f"GPU {device}" for device in devices)
    logger.info(
        "%s",
        f"{len(jobs)} jobs: {len(tasks)} tasks, {len(configurations)} configurations, {len(seeds)} seeds; "
        f"{len(devices) * jobs_per_device} at a time on {places}; results in {output_dir}",
    )


def tell_results(output_dir: Path, chosen: Mapping[str, str]) -> None:
    """After one job or a sweep: where the results and the best weights are. chosen: task -> folder of its best job."""
    models = [str(Path(folder, BEST)) for folder in chosen.values() if Path(folder, BEST).is_dir()]
    runs = [f"{task}={folder}" for task, folder in chosen.items()]
    lines = [f"finished: results are summed up in {output_dir / 'summary.md'}"]
    lines += [f"  best weights: {model}" for model in models]
    lines += ["  next, for example", f"  {next_command('plot_run.py', *runs, '--output', output_dir / 'curves.png')}"]
    logger.info("%s", "\n".join(lines))
