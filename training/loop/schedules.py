"""Schedules of published runs for torch's LambdaLR, and what keeps any schedule on the step count.

original_linear is that of google-research/electra (its decay runs during the warmup, too), the others are those of
richarddwang/electra_pytorch: separate_linear, and fastai's one_cycle with Adam's beta1 going the other way, as it is
or starting at peak / 1e5 with the warmup as its rise (adjusted_one_cycle). cosine_to_floor is that of
THUDM/Chinese-Transformer-XL: after the warmup a cosine over as many updates as there are in all, towards a floor.
A rule gives the share of the peak rate that the update of step i, counted from 0, uses.
"""

import math
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from common.errors import ArgumentError

_CYCLES = ("one_cycle", "adjusted_one_cycle")
_LINEAR = ("original_linear", "separate_linear")
SCHEDULES = (*_LINEAR, *_CYCLES, "cosine_to_floor")
Rule = Callable[[float], float]

_RISE, _START, _END = 0.25, 1 / 25, 1e-5  # of fastai's one_cycle: share of the steps, shares of the peak rate
_HIGH_BETA, _LOW_BETA = 0.95, 0.85


class RateAndMomentum(LambdaLR):
    """LambdaLR that also sets the beta1 of parameter groups that have betas."""

    def __init__(self, optimizer: torch.optim.Optimizer, rate: Rule, momentum: Rule):
        self.momentum = momentum
        super().__init__(optimizer, rate)

    def get_lr(self):
        beta1 = self.momentum(self.last_epoch)
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (beta1, group["betas"][1])
        return super().get_lr()

    def state_dict(self):
        return {name: value for name, value in super().state_dict().items() if name != "momentum"}


def follow_time(scheduler: LambdaLR, steps_by_time: Callable[[], float]) -> None:
    """Let the schedule be as far along as its steps are or as the clock says, whichever is further; in place."""

    def by_time(rule: Rule) -> Rule:
        return lambda step: rule(max(step, steps_by_time()))

    scheduler.lr_lambdas = [by_time(rule) for rule in scheduler.lr_lambdas]
    if isinstance(scheduler, RateAndMomentum):
        scheduler.momentum = by_time(scheduler.momentum)


class FollowGlobalStep(TrainerCallback):
    """Takes the schedule's step also where transformers leaves it out: after an update skipped for an overflow."""

    def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
        while isinstance(lr_scheduler, LambdaLR) and lr_scheduler.last_epoch < state.global_step:
            lr_scheduler.step()


def check_schedule(name: str, steps: int, warmup: int, steps_before: int) -> None:
    """ArgumentError unless make_schedule can make a schedule of these."""
    if warmup >= steps_before + steps and name != "one_cycle":
        raise ArgumentError(
            f"--warmup_steps must be less than the {steps_before + steps} steps under --schedule {name}, "
            f"got {warmup}; lower it"
        )
    if steps_before and name not in _LINEAR:
        raise ArgumentError(f"--steps_before needs a linear --schedule, got {name}; leave it out")


def make_schedule(
    optimizer: torch.optim.Optimizer, name: str, steps: int, warmup: int, steps_before: int = 0, floor: float = 0.0
) -> LambdaLR:
    """Schedule of that name over `steps` updates; see check_schedule.

    steps_before: updates that the weights have behind them; the linear schedules then go on from there towards
    steps_before + steps with the peak raised to (steps_before + steps) / steps (google-research/electra's README).
    floor: share of the peak at which cosine_to_floor ends.
    """
    total = steps_before + steps
    if name in _CYCLES:
        rise, start = (_RISE, _START) if name == "one_cycle" else (warmup / total, _END)
        rate = _cycle(rise * total, total, (start, 1.0, _END))
        return RateAndMomentum(optimizer, rate, _cycle(rise * total, total, (_HIGH_BETA, _LOW_BETA, _HIGH_BETA)))
    if name == "cosine_to_floor":
        return LambdaLR(optimizer, lambda step: _cosine_to_floor(step, total, warmup, floor))
    rule = _original_linear if name == "original_linear" else _separate_linear
    return LambdaLR(optimizer, lambda step: rule(steps_before + step, total, warmup) * total / steps)


def _original_linear(step: float, total: int, warmup: int) -> float:
    rise = step / warmup if step < warmup else 1.0
    return max(0.0, 1 - step / total) * rise


def _separate_linear(step: float, total: int, warmup: int) -> float:
    return step / warmup if step < warmup else max(0.0, 1 - (step - warmup) / (total - warmup))


def _cosine_to_floor(step: float, total: int, warmup: int, floor: float) -> float:
    if step <= warmup and warmup:
        return step / warmup
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, (step - warmup) / total))) / 2


def _cycle(top: float, total: int, values: tuple[float, float, float]) -> Rule:
    """Cosine from the first value to the second at step `top` and to the third at step `total`."""
    start, middle, end = values

    def rule(step: float) -> float:
        if step < top:
            first, last, share = start, middle, step / top
        else:
            first, last, share = middle, end, min(1.0, (step - top) / (total - top))
        return first + (last - first) * (1 - math.cos(math.pi * share)) / 2

    return rule
