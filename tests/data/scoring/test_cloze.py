"""ChID's candidates are used once per group, however its blanks are ordered."""

import numpy as np
import pytest
from scipy.special import log_softmax

from data.scoring.cloze import METHODS, assign, decode_groups

SCORES = np.array([[5.0, 4.0], [4.9, 1.0]])


@pytest.mark.parametrize(("method", "chosen"), [("argmax", [0, 0]), ("greedy", [0, 1]), ("optimal", [1, 0])])
def test_the_three_ways_differ_as_known(method, chosen):
    assert assign(SCORES, method) == chosen


def test_only_greedy_depends_on_a_row_s_offset():
    moved = log_softmax(SCORES, axis=1)
    assert assign(moved, "greedy") == [1, 0]
    assert assign(moved, "optimal") == assign(SCORES, "optimal")
    assert assign(moved, "argmax") == assign(SCORES, "argmax")


@pytest.mark.parametrize("method", METHODS)
def test_groups_are_decoded_whole_wherever_their_blanks_stand(method):
    rng = np.random.default_rng(0)
    groups = [7, "x", 7, 3, "x", 7]
    outputs = [rng.normal(size=3 if group == 7 else 4).astype(np.float32) for group in groups]
    chosen = decode_groups(outputs, groups, method)
    for group in set(groups):
        at = [i for i, other in enumerate(groups) if other == group]
        assert [chosen[i] for i in at] == assign(np.stack([outputs[i] for i in at]), method)
        assert method == "argmax" or len({chosen[i] for i in at}) == len(at)


def test_more_blanks_than_candidates_are_an_error_that_names_the_way_out():
    with pytest.raises(ValueError, match="--chid_decode argmax"):
        assign(np.zeros((3, 2)), "optimal")
    assert assign(np.zeros((3, 2)), "argmax") == [0, 0, 0]
    with pytest.raises(ValueError, match="got 'best'"):
        assign(SCORES, "best")
