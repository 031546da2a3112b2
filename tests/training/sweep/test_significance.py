import numpy as np
import pytest
from scipy import stats

from training.sweep.significance import compare_items, mcnemar, welch


def accuracy(sums):
    return 100 * sums[..., 0] / sums[..., 1]


def table(*hits):
    return np.stack([np.stack([np.array(one, dtype=float), np.ones(len(one))], 1) for one in hits])


def test_a_clear_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(0)
    luck = rng.random(500)
    good, better, other = luck < 0.7, luck < 0.8, rng.random(500) < 0.7
    clear = compare_items(table(better), table(good), accuracy)
    assert clear["difference"] == pytest.approx(100 * (better.mean() - good.mean()))
    assert 0 < clear["interval"][0] < clear["difference"] < clear["interval"][1]
    assert clear["bootstrap_p"] < 0.001 and clear["randomisation_p"] < 0.001
    unclear = compare_items(table(other), table(good), accuracy)
    assert unclear["interval"][0] < 0 < unclear["interval"][1]
    assert unclear["bootstrap_p"] > 0.05 and unclear["randomisation_p"] > 0.05


def test_the_interval_and_the_p_value_are_those_of_theory():
    """400 items; 40 only the first has right, 20 only the second: normal interval, sign test."""
    first = np.array([1] * 200 + [1] * 40 + [0] * 20 + [0] * 140)
    second = np.array([1] * 200 + [0] * 40 + [1] * 20 + [0] * 140)
    result = compare_items(table(first), table(second), accuracy)
    effect = first - second
    half = 196 * effect.std() / 20
    assert result["interval"] == pytest.approx([5 - half, 5 + half], abs=0.4)
    exact = stats.binomtest(40, 60).pvalue
    assert result["randomisation_p"] == pytest.approx(exact, abs=0.01)
    assert mcnemar(first > 0, second > 0) == pytest.approx(exact)


def test_seeds_count_with_their_mean_and_draws_are_repeatable():
    rng = np.random.default_rng(1)
    first, second = rng.random((3, 200)) < 0.8, rng.random((3, 200)) < 0.7
    result = compare_items(table(*first), table(*second), accuracy, resamples=500)
    assert result["difference"] == pytest.approx(100 * (first.mean() - second.mean()))
    assert result == compare_items(table(*first), table(*second), accuracy, resamples=500)
    swapped = compare_items(table(*second), table(*first), accuracy, resamples=500)
    assert swapped["interval"] == pytest.approx([-end for end in result["interval"][::-1]])


def test_runs_that_agree_on_everything_do_not_differ():
    hits = table([1, 0, 1, 1])
    result = compare_items(hits, hits, accuracy)
    assert result == {"difference": 0.0, "interval": [0.0, 0.0], "bootstrap_p": 1.0, "randomisation_p": 1.0}
    assert mcnemar(np.array([True, False]), np.array([True, False])) == 1.0


def test_welch_needs_two_seeds_each_and_some_spread():
    result = welch([70.0, 71.0, 72.0], [68.0, 68.5])
    assert result["p"] == pytest.approx(stats.ttest_ind([70.0, 71.0, 72.0], [68.0, 68.5], equal_var=False).pvalue)
    assert result["interval"][0] < 2.75 < result["interval"][1]
    assert welch([70.0], [68.0, 69.0]) is None
    assert welch([70.0, 70.0], [68.0, 68.0]) is None
