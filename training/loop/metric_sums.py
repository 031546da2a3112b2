"""Sums since the last log, kept so that neither micro-batches nor processes nor a restart change what is logged.

Most are two scalars, whose quotient is logged; a metric that is no such quotient is computed from a summed histogram.
"""

from collections import Counter

import torch


class Window:
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
    found = {name: totals[f"{name}/numerator"] / max(totals[f"{name}/denominator"], 1) for name in names}
    return found | {name: function(totals[name]) for name, (_, function) in histograms.items()}
