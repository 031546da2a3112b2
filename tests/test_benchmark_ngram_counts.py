"""Interpolated counts: a distribution made of what stands in the training text, blind to the token asked for."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from benchmarks.learning import quickstart_baseline
from benchmarks.learning.ngram_counts import CONTEXTS, NgramCounts, side_by_side

V, SPECIAL = 12, (0, 1, 2)


@pytest.fixture
def rows():
    """Rows in which each token mostly says the next but one; they begin with 1 and end with 2."""
    rng = np.random.default_rng(0)
    texts = []
    for length in rng.integers(4, 12, 200):
        text = rng.integers(3, V, length)
        text[2:] = np.where(rng.random(length - 2) < 0.7, (text[:-2] - 2) % 9 + 3, text[2:])
        texts.append(np.array([1, *text, 2]))
    return texts


def masked(rows, asked=3):
    """A batch of padded rows in which [MASK] (0) hides the token at one place."""
    width = max(map(len, rows))
    ids, labels = (np.full((len(rows), width), fill) for fill in (0, -100))
    mask = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
        labels[index, asked], ids[index, asked] = row[asked], 0
    tensors = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


def test_probabilities_are_the_chain_of_counts_written_out(rows):
    counts = NgramCounts(rows[:40], V, SPECIAL)
    counts.weights[:] = np.random.default_rng(1).random(counts.weights.shape)
    counts.weights[:, 0] = 0
    row = np.array([1, *rows[50][1:4], 0, *rows[50][5:]])
    ids, place = side_by_side([row], V), 4 + 3
    table = counts.probabilities(ids, np.array([place]))[0]
    edged = [[V] * 3 + text.tolist() + [V] * 3 for text in rows[:40]]
    unigrams = Counter(token for text in rows[:40] for token in text.tolist())
    expected = np.array([0.0 if token in SPECIAL else unigrams[token] + 1.0 for token in range(V)])
    expected /= expected.sum()
    for offsets, weights in zip(CONTEXTS, counts.weights, strict=True):
        context = [ids[place + offset] for offset in offsets]
        seen = Counter()
        for text in edged:
            for index in range(3, len(text) - 3):
                if text[index] not in SPECIAL and [text[index + offset] for offset in offsets] == context:
                    seen[text[index]] += 1
        total = sum(seen.values())
        weight = weights[total.bit_length()]
        shares = np.array([seen[token] / max(total, 1) for token in range(V)])
        expected = weight * shares + (1 - weight) * expected
    np.testing.assert_allclose(table, expected)
    assert table.sum() == pytest.approx(1) and not table[list(SPECIAL)].any()


def test_tuned_counts_beat_frequencies_and_never_see_the_token(rows):
    counts, batch = NgramCounts(rows[:150], V, SPECIAL), masked(rows[175:])
    unigram = counts.score([batch])
    counts.tune([masked(rows[150:175])])
    assert ((counts.weights >= 0) & (counts.weights < 1)).all() and not counts.weights[:, 0].any()
    tuned = counts.score([batch])
    assert tuned[0] < unigram[0] - 0.3 and tuned[1] > unigram[1] + 0.2 and tuned[1] == tuned[2]
    shown = batch | {"input_ids": torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])}
    shown["input_ids"][0] = batch["input_ids"][0]  # one is left to be hidden
    assert counts.score([shown])[:2] == tuned[:2]


def test_the_baseline_measures_counts_and_a_bert(prepared, write_corpus, tmp_path):
    (tmp_path / "tokenizer").symlink_to(prepared[0])
    (tmp_path / "corpus_train").symlink_to(prepared[1])
    write_corpus(tmp_path / "corpus_heldout", prepared[0], rows=30, seed=1)
    words = [
        "--quickstart",
        str(tmp_path),
        "--output",
        str(tmp_path / "out.json"),
        "--minutes",
        "0.01",
        "--layers",
        "1",
    ]
    quickstart_baseline.main([*words, "--batch_size", "4", "--learning_rates", "1e-3"])
    unigram, ngrams, bert = json.loads((tmp_path / "out.json").read_text())
    assert ngrams["heldout_loss"] < unigram["heldout_loss"] - 0.5 and bert["steps"] > 0
    assert all(0 <= row["heldout_hidden_accuracy"] <= 1 for row in (unigram, ngrams, bert))
