"""Vectors of counted neighbours: the matrix that the papers factorise, the ids that take no part, and the sample."""

import numpy as np
import pytest
import torch

from data.batches import neighbour_vectors as module
from data.batches.neighbour_vectors import neighbour_vectors


class SomeRows:
    def __init__(self, texts):
        self.texts, self.read = texts, 0

    def __len__(self):
        return len(self.texts)

    def rows(self, indices):
        self.read += len(indices)
        return [{"input_ids": np.array(self.texts[index], np.uint16)} for index in indices]


@pytest.fixture
def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(2, 20, rng.integers(1, 9)).tolist() for _ in range(60)]


def information(texts, entries, skipped):
    """Positive mutual information with what stands two and one places before and behind, pair by pair."""
    matrices = []
    for offset in (1, -1, 2, -2):
        counts = np.zeros((entries, entries))
        for text in texts:
            for place, token in enumerate(text):
                other = place + offset
                if 0 <= other < len(text) and not {token, text[other]} & set(skipped):
                    counts[token, text[other]] += 1
        tokens, contexts = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True) ** 0.75
        with np.errstate(divide="ignore", invalid="ignore"):
            matrices.append(np.nan_to_num(np.maximum(np.log(counts * contexts.sum() / (tokens * contexts)), 0)))
    return np.concatenate(matrices, axis=1)


def test_all_singular_vectors_together_are_the_root_of_the_papers_matrix(texts):
    vectors, known = neighbour_vectors(SomeRows(texts), 24, 24, [3])
    matrix = information(texts, 24, [3])
    values, basis = np.linalg.eigh(matrix @ matrix.T)
    expected = basis * np.sqrt(np.maximum(values, 0)) @ basis.T  # (M M^T)^(1/2) = U S U^T
    expected /= np.trace(expected) / (known.sum() * 24)
    assert known.tolist() == (matrix.sum(1) > 0).tolist() and not known[[0, 1, 3, 20, 23]].any()
    assert not vectors[~known].any()
    torch.testing.assert_close(vectors @ vectors.T, expected.astype(np.float32), rtol=1e-3, atol=2e-3)
    assert np.square(vectors[known]).mean() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("width", [8, 40])
def test_tokens_of_the_same_neighbours_lie_side_by_side(width):
    rng, text = np.random.default_rng(0), [2]
    for step in rng.integers(0, 2, 4000):
        text.append((3 * text[-1] + int(step)) % 17 + 2)
    twins = [21 if token == 7 and rng.random() < 0.5 else token for token in text]
    vectors, known = neighbour_vectors(SomeRows([twins]), 24, width, [])
    unit = vectors[known] / np.linalg.norm(vectors[known], axis=1, keepdims=True)
    numbers = np.flatnonzero(known).tolist()
    nearest = np.argsort(-unit @ unit[numbers.index(7)])[:2]
    assert {numbers[number] for number in nearest} == {7, 21}


def test_of_many_rows_a_sample_is_read_and_no_draw_of_the_run_is_taken(texts, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 40)
    monkeypatch.setattr(module, "_ROWS", 8)
    rows, state = SomeRows(texts), torch.get_rng_state()
    first, _ = neighbour_vectors(rows, 24, 8, [])
    assert 8 <= rows.read < 40 and torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(first, neighbour_vectors(SomeRows(texts), 24, 8, [])[0])


@pytest.mark.parametrize("texts", [[], [[5]], [[5], [6]], [[5, 3, 6]]])
def test_without_neighbours_nothing_is_known(texts):
    vectors, known = neighbour_vectors(SomeRows(texts), 24, 8, [3])
    assert not known.any() and not vectors.any()
