"""Losses, gradients and weights that are no numbers any more: noticed before one of them is written anywhere.

Of each step the loss and the norm of the gradient stay on the device until somebody waits for it anyway (a log line,
a checkpoint), so that watching costs nothing. What is written is looked at itself, whatever the steps were like.
"""

import copy
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import torch
from accelerate.utils import gather_object

from common.errors import UserError
from common.script import NOT_FINITE
from training.loop.checkpoints import all_checkpoints
from training.loop.optimizers import MuonWithAdamW

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
        self.first: int | None = None  # step with which the last streak began, too long or not
        self._streaks = dict.fromkeys(self._limits, (0, 0))  # steps in a row as of the last look, the first of them

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
        # Two counts a step, of its losses and of its gradient.
        indices = torch.tensor([2 * (number - first) + of for number, of in zip(numbers, gradients, strict=True)])
        bad = torch.zeros(2 * (numbers[-1] - first + 1), device=device)
        bad = self._reduce(bad.index_add_(0, indices.to(device), (~values.isfinite()).float()))
        steps = (bad.view(-1, 2) > 0).tolist()
        for number, (loss, gradient) in enumerate(steps, first):
            self._follow("any", number, loss or (gradient and self._counts_as_any))
            self._follow("gradient", number, gradient)
        return sum(gradient or (loss and not self.skips) for loss, gradient in steps)

    def _follow(self, name: str, step: int, bad: bool) -> None:
        length, first = self._streaks[name]
        if length < self._limits[name]:  # a streak that is too long stays so
            first = first if length else step
            self._streaks[name] = (length + 1, first) if bad else (0, 0)
            self.first = first if bad else self.first

    def too_many(self) -> tuple[int, int] | None:
        """(steps, the first of them) of a streak that is too long, None if there is none."""
        streaks = self._streaks.items()
        return next((streak for name, streak in streaks if streak[0] >= self._limits[name]), None)


class Guard:
    """Stops a Trainer whose numbers are none any more."""

    def __init__(self, trainer):
        self._trainer, args = trainer, trainer.args
        self._skips = args.on_nan == "skip"
        self._scaled = trainer.accelerator.scaler is not None
        self._watch = Watch(args.nan_steps, self._skips, self._scaled, self._sum)
        self.loss = self._watch.loss

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._trainer.accelerator.reduce(tensor, "sum")

    def before_update(self, norm: torch.Tensor | float) -> None:
        """Once a step, between clipping and the update."""
        trainer = self._trainer
        if self._skips and not self._scaled:
            drop_gradients_unless_finite(trainer.optimizer, norm)
        if self._watch.step(trainer.state.global_step + 1, norm):
            self.look()
            self.check()

    def look(self) -> None:
        """Wait for the device and count the steps since the last look that were not finite."""
        args = self._trainer.args
        count = self._watch.look(args.device)
        if count:  # of all processes, which must sum up the same names
            name = "skipped_steps" if self._watch.skips else "nonfinite_steps"
            self._trainer.progress.sums.count(name, count if args.data_process == 0 else 0)

    def check(self, weights: bool = False, state=()) -> None:
        """NotFinite after too many steps in a row, and where asked for unless weights and state are finite."""
        trainer, streak = self._trainer, self._watch.too_many()
        if streak is not None:
            raise self._error(f"the loss or the gradient was not finite in {streak[0]} steps in a row", streak[1])
        if weights:
            parts = (getattr(weight, "ds_tensor", weight) for weight in trainer.model.parameters())  # ZeRO stage 3's
            finite = all_finite([*parts, *state]).to(trainer.args.device, torch.float32)
            if self._sum(finite) < trainer.args.world_size:
                raise self._error("the weights are not finite", self._watch.first or trainer.state.global_step)

    def _error(self, what: str, step: int) -> NotFinite:
        """What happened from which step on, what its rows were, and what to do."""
        trainer, kept = self._trainer, all_checkpoints(Path(self._trainer.args.output_dir))
        place, accumulation = trainer.progress.places(step - 1), trainer.args.gradient_accumulation_steps
        rows = rows_of_step(trainer.train_dataset, trainer.train_batches, place, accumulation)
        advice = "lower --learning_rate or --max_grad_norm"
        advice += "" if self._watch.skips else ", or leave such steps out with --on_nan skip"
        return NotFinite(
            f"{what} from step {step} on, whose rows are {_listed(rows)}; "
            f"{kept[-1] if kept else 'no checkpoint'} is the last finite state; {advice}"
        )


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

    A fused Adam and Muon take a number on the device that says so; for others the device is waited for.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    fused = isinstance(inner, torch.optim.Adam) and all(group["fused"] for group in inner.param_groups)
    if fused or isinstance(inner, MuonWithAdamW):
        inner.found_inf = (~torch.as_tensor(norm).isfinite()).float()
    elif not torch.as_tensor(norm).isfinite():
        inner.zero_grad(set_to_none=True)


def rows_of_step(dataset, batches, place: int, accumulation: int) -> list[int]:
    """Numbers of the training rows of the step that begins at a place of the stream, over all processes."""
    batches = copy.copy(batches)
    batches.start = place
    numbers = set()
    for batch in islice(batches, accumulation):
        rows = dataset.__getitems__(batch)
        numbers |= {row.get("index", pair[1]) for row, pair in zip(rows, batch, strict=True)}
    return sorted(set().union(*gather_object([numbers])))


def _listed(numbers: Sequence[int], most: int = 64) -> str:
    """`3, 5 and 2 more`"""
    shown = ", ".join(map(str, numbers[:most]))
    return shown + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
