"""What counting words takes to fill blanks: interpolated n-grams of both sides, which never see the token asked for.

The probability of a token is a chain of linear interpolations (Jelinek and Mercer 1980, Interpolated estimation of
Markov source parameters from sparse data) from its frequency to the rarest of CONTEXTS:

    p_0(w) = (count(w) + 1) / sum,    p_i(w) = a * count_i(context, w) / count_i(context) + (1 - a) * p_(i-1)(w)

with a weight `a` for each kind of context and each bucket of how often the context was seen (Bahl, Jelinek and Mercer
1983, as in Chen and Goodman 1998). Weights are tuned by expectation maximisation on documents of the training text
that the counts leave out. A context is read from the masked row as a model reads it: one with [MASK] in it was never
seen in the training text, and has weight 0.
Letters: N tokens of rows side by side, K tokens asked for, V vocab_size.
"""

from collections.abc import Iterable

import numpy as np

from data.batches.masking import IGNORED
from data.batches.sampling import HELD_OUT_SEED
from data.corpus.store import Corpus

# Which neighbours, relative to the token. The next but one come first: they count where the next is masked, too.
_SINGLE = ((2,), (-2,), (1,), (-1,))
_ONE_SIDE = ((1, 2), (-2, -1), (1, 2, 3), (-3, -2, -1))
_BOTH_SIDES = ((-1, 1), (-1, 1, 2), (-2, -1, 1))
CONTEXTS = (*_SINGLE, *_ONE_SIDE, *_BOTH_SIDES)
_REACH = 3  # of the furthest neighbour
_BUCKETS = 16  # of counts of a context, by powers of two; the last takes what is above
_ROUNDS = 30  # of expectation maximisation, after which no weight moves in its third digit


def side_by_side(rows: Iterable[np.ndarray], edge: int) -> np.ndarray:
    """Rows end to end, int64 [N], with so many edges around each that no context reaches into another row."""
    edges = np.full(_REACH, edge, np.int64)
    return np.concatenate([edges, *(part for row in rows for part in (np.asarray(row, np.int64), edges))])


class _ContextCounts:
    """How often each token stood beside each context of one kind. base: above every id and the edge."""

    def __init__(self, ids: np.ndarray, places: np.ndarray, offsets: tuple[int, ...], base: int):
        if base ** (len(offsets) + 1) >= 2**63:
            raise ValueError(f"a token and {len(offsets)} neighbours of {base} kinds do not fit into 64 bits")
        self._offsets, self._base = offsets, base
        pairs = self._keys(ids, places) * base + ids[places]
        self._pairs, counts = np.unique(pairs, return_counts=True)
        self._below = np.concatenate([[0], np.cumsum(counts)])  # counts of all pairs before each

    def _keys(self, ids, places) -> np.ndarray:
        keys = np.zeros(len(places), np.int64)
        for offset in self._offsets:
            keys = keys * self._base + ids[places + offset]
        return keys

    def spans(self, ids: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the context at each of K places: its first pair, the one behind its last, its count; [K] each."""
        keys = self._keys(ids, places) * self._base
        begins, ends = np.searchsorted(self._pairs, keys), np.searchsorted(self._pairs, keys + self._base)
        return begins, ends, self._below[ends] - self._below[begins]

    def shares(self, ids: np.ndarray, places: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Share of one token [K] among those seen in its context, 0 where that is new, and the context's count."""
        keys = self._keys(ids, places) * self._base + tokens
        first = np.searchsorted(self._pairs, keys)
        behind = np.searchsorted(self._pairs, keys + 1)
        totals = self.spans(ids, places)[2]
        return (self._below[behind] - self._below[first]) / np.maximum(totals, 1), totals

    def entries(self, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of K spans: the span, the token and the count of each pair in them."""
        sizes = ends - begins
        span = np.repeat(np.arange(len(sizes)), sizes)
        pair = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + begins[span]
        return span, self._pairs[pair] % self._base, self._below[pair + 1] - self._below[pair]


def _buckets(totals: np.ndarray) -> np.ndarray:
    """0 for a context that is new, else 1 + the integer part of the binary logarithm of its count."""
    return np.minimum(np.frexp(totals)[1], _BUCKETS - 1)


class NgramCounts:
    """Counts of some rows and the weights of their interpolation.

    rows: of ids; special_ids: of no token that is asked for. Without tuned weights it is the unigram guess.
    """

    def __init__(self, rows: Iterable[np.ndarray], vocab_size: int, special_ids: Iterable[int]):
        self._edge = vocab_size
        ids = side_by_side(rows, self._edge)
        counted = np.ones(vocab_size + 1, bool)
        counted[[*special_ids, self._edge]] = False
        places = np.flatnonzero(counted[ids])
        unigrams = (np.bincount(ids[places], minlength=vocab_size) + 1.0) * counted[:-1]
        self._unigrams = unigrams / unigrams.sum()
        self._contexts = [_ContextCounts(ids, places, offsets, vocab_size + 1) for offsets in CONTEXTS]
        self.weights = np.zeros((len(CONTEXTS), _BUCKETS))

    def tune(self, batches: Iterable[dict]) -> None:
        """Set the weights to what fits masked batches best, whose rows are not among those counted."""
        ids, places, labels = self._asked(batches)
        below = self._unigrams[labels]
        for context, weights in zip(self._contexts, self.weights, strict=True):
            shares, totals = context.shares(ids, places, labels)
            bucket = _buckets(totals)
            sizes = np.bincount(bucket, minlength=_BUCKETS)
            weights[1:] = 0.5
            for _ in range(_ROUNDS):
                own = weights[bucket] * shares
                posterior = own / (own + (1 - weights[bucket]) * below)
                weights[:] = np.bincount(bucket, posterior, _BUCKETS) / np.maximum(sizes, 1)
            for empty in np.flatnonzero(sizes[1:] == 0) + 1:  # a little more text may reach it
                weights[empty] = weights[empty - 1]
            below = weights[bucket] * shares + (1 - weights[bucket]) * below

    def score(self, batches: Iterable[dict]) -> tuple[float, float, float]:
        """Mean loss in nats and accuracy over the labelled tokens of masked batches, and accuracy over the hidden."""
        ids, places, labels = self._asked(batches)
        loss, is_right = 0.0, np.empty(len(places), bool)
        for first in range(0, len(places), 256):  # 256 x V numbers stay in the cache
            part = slice(first, first + 256)
            table = self.probabilities(ids, places[part])
            loss -= np.log(table[np.arange(len(table)), labels[part]]).sum()
            is_right[part] = table.argmax(1) == labels[part]
        return float(loss / len(places)), float(is_right.mean()), float(is_right[ids[places] != labels].mean())

    def probabilities(self, ids: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Of every token at K places of rows side by side, [K, V]."""
        table = np.repeat(self._unigrams[None], len(places), 0)
        for context, weights in zip(self._contexts, self.weights, strict=True):
            begins, ends, totals = context.spans(ids, places)
            weight = weights[_buckets(totals)]
            table *= 1 - weight[:, None]
            span, token, count = context.entries(begins, ends)
            table[span, token] += weight[span] * count / totals[span]
        return table

    def _asked(self, batches: Iterable[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masked rows side by side [N], where their labelled tokens stand [K], and the labels there."""
        ids, labels = [], []
        for batch in batches:
            is_real = batch["attention_mask"].numpy() == 1
            for name, rows in (("input_ids", ids), ("labels", labels)):
                rows += [row[real] for row, real in zip(batch[name].numpy(), is_real, strict=True)]
        flat = side_by_side(labels, IGNORED)
        places = np.flatnonzero(flat != IGNORED)
        return side_by_side(ids, self._edge), places, flat[places]


def fit_ngrams(corpus: Corpus, masked, vocab_size: int, special_ids: Iterable[int]) -> NgramCounts:
    """Counts of a whole corpus, with weights tuned on a tenth of its documents and the counts of the others.

    masked(indices) must give masked batches of some rows.
    """
    counted, tuned_on = corpus.split_documents(0.1, HELD_OUT_SEED)

    def count(indices: np.ndarray) -> NgramCounts:
        return NgramCounts((row["input_ids"] for row in corpus.rows(indices)), vocab_size, special_ids)

    tuned = count(counted)
    tuned.tune(masked(tuned_on))
    whole = count(np.arange(len(corpus)))
    whole.weights = tuned.weights
    return whole
