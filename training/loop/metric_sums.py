"""Sums of many batches, kept so that neither micro-batches nor processes nor a restart change what is logged.

Most are two scalars, whose quotient is logged; a metric that is no such quotient is computed from a summed histogram.
"""

import math
from collections import Counter

import torch
from accelerate.utils import send_to_device

from common.errors import ArgumentError
from training.objectives.base import Objective
from training.process import spreads_weights

_MOST_NATS = 700.0  # of a perplexity's logarithm: math.exp overflows above 709


class MetricSums:
    """Named sums of this process, of numbers known on the host and of tensors on a device that is not waited for."""

    def __init__(self):
        self._host: Counter = Counter()
        self._device: dict[str, torch.Tensor] = {}

    def count(self, name: str, number: float) -> None:
        self._host[name] += number

    def add(self, name: str, value: torch.Tensor) -> None:
        value = value.detach().double()
        self._device[name] = self._device[name] + value if name in self._device else value

    def add_pair(self, name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Numerator and denominator of a mean."""
        self.add(f"{name}/numerator", pair[0])
        self.add(f"{name}/denominator", pair[1])

    def add_metrics(self, metrics: dict[str, tuple | torch.Tensor]) -> None:
        """Pairs, as for add_pair, and histograms."""
        for name, value in metrics.items():
            (self.add_pair if isinstance(value, tuple) else self.add)(name, value)

    def totals(self, accelerator, copies: int = 1) -> dict[str, float | list[float]]:
        """All sums over all processes; copies: how many of these hold the same ones, which count once."""
        names = sorted(self._device.keys() | self._host.keys())
        values = [
            self._device.get(name, torch.zeros((), dtype=torch.float64)).to(accelerator.device) + self._host[name]
            for name in names
        ]
        if not values:
            return {}
        sums = accelerator.reduce(torch.cat([value.flatten() for value in values]), "sum").cpu() / copies
        parts = sums.split([value.numel() for value in values])
        return {name: part.view(value.shape).tolist() for name, part, value in zip(names, parts, values, strict=True)}

    def restore(self, totals: dict[str, float | list[float]], share: float) -> None:
        """Take up the totals of an earlier call: all (share 1) on one process and its copies, none (0) on others."""
        self._device = {name: share * torch.tensor(value, dtype=torch.float64) for name, value in totals.items()}

    def clear(self) -> None:
        self._host.clear()
        self._device.clear()


def summary(totals: dict[str, float | list[float]], histograms: dict[str, tuple]) -> dict[str, float]:
    """Quotients of the pairs among the totals, and what the histograms' functions make of theirs."""
    names = [name.removesuffix("/numerator") for name in totals if name.endswith("/numerator")]
    means = {name: totals[f"{name}/numerator"] / max(totals[f"{name}/denominator"], 1) for name in names}
    return means | {name: function(totals[name]) for name, (_, function) in histograms.items()}


class SumEvaluator:
    """Evaluates by the objective's sums over held-out rows and all processes, without gathering logits.

    dataset, batches, collator: the rows, the sampler of this process's share of them, and what makes inputs of them.
    ArgumentError where --metric_for_best_model is none of its numbers.
    """

    def __init__(self, args, objective: Objective, dataset, batches, collator):
        self._objective, self._rows = objective, (dataset, batches, collator)
        terms = list(objective.weights)
        names = ["loss", *objective.metrics, *objective.histograms]
        names += [f"{term}_loss" for term in terms] if len(terms) > 1 else []
        names += ["perplexity"] if objective.perplexity_of is not None else []
        wanted = args.metric_for_best_model
        if wanted not in (None, *names):
            raise ArgumentError(f"--metric_for_best_model must be one of {', '.join(names)}, got {wanted}; choose one")

    def __call__(self, trainer) -> dict[str, float]:
        """Loss, metrics and perplexity of the trainer's model."""
        objective = self._objective
        totals = self._sum_up(trainer)
        means = summary(totals, objective.histograms)
        terms = {term: means.pop(term) for term in objective.weights}
        numbers = {"loss": sum(weight * terms[term] for term, weight in objective.weights.items()), **means}
        if len(terms) > 1:
            numbers |= {f"{term}_loss": value for term, value in terms.items()}
        if objective.perplexity_of is not None:
            numbers["perplexity"] = math.exp(min(terms[objective.perplexity_of], _MOST_NATS))
        return numbers

    def _sum_up(self, trainer) -> dict[str, float | list[float]]:
        objective, args = self._objective, trainer.args
        sums, zero = MetricSums(), torch.zeros((), device=args.device)
        # All processes add up the same names, also those without a batch.
        sums.add_metrics(dict.fromkeys((*objective.weights, *objective.metrics), (zero, zero)))
        sums.add_metrics({name: zero.expand(bins) for name, (bins, _) in objective.histograms.items()})
        passes_of_others = self._passes_of_others(trainer)
        trainer.model.eval()
        with torch.no_grad(), trainer.accelerator.autocast():
            for batch in trainer.loader(*self._rows, args.eval_workers):
                batch = send_to_device(batch, args.device, non_blocking=True)
                counts = objective.counts(batch)
                terms, metrics = objective(trainer.model, batch)
                sums.add_metrics({term: (terms[term], counts[term]) for term in terms} | metrics)
            for _ in range(passes_of_others):
                objective(trainer.model, send_to_device(objective.example(1), args.device))
        return sums.totals(trainer.accelerator, args.model_parallel_size)

    def _passes_of_others(self, trainer) -> int:
        """How many more batches another process has, of whose passes each takes part where weights are spread."""
        if not spreads_weights(trainer.args):
            return 0
        own = len(self._rows[1])
        return int(trainer.accelerator.gather(torch.tensor([own], device=trainer.args.device)).max()) - own
