"""Samples of a model in training at each evaluation, or without held-out data whenever the loss is logged.

They go to samples.jsonl in output_dir, whole, to the console, the first few, and to TensorBoard and the other loggers
as text; numbers of theirs as curves. Neither weights nor random numbers of the run know of it.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback

from training.loop.logs import rewind

logger = logging.getLogger(__name__)

SAMPLES = "samples.jsonl"
_SHOWN = 3  # samples of a report on the console


class Samples(TrainerCallback):
    """Asks for samples, and writes them where a run's records go.

    ask: () -> texts by their names, of each sample, the answer last, and numbers of all of them; `ask.model` is the
    model. All processes ask, and the first one writes. trainer: whose run it is.
    """

    def __init__(self, trainer, ask: Callable[[], tuple[list[dict[str, str]], dict[str, float]]]):
        self._trainer, self._ask = trainer, ask

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            rewind(Path(args.output_dir, SAMPLES), state.global_step)

    def on_evaluate(self, args, state, control, **kwargs):
        if self._trainer.is_in_train:
            self._report(self._trainer)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs and self._trainer.evaluator is None:
            with self._trainer.progress.paused():
                self._report(self._trainer)

    def _report(self, trainer) -> None:
        """Of the model as it is now."""
        self._ask.model.eval()
        devices = [] if trainer.args.device.type == "cpu" else [trainer.args.device]
        with (
            torch.no_grad(),
            trainer.accelerator.autocast(),
            torch.compiler.set_stance("force_eager"),  # no graphs for lengths that are seen here alone
            torch.random.fork_rng(devices, device_type=trainer.args.device.type),
        ):
            torch.manual_seed(trainer.args.seed)
            records, numbers = self._ask()
        table = "\n".join(["| sample |", "|---|", *(f"| {_cell(record)} |" for record in records)])
        logs = {**numbers, "samples": table}
        trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, logs)
        if trainer.state.is_world_process_zero:
            self._write(trainer.args.output_dir, trainer.state.global_step, records, numbers)

    @staticmethod
    def _write(folder: str, step: int, records: list[dict[str, str]], numbers: dict[str, float]) -> None:
        with open(Path(folder, SAMPLES), "a", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps({"step": step, **record}, ensure_ascii=False) + "\n")
        lines = [f"  {list(record.values())[-1]}" for record in records[:_SHOWN]]
        count = f"{len(records)} sample{'s' if len(records) > 1 else ''}"
        told = "".join(f", {name} {value:.2%}" for name, value in numbers.items())
        more = f", all in {Path(folder, SAMPLES)}" if len(records) > _SHOWN else ""
        logger.info("%s", "\n".join((f"step {step:,}  {count}{told}{more}", *lines)))


def _cell(record: dict[str, str]) -> str:
    """The answer of a sample in a table of Markdown."""
    text = " ".join(list(record.values())[-1].splitlines())
    return text.replace("|", "\\|")
