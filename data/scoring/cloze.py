"""Choose one candidate for each blank of a group of blanks that share their candidates (ChID).

Sources: CLUE's ChID baseline (greedy on raw scores), bert4keras' CLUE examples (optimal assignment, Hungarian
algorithm). Letters: K blanks of a group, C candidates.

Greedy depends on a constant added to one blank's scores, so it wants raw logits; argmax and optimal do not.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from common.errors import UserError

METHODS = ("argmax", "greedy", "optimal")


def assign(scores: np.ndarray, method: str) -> list[int]:
    """Return the candidate of each blank.

    scores: raw logits [K, C]. method: "argmax" lets blanks share a candidate; "greedy" takes the pairs by falling
    score and skips used blanks and candidates; "optimal" uses each candidate at most once with the largest sum.
    ValueError for another method, and when blanks outnumber the candidates that they may not share.
    """
    if method not in METHODS:
        raise UserError(f"--chid_decode must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "argmax":
        return scores.argmax(1).tolist()
    blanks, candidates = scores.shape
    if blanks > candidates:
        raise UserError(
            f"a group must have at least as many candidates as blanks, got {candidates} for {blanks};"
            " pass --chid_decode argmax"
        )
    if method == "optimal":
        return linear_sum_assignment(scores, maximize=True)[1].tolist()
    chosen = [-1] * blanks
    for flat in np.argsort(-scores, axis=None, kind="stable"):
        blank, candidate = divmod(int(flat), candidates)
        if chosen[blank] < 0 and candidate not in chosen:
            chosen[blank] = candidate
    return chosen


def decode_groups(outputs: Sequence[np.ndarray], groups: Sequence[Hashable], method: str) -> list[int]:
    """Return the candidate of every blank, in the order given.

    outputs: each blank's raw logits [C]; groups: which group it belongs to, blanks of one in any order.
    """
    members: dict[Hashable, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    chosen = [0] * len(outputs)
    for positions in members.values():
        scores = np.stack([outputs[position] for position in positions])
        for position, candidate in zip(positions, assign(scores, method), strict=True):
            chosen[position] = candidate
    return chosen
