"""Schedules give the references' numbers at every step, and never fall behind the step count."""

import pytest
import torch

from common.errors import ArgumentError
from training.loop.schedules import SCHEDULES, FollowGlobalStep, RateAndMomentum, check_schedule, make_schedule

PEAK, STEPS, WARMUP = 5e-4, 1_000_000, 10_000
# ELECTRA-small: step -> rates of original_linear, separate_linear, one_cycle, adjusted_one_cycle.
RATES = {
    0: (0, 0, 2.000000e-05, 5.000000e-09),
    1: (4.999995e-08, 5.000000e-08, 2.000000e-05, 5.012337e-09),
    5_000: (2.487500e-04, 2.500000e-04, 2.047359e-05, 2.500025e-04),
    10_000: (4.950000e-04, 5.000000e-04, 2.189247e-05, 5.000000e-04),
    62_500: (4.687500e-04, 4.734848e-04, 9.029437e-05, 4.965386e-04),
    250_000: (3.750000e-04, 3.787879e-04, 5.000000e-04, 4.309342e-04),
    500_000: (2.500000e-04, 2.525253e-04, 3.750013e-04, 2.539690e-04),
    999_999: (5.000000e-10, 5.050505e-10, 5.000002e-09, 5.000001e-09),
}
BETAS = {0: (0.95, 0.95), 5_000: (0.9499, 0.9), 10_000: (0.9496, 0.85), 62_500: (0.9354, 0.8507)}
BETAS |= {250_000: (0.85, 0.8638), 500_000: (0.8750, 0.8992)}


def make(name, steps=STEPS, warmup=WARMUP, **options):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=PEAK, betas=(0.9, 0.99))
    return optimizer, make_schedule(optimizer, name, steps, warmup, **options)


@pytest.mark.parametrize("column, name", list(enumerate(SCHEDULES[:4])))
def test_rates_and_momentum_are_those_of_the_references(column, name):
    optimizer, schedule = make(name)
    for step, rates in RATES.items():
        assert PEAK * schedule.lr_lambdas[0](step) == pytest.approx(rates[column], rel=5e-7, abs=1e-16)
    if column >= 2:
        for step, betas in BETAS.items():
            assert schedule.momentum(step) == pytest.approx(betas[column - 2], abs=5e-5)
    else:
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_momentum_reaches_the_optimizer_and_a_restored_schedule_goes_on():
    optimizer, schedule = make("one_cycle", steps=8, warmup=0)
    seen = []
    for _ in range(8):
        seen.append((optimizer.param_groups[0]["lr"], *optimizer.param_groups[0]["betas"]))
        optimizer.step()
        schedule.step()
    assert seen[0] == pytest.approx((PEAK / 25, 0.95, 0.99)) and seen[2] == pytest.approx((PEAK, 0.85, 0.99))
    assert seen[5] == pytest.approx((PEAK * 0.500005, 0.90, 0.99))
    optimizer, schedule = make("one_cycle", steps=8, warmup=0)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    states = optimizer.state_dict(), schedule.state_dict()
    optimizer, schedule = make("one_cycle", steps=8, warmup=0)
    optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    for step in range(3, 8):
        assert (optimizer.param_groups[0]["lr"], *optimizer.param_groups[0]["betas"]) == seen[step]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", ["original_linear", "separate_linear"])
def test_continued_training_starts_at_the_peak_it_was_given_and_ends_at_zero(name):
    _, schedule = make(name, steps=1000, warmup=100, steps_before=4000)
    rates = [PEAK * schedule.lr_lambdas[0](step) for step in (0, 500, 1000)]
    slack = 1.03 if name == "separate_linear" else 1.0  # its line falls to 0 over the steps after the warmup
    assert rates == pytest.approx([PEAK * slack, PEAK / 2 * slack, 0], rel=1e-2, abs=1e-12)


@pytest.mark.parametrize(
    "name, warmup, before, message",
    [
        ("original_linear", 10, 0, "--warmup_steps must be less than the 10 steps"),
        ("separate_linear", 10, 0, "--warmup_steps must be less than the 10 steps"),
        ("adjusted_one_cycle", 11, 0, "--warmup_steps must be less than the 10 steps"),
        ("one_cycle", 0, 5, "--steps_before needs a linear --schedule"),
    ],
)
def test_impossible_settings_are_refused_by_name(name, warmup, before, message):
    with pytest.raises(ArgumentError, match=message):
        check_schedule(name, 10, warmup, before)


def test_no_warmup_is_a_schedule_too():
    for name in SCHEDULES:
        _, schedule = make(name, steps=10, warmup=0)
        assert all(0 <= schedule.lr_lambdas[0](step) <= 1 for step in range(11))
        assert isinstance(schedule, RateAndMomentum) == ("cycle" in name)


def test_a_skipped_step_of_the_schedule_is_made_up_for():
    class State:
        global_step = 3

    optimizer, schedule = make("original_linear")
    optimizer.step()
    schedule.step()
    FollowGlobalStep().on_step_end(None, State(), None, lr_scheduler=schedule)
    assert schedule.last_epoch == 3


def test_cosine_to_floor_is_that_of_the_original_finetuning():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
    schedule = make_schedule(optimizer, "cosine_to_floor", 10000, 1000, floor=0.05)
    rate = schedule.lr_lambdas[0]
    assert rate(0) == 0 and rate(500) == 0.5 and rate(1000) == 1
    assert rate(6000) == pytest.approx(0.05 + 0.95 / 2)
    assert 1e-5 * rate(10000) == pytest.approx(7.32e-7, rel=1e-3)  # not 5e-7: the decay is as long as the whole run
    assert rate(11000) == rate(20000) == pytest.approx(0.05)
