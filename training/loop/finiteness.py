"""Losses, gradients and weights that are no numbers any more: noticed before one of them is written anywhere.

Of each step the loss and the norm of the gradient stay on the device until somebody waits for it anyway (a log line,
a checkpoint), so that watching costs nothing. What is written is looked at itself, whatever the steps were like.
"""

import logging
from collections.abc import Iterable, Sequence

import torch

from common.errors import UserError
from common.script import NOT_FINITE

logger = logging.getLogger(__name__)

_MOST_PENDING = 4096  # numbers on the device
_HALVINGS = 24  # of fp16's loss scale, after which it is no longer the scale's fault that a gradient overflows


class NotFinite(UserError):
    """The run cannot go on from its weights, or too many steps in a row gave no numbers."""

    exit_code, together = NOT_FINITE, True


class Watch:
    """The steps of a run, their losses and gradients.

    limit: steps in a row without a finite loss and gradient that are too many. skips: steps without a finite gradient
    change no weight. scaled: under fp16's loss scale, whose overflows are no fault before _HALVINGS more steps.
    reduce: sums a tensor over all processes.
    """

    def __init__(self, limit: int, skips: bool, scaled: bool, reduce):
        self.limit, self.skips, self._reduce = limit, skips or scaled, reduce
        self._limits = {"any": limit, "gradient": limit + _HALVINGS * scaled}
        self._counts_as_any = not scaled
        self._pending: list[tuple[int, bool, torch.Tensor]] = []  # step, whether of its gradient, number
        self._losses: list[torch.Tensor] = []  # of the running step
        self.first: int | None = None  # step of the last row that was not finite, too long or not
        self._rows = dict.fromkeys(self._limits, (0, 0))  # how many steps in a row as of the last look, the first one

    def loss(self, value: torch.Tensor) -> None:
        self._losses.append(value.detach())

    def step(self, number: int, norm: torch.Tensor | float) -> bool:
        """The step is complete; whether it is time to `look`."""
        self._pending += [(number, False, loss) for loss in self._losses]
        self._pending.append((number, True, norm))
        self._losses = []
        return len(self._pending) > _MOST_PENDING

    def look(self, device) -> int:
        """Wait for the device; how many of the steps since the last look were not finite, on any process."""
        if not self._pending:
            return 0
        numbers, gradients, values = zip(*self._pending, strict=True)
        self._pending = []
        values = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in values])
        first = numbers[0]
        places = torch.tensor([2 * (number - first) + of for number, of in zip(numbers, gradients, strict=True)])
        bad = torch.zeros(2 * (numbers[-1] - first + 1), device=device)
        bad = self._reduce(bad.index_add_(0, places.to(device), (~values.isfinite()).float()))
        found = (bad.view(-1, 2) > 0).tolist()
        for number, (loss, gradient) in enumerate(found, first):
            self._follow("any", number, loss or (gradient and self._counts_as_any))
            self._follow("gradient", number, gradient)
        return sum(gradient or (loss and not self.skips) for loss, gradient in found)

    def _follow(self, name: str, step: int, bad: bool) -> None:
        length, first = self._rows[name]
        if length < self._limits[name]:  # a row that is too long stays so
            first = first if length else step
            self._rows[name] = (length + 1, first) if bad else (0, 0)
            self.first = first if bad else self.first

    def too_many(self) -> tuple[int, int] | None:
        """(steps, the first of them) of a row that is too long, None if there is none."""
        return next((row for name, row in self._rows.items() if row[0] >= self._limits[name]), None)


def all_finite(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Whether no number is nan or infinite, as a bool on the device. One read of each tensor, no copy."""
    extremes = []
    for tensor in tensors:
        tensor = tensor.detach()
        tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        if tensor.numel() and tensor.is_floating_point():
            extremes += [extreme.float() for extreme in torch.aminmax(tensor)]  # nan is either
    return torch.stack(extremes).isfinite().all() if extremes else torch.tensor(True)


def state_tensors(optimizer) -> Iterable[torch.Tensor]:
    """What an optimiser keeps of each parameter, counts of steps left out."""
    for state in getattr(optimizer, "state", {}).values():
        if isinstance(state, dict):
            yield from (value for value in state.values() if isinstance(value, torch.Tensor) and value.dim())


def drop_gradients_unless_finite(optimizer, norm: torch.Tensor) -> None:
    """Let the optimiser's next step change neither weights nor its state where the gradient's norm is not finite.

    A fused Adam takes a number on the device that says so; for others the device is waited for.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    if isinstance(inner, torch.optim.Adam) and all(group["fused"] for group in inner.param_groups):
        inner.found_inf = (~torch.as_tensor(norm).isfinite()).float()
    elif not torch.as_tensor(norm).isfinite():
        inner.zero_grad(set_to_none=True)


def rows_named(rows: Sequence[int], most: int = 64) -> str:
    """`3, 5 and 2 more`"""
    shown = ", ".join(map(str, rows[:most]))
    return shown + (f" and {len(rows) - most} more" if len(rows) > most else "")
