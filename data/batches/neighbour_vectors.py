"""Vectors of tokens by what stands beside them in a corpus: what a new model's word embeddings can begin with.

Positive pointwise mutual information of a token with each neighbour at a distance, factorised by singular values whose
square roots weigh both sides: Levy & Goldberg 2014 ("Neural word embedding as implicit matrix factorization"), with
the contexts' frequencies to the power of 0.75 of Levy, Goldberg & Dagan 2015. Neighbours to the left and to the right
are contexts of their own, since order is what a language model asks for.
Letters: V entries of the vocabulary, W width of the embeddings.
"""

from collections.abc import Iterator

import numpy as np
import torch

from data.batches.sampling import Rows, permuted

SAMPLE = 10_000_000  # tokens that are counted at most; the 3.1 million of the quickstart take 7 CPU-seconds
DISTANCES = (1, 2)
SMOOTHING = 0.75
_SEED = 0  # of the sample: the same for each run
_GAP = np.full(max(DISTANCES), -1)  # after a row, whose last tokens have no neighbours in the next
_ROWS = 4096  # that are read at a time


def neighbour_vectors(rows: Rows, entries: int, width: int, skipped: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """float32 [V, W], of mean square 1 over the tokens that have neighbours, and which these are, bool [V].

    rows: of the training; of many, a random sample is counted. skipped: ids that count as no neighbour and have none.
    """
    columns = []
    streams = list(_streams(rows, skipped))
    for distance in DISTANCES:
        pairs = [np.stack((ids[:-distance], ids[distance:])) for ids in streams]
        left, right = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
        both_known = (left >= 0) & (right >= 0)
        left, right = left[both_known], right[both_known]
        columns += [_information(left, right, entries), _information(right, left, entries)]
    matrix = torch.cat(columns, dim=1).coalesce()
    vectors, known = np.zeros((entries, width), np.float32), np.zeros(entries, bool)
    known[matrix.indices()[0].numpy()] = True
    if known.any():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            left_vectors, singular, _ = torch.svd_lowrank(matrix, min(width, entries), niter=3)
            turn, _ = torch.linalg.qr(torch.randn(width, width))  # else the first channels would hold most of it
        vectors[:] = (left_vectors * singular.sqrt()) @ turn[: len(singular)]
        vectors[~known] = 0
        vectors /= np.sqrt(np.square(vectors[known]).mean())
    return vectors, known


def _streams(rows: Rows, skipped: list[int]) -> Iterator[np.ndarray]:
    """Ids of rows in random order, int64, end to end with -1 for those skipped, until SAMPLE of them have come."""
    left = SAMPLE
    for start in range(0, len(rows), _ROWS):
        places = np.arange(start, min(start + _ROWS, len(rows)))
        chosen = rows.rows(permuted(places, len(rows), _SEED, np.zeros_like(places)))
        ids = np.concatenate([part for row in chosen for part in (row["input_ids"], _GAP)]).astype(np.int64)
        ids[np.isin(ids, skipped)] = -1
        yield ids
        left -= len(ids)
        if left <= 0:
            return


def _information(tokens: np.ndarray, contexts: np.ndarray, entries: int) -> torch.Tensor:
    """Positive mutual information of tokens with contexts, int64 [N] each: sparse float32 [V, V]."""
    codes, counts = np.unique(tokens * entries + contexts, return_counts=True)
    token, context = np.divmod(codes, entries)
    share = np.bincount(contexts, minlength=entries) ** SMOOTHING
    expected = np.bincount(tokens, minlength=entries)[token] * share[context] / max(share.sum(), 1)
    information = np.log(counts / expected)
    kept = information > 0
    places = torch.from_numpy(np.stack((token[kept], context[kept])))
    information = torch.from_numpy(information[kept]).float()
    return torch.sparse_coo_tensor(places, information, (entries, entries), check_invariants=True)
