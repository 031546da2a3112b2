"""What a step minimises and counts: sums and counts per micro-batch, from which the Trainer forms exact means."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch

IGNORED = -100


class Objective:
    """What training minimises: the sum over terms of weight * sum / count, both over the whole global batch.

    A new objective must set `weights` and implement `counts` and `__call__`; all else has a default.

    Attributes:
        weights: {term: factor} of the loss.
        metrics: names of the metrics that are quotients of two sums.
        histograms: {metric: (bins, function of the summed bins)}, of those that are not.
        perplexity_of: the term whose exponential evaluation reports, or None.
        decayed: what the names of parameters end in that have weight decay though they are called a bias.
        example_lengths: two row lengths on which FLOPs are counted.
    """

    weights: Mapping[str, float]
    metrics: Sequence[str] = ()
    histograms: Mapping[str, tuple[int, Callable]] = MappingProxyType({})
    perplexity_of: str | None = None
    decayed: tuple[str, ...] = ()

    def __init__(self, longest: int):
        """longest: tokens of the longest row."""
        self.example_lengths = (max(longest // 2, 1), max(longest, 2))

    def counts(self, inputs: dict) -> dict[str, torch.Tensor]:
        """{term: scalar}, what each sum of this micro-batch is divided by, read from the inputs alone."""
        raise NotImplementedError

    def example(self, length: int) -> dict[str, torch.Tensor]:
        """Inputs of one row, [1, length] int64; here those of a model that has a label for each token."""
        ones = torch.ones(1, length, dtype=torch.int64)
        return {"input_ids": ones, "attention_mask": ones, "labels": ones}

    def __call__(self, model: torch.nn.Module, inputs: dict) -> tuple[dict, dict]:
        """({term: sum}, {metric: (numerator, denominator) or histogram [bins]}) of one micro-batch.

        Scalars in fp32 or int64, and int64 vectors, on the device; gradients flow from the terms.
        """
        raise NotImplementedError

    def state(self) -> dict[str, torch.Tensor]:
        """What this process carries from step to step, for a checkpoint; {} for nothing."""
        return {}

    def restore(self, *parts: dict[str, torch.Tensor], device: torch.device | None = None) -> None:
        """Take up what `state` gave on each process."""


@contextmanager
def trying(model: torch.nn.Module) -> Iterator[None]:
    """For a trial on the CPU: no gradients, no dropout; the model's mode and the random numbers stay as they were."""
    training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()
            yield
    finally:
        model.train(training)
