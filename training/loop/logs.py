"""Where the numbers of a run go (console, log.jsonl, TensorBoard) and how fast the hardware is used.

log.jsonl holds one object a line: the training record of every logging step, and each evaluation, whose `primary` is
the number that says which step is the best, if one does. A resumed run first drops what lies beyond its checkpoint, so
that the file is the curve of an undisturbed run.
"""

import copy
import functools
import json
import logging
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from training.files import write_whole

logger = logging.getLogger(__name__)

_MOST_PRODUCTS = 2e11  # multiplications of a model run on a CPU only to be counted: some seconds of a core

# Shares of all objectives are told in percent, as the scores of tasks are.
_FORMATS = {
    "loss": "loss {:.4f}",
    "mlm_accuracy": "accuracy {:.2%}",
    "mlm_hidden_accuracy": "of hidden tokens {:.2%}",
    "learning_rate": "lr {:.3e}",
    "grad_norm": "grad norm {:.3f}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu": "MFU {:.1%}",
    "tokens_seen": "{:.4g} tokens seen",
    "discriminator_accuracy": "discriminator accuracy {:.2%}",
    "discriminator_precision": "precision {:.2%}",
    "discriminator_recall": "recall {:.2%}",
    "generator_accuracy": "generator accuracy {:.2%}",
    "generator_hidden_accuracy": "of hidden tokens {:.2%}",
    "sampled_accuracy": "sampled {:.2%}",
    "share_replaced": "replaced {:.2%}",
    "eval_loss": "evaluation: loss {:.4f}",
    "eval_mlm_accuracy": "accuracy {:.2%}",
    "eval_mlm_hidden_accuracy": "of hidden tokens {:.2%}",
    "eval_perplexity": "perplexity {:.3f}",
    "eval_discriminator_accuracy": "discriminator accuracy {:.2%}",
    "eval_discriminator_precision": "precision {:.2%}",
    "eval_discriminator_recall": "recall {:.2%}",
    "eval_generator_accuracy": "generator accuracy {:.2%}",
    "eval_generator_hidden_accuracy": "of hidden tokens {:.2%}",
    "eval_sampled_accuracy": "sampled {:.2%}",
    "eval_share_replaced": "replaced {:.2%}",
}


class ConsoleAndFile(TrainerCallback):
    """One readable line and one JSON line per record, on the first process."""

    def __init__(self, path: Path):
        self.path = path
        self._started, self._first_step = time.monotonic(), 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._started, self._first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            rewind(self.path, state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not {"loss", "eval_loss", "primary"} & logs.keys():
            return
        record = {"step": state.global_step, "max_steps": state.max_steps, **logs}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        parts = [pattern.format(logs[name]) for name, pattern in _FORMATS.items() if name in logs]
        parts += [f"{name} {value:.4g}" for name, value in logs.items() if name not in (*_FORMATS, "epoch", "primary")]
        parts[:0] = progress(state, self._first_step, time.monotonic() - self._started, args.max_train_minutes)
        logger.info("step %s/%s  %s", f"{state.global_step:,}", f"{state.max_steps:,}", "  ".join(parts))


def progress(state, first_step: int, seconds: float, most_minutes: float | None) -> list[str]:
    """Share of its steps that a run has done and time left, in words; none of an evaluation alone.

    first_step: where this call began; seconds: what it has taken since, evaluation and checkpoints included;
    most_minutes: when it ends at the latest.
    """
    steps = state.global_step - first_step
    if not 0 < state.global_step <= state.max_steps:
        return []
    words, last_step = [], state.max_steps
    if steps > 0 and state.global_step < state.max_steps:
        left = seconds / steps * (state.max_steps - state.global_step)
        if most_minutes is not None:
            left = max(min(left, 60 * most_minutes - seconds), 0)
            last_step = state.global_step + steps / seconds * left
        words = [f"{clock(left)} left"]
    return [f"{state.global_step / last_step:.1%}", *words]


def clock(seconds: float | None) -> str:
    """3725 -> 1:02:05; nothing for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def read_log(path: Path) -> list[dict]:
    """The records of a JSON-lines log, without a line that a kill cut short; damaged ones are left out and counted."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, TypeError, KeyError):
            continue
        records.append(record)
    if len(records) < len(lines):
        logger.warning("%s: left out %d damaged lines", path, len(lines) - len(records))
    return records


def rewind(path: Path, step: int) -> None:
    """Drop the records of a JSON-lines log that lie beyond a step, and what a kill or a disk has damaged."""
    if path.is_file():
        kept = [json.dumps(record) + "\n" for record in read_log(path) if record["step"] <= step]
        write_whole(path, "".join(kept))


class TensorBoard(TensorBoardCallback):
    """transformers' writer, which here hides the events beyond the step it starts from."""

    def __init__(self, folder: str):
        super().__init__()
        self.logging_dir = folder

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.tb_writer = SummaryWriter(self.logging_dir, purge_step=state.global_step + 1)
        super().on_train_begin(args, state, control, **kwargs)


@functools.cache
def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product, the best of a few: what MFU is measured against."""
    size, repeats = (8192, 10) if device.type == "cuda" else (2048, 1)
    own = torch.Generator(device).manual_seed(0)  # the model's random numbers stay as they are
    a = torch.randn(size, size, device=device, generator=own).to(dtype)  # equal numbers cost less power
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            product = a @ a
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return repeats * 2 * size**3 / best


def training_flops(model: torch.nn.Module, run, lengths: tuple[int, int]) -> tuple[float, float]:
    """FLOPs of forward and backward of one row as (a, b) in a * tokens + b * tokens squared.

    run(model, length) must put a row of that length through the model. torch's FlopCounterMode counts the forward's
    matrix products at two lengths; the backward has two of the same cost for each, what it recomputes left out. A
    large model on a CPU, from where FSDP or DeepSpeed takes it, is not run: a copy without numbers is.
    """
    numbers = sum(parameter.numel() for parameter in model.parameters())
    if numbers * sum(lengths) > _MOST_PRODUCTS and next(model.parameters()).device.type == "cpu":
        with suppress(Exception), FakeTensorMode(allow_non_fake_inputs=True) as mode, FakeCopyMode(mode):
            return _count(copy.deepcopy(model), run, lengths)  # unless it must read numbers, or cannot be copied
    return _count(model, run, lengths)


def _count(model: torch.nn.Module, run, lengths: tuple[int, int]) -> tuple[float, float]:
    counted = []
    model.eval()  # no dropout, and so no use of the random generator
    with torch.no_grad():
        for length in lengths:
            # The fused attention of CPUs is not among the operations that the counter knows.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                run(model, length)
            counted.append(3 * counter.get_total_flops() / length)
    model.train()
    (short, long), (first, second) = lengths, counted
    square = (second - first) / (long - short)
    return first - square * short, square
