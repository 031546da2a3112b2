"""What transformers does not keep of a run: the place in the data, what was summed since the last log, the speed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import send_to_device

from common.errors import ArgumentError
from training.loop.logs import measured_peak, training_flops
from training.loop.metric_sums import MetricSums, summary


class Progress:
    """How far a run is, as its log and its checkpoints say it.

    batches: the training sampler, None without training. args: the run's. accelerator: sums over processes.
    """

    def __init__(self, batches, args, accelerator):
        self.sums = MetricSums()  # since the last log
        self._batches, self._args, self._accelerator = batches, args, accelerator
        self._start = (0, 0)  # step and place of the data stream that this call starts from
        self._logged_step = self._tokens_seen = 0  # as of the last log
        self._row_flops, self._peak = (0.0, 0.0), 0.0
        self.start_clock()

    def places(self, step: int) -> int:
        """Places of the data stream that lie behind a step."""
        first_step, place = self._start
        return place + (step - first_step) * self._batches.step_size

    def epoch(self, step: int) -> float:
        return self._batches.epoch_at(self.places(step))

    def count(self, batch: dict) -> None:
        """Tokens and FLOPs of a micro-batch whose attention_mask is [B, T]."""
        lengths = batch["attention_mask"].sum(-1, dtype=torch.float64)
        linear, square = self._row_flops
        self.sums.count("tokens", int(lengths.sum()))
        self.sums.count("flops", float(linear * lengths.sum() + square * lengths.square().sum()))

    def _totals(self) -> dict[str, float | list[float]]:
        """The sums since the last log over all processes."""
        return self.sums.totals(self._accelerator, self._args.model_parallel_size)

    # Speed

    def measure(self, model: torch.nn.Module, objective) -> None:
        """Learn the FLOPs of a row, and those a second that the hardware is capable of."""
        device = next(model.parameters()).device  # DeepSpeed and FSDP move the model only when training starts

        def run_row(model, length: int) -> None:
            with self._accelerator.autocast():
                objective(model, send_to_device(objective.example(length), device))

        self._row_flops = training_flops(model, run_row, objective.example_lengths)
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self._args.mixed_precision, torch.float32)
        self._peak = measured_peak(self._args.device, dtype) * self._args.world_size

    def start_clock(self) -> None:
        self._clock = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens meanwhile is no training, and its time does not count for the speed."""
        started = time.perf_counter()
        yield
        self._clock += time.perf_counter() - started

    # Logs

    def training_record(self, logs: dict, step: int, histograms: dict) -> dict[str, float]:
        """What is logged of the steps since the last log, which ends here: exact means instead of transformers'."""
        totals = self._totals()
        rates = {name: logs[name] for name in ("learning_rate", "grad_norm") if name in logs}
        bad = {name: int(totals[name]) for name in ("skipped_steps", "nonfinite_steps") if totals.get(name)}
        loss = totals["loss"] / (step - self._logged_step)
        record = {"loss": loss, **summary(totals, histograms), **rates, **self._speed(totals), **bad}
        self.sums.clear()
        self._logged_step = step
        return record

    def _speed(self, totals: dict[str, float]) -> dict[str, float]:
        """Speed since the last log, evaluation and checkpoints left out."""
        seconds = max(time.perf_counter() - self._clock, 1e-9)
        self._clock += seconds
        self._tokens_seen += int(totals["tokens"])
        return {
            "tokens_per_second": totals["tokens"] / seconds,
            "mfu": totals["flops"] / seconds / self._peak,
            "tokens_seen": self._tokens_seen,
        }

    # Checkpoints

    def record(self, step: int, seconds: float) -> dict:
        """What a checkpoint says of it, for `restore`. JSON keeps every bit of a float64."""
        return {
            "step": step,
            "processes": self._args.world_size,
            "places": self.places(step),
            "window_step": self._logged_step,
            "tokens_seen": self._tokens_seen,
            "seconds": seconds,
            "sums": self._totals(),
        }

    def restore(self, record: dict) -> None:
        """Take up the place in the data and what was summed since the last log. ArgumentError for other batches."""
        rows = record["places"] / max(record["step"], 1)
        if record["step"] and rows != self._batches.step_size:
            raise ArgumentError(
                f"batch size x accumulation x processes must stay the {rows:g} rows a step with which the checkpoint "
                f"was made, got {self._batches.step_size}; change the batch size"
            )
        self._batches.start = record["places"]
        self._start = (record["step"], record["places"])
        self._logged_step, self._tokens_seen = record["window_step"], record["tokens_seen"]
        self.sums.restore(record["sums"], share=float(self._args.data_process == 0))
