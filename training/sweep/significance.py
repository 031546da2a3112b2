"""Is one configuration better than another: tests over the items of a dev set, and over seeds.

Paired bootstrap (Koehn 2004) for the interval of the difference, approximate randomisation (Noreen 1989; Yeh 2000) for
its p value, McNemar's exact test for accuracy, Welch's t over seeds. With several seeds each item counts with its
mean effect over them. Letters: S seeds, N items, K sums of an item.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

RESAMPLES = 4999
_NUMBERS_AT_ONCE = 4_000_000  # of weights: 32 MB


def compare_items(
    first: np.ndarray,
    second: np.ndarray,
    metric: Callable[[np.ndarray], np.ndarray],
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict:
    """Paired tests over items.

    first, second: float64 [S, N, K], what each item adds to the sums that `metric` ([..., K] -> [...]) is taken of;
    the same items in both.

    Returns:
        difference (first minus second, mean over seeds), interval [low, high] of it, bootstrap_p (twice the smaller
        share of resampled differences on either side of 0), randomisation_p.
    """
    seeds, items, width = first.shape
    tables = [np.moveaxis(sums, 0, 1).reshape(items, -1) for sums in (first, second)]  # [N, S K]

    def value(sums):  # [..., S K] -> [...]
        return metric(sums.reshape(*sums.shape[:-1], seeds, width)).mean(-1)

    def difference(chosen, axis=-1):  # int64 [..., N], items of a resampled set
        weights = _counts(chosen, items)
        return value(weights @ tables[0]) - value(weights @ tables[1])

    observed = float(difference(np.arange(items)))
    unlike = np.flatnonzero((tables[0] != tables[1]).any(1))
    if not len(unlike):
        return {"difference": observed, "interval": [0.0, 0.0], "bootstrap_p": 1.0, "randomisation_p": 1.0}
    batch = max(1, _NUMBERS_AT_ONCE // items)
    options = {"n_resamples": resamples, "batch": batch, "vectorized": True, "axis": -1, "rng": seed}
    drawn = stats.bootstrap((np.arange(items),), difference, method="percentile", confidence_level=level, **options)
    low, high = drawn.confidence_interval
    sides = [np.sum(drawn.bootstrap_distribution <= 0), np.sum(drawn.bootstrap_distribution >= 0)]

    # Items that are alike add the same to both sides, however they are swapped.
    pool = np.concatenate([tables[0][unlike], tables[1][unlike]])
    rest = tables[0].sum(0) - tables[0][unlike].sum(0)

    def swapped(one, other, axis=-1):  # int64 [..., unlike], rows of the pool
        return value(rest + _counts(one, len(pool)) @ pool) - value(rest + _counts(other, len(pool)) @ pool)

    rows = np.arange(len(unlike))
    tested = stats.permutation_test((rows, rows + len(unlike)), swapped, permutation_type="samples", **options)
    return {
        "difference": observed,
        "interval": [float(low), float(high)],
        "bootstrap_p": float(min(1.0, 2 * (min(sides) + 1) / (resamples + 1))),
        "randomisation_p": float(tested.pvalue),
    }


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact p value that two runs' bool [N] hits differ by chance, from the items that one of them alone has right."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def welch(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> dict | None:
    """Welch's t test of the means over seeds: p and the interval of the difference; None below two seeds each."""
    if min(len(first), len(second)) < 2 or np.ptp(first) == np.ptp(second) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one side without spread is no reason to doubt the result
        tested = stats.ttest_ind(first, second, equal_var=False)
    return {"p": float(tested.pvalue), "interval": [float(x) for x in tested.confidence_interval(level)]}


def _counts(chosen: np.ndarray, size: int) -> np.ndarray:
    """int64 [..., n] of numbers below size -> float64 [..., size], how often each occurs."""
    flat = chosen.reshape(-1, chosen.shape[-1])
    shifted = flat + size * np.arange(len(flat))[:, None]
    return (
        np.bincount(shifted.ravel(), minlength=size * len(flat)).reshape(*chosen.shape[:-1], size).astype(np.float64)
    )
