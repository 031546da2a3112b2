"""Rows of a corpus, and which of them each micro-batch of each step holds: a pure function of a seed and a place.

Rows come in one endless stream, which visits every row once per epoch in a new random order and runs on into the next
epoch without a short batch. A step takes `step_size` places of it, whatever the number of processes and accumulation
steps that share them, so 2 x 4 accumulation, one batch of 8 and two processes of 4 train on the same rows. A place is
a position in that stream, or in another one that a seed begins.

The order of an epoch is worked out where it is asked for (`permuted`), so that neither time nor memory grows with the
rows. Runs that were begun when it was the order of sorted draws go on with that one.

Letters: S step_size, the rows of one optimiser step over all processes; R rows of an epoch; N rows of the corpus
that are used, t tokens of a row.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import numpy as np
from torch.utils.data import Dataset

from data.corpus.store import AllBut, Corpus, RowLengths

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # step of splitmix64
# Streams of draws, apart from those of masking.
_EPOCH_ORDER, _STEP_ORDER, _ROUND_KEYS, HELD_OUT = 11, 12, 15, 16
_ROUNDS = 8  # of the Feistel network
PERMUTED, SORTED = "permuted", "sorted"  # orders of an epoch: computed at a place; that of sorted draws, [R] in memory
HELD_OUT_SEED = 0  # the same documents and masks are evaluated on, whatever the seed of the run
BUCKET_STEPS = 50  # steps that share one pool of rows when rows of like length go together
_TOGETHER = 1024  # places of the stream that are worked out at once


def mix(values: np.ndarray) -> np.ndarray:
    """Spread uint64 values evenly over uint64 (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draw(*coordinates: np.ndarray | int) -> np.ndarray:
    """Random uint64 that depends on nothing but the coordinates (integers or integer arrays, broadcast together)."""
    state = np.zeros(1, np.uint64)
    for coordinate in coordinates:
        state = mix(state + (np.atleast_1d(coordinate).astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return state


def draw_at(keys: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The number at each place of the splitmix64 stream that each key seeds: one draw for many places of a row."""
    return mix(keys + (places.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def share_of(bits: np.ndarray) -> np.ndarray:
    """uint64 -> float64 in [0, 1)."""
    return (bits >> np.uint64(11)) * 2.0**-53


def permuted(places: np.ndarray, rows: int, seed: int, epochs: np.ndarray, stream: int = _ROUND_KEYS) -> np.ndarray:
    """The numbers at places of a random order of range(rows), one for each seed and epoch: int64 [N] -> int64 [N].

    A Feistel network (Luby and Rackoff 1988) permutes the numbers of as many bits as `rows` needs; one that is too
    large goes through it again until it is not (cycle walking: Black and Rogaway 2002), at most twice on average.

    epochs: int64 [N], of each place; stream: of draws, apart from all others.
    """
    low = np.uint64(max((rows - 1).bit_length(), 2) // 2)
    high = np.uint64(max((rows - 1).bit_length(), 2)) - low
    low_mask, high_mask = ((np.uint64(1) << bits) - np.uint64(1) for bits in (low, high))
    numbers, key_of = np.unique(epochs, return_inverse=True)
    keys = draw(seed, stream, numbers[:, None], np.arange(_ROUNDS))  # [epochs, rounds]
    values, walking = places.astype(np.uint64), np.arange(len(places))
    while len(walking):
        left, right = values[walking] >> low, values[walking] & low_mask
        for number in range(0, _ROUNDS, 2):
            even, odd = keys[key_of[walking], number], keys[key_of[walking], number + 1]
            left ^= draw_at(even, right) & high_mask
            right ^= draw_at(odd, left) & low_mask
        values[walking] = (left << low) | right
        walking = walking[values[walking] >= rows]
    return values.astype(np.int64)


class Rows:
    """Rows to train on, made of some rows of a corpus; a subclass says how.

    Attributes: corpus; lengths int64 [R], tokens of each row; mixture, of rows that do not all come once an epoch,
    says which of them each place of the stream holds: at(places, seed) -> epochs and indices, int64, and
    describe(places), what so many see of each corpus.
    """

    corpus: Corpus
    lengths: np.ndarray | RowLengths
    mixture = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def ranked_lengths(self) -> np.ndarray | RowLengths:
        """What rows of like length are found by, [R]: `lengths`, or what is like them and costs less."""
        return self.lengths

    def rows(self, indices) -> list[dict]:
        """Rows by index -> dicts: index (int, what random draws for the row depend on), input_ids, continuation [t].

        Isolated rows also have pieces, int64: the lengths of the parts that must not see each other; they sum to t.
        """
        return [self._row(index) for index in np.asarray(indices, np.int64).tolist()]

    def _row(self, index: int) -> dict:
        raise NotImplementedError

    def each(self, make: Callable[["PlainRows"], "Rows"]) -> "Rows":
        """What `make` gives of these rows, or of each corpus's, if they are of several."""
        return make(self)


class PlainRows(Rows):
    """Some rows of a corpus as they are, which keep the index that they have there.

    Attributes: indices int64 [N], increasing, of the rows in the corpus, an array or AllBut.
    """

    def __init__(self, corpus: Corpus, indices: np.ndarray | AllBut):
        self.corpus, self.indices = corpus, indices
        self.lengths = RowLengths(corpus, indices)

    @property
    def documents(self) -> np.ndarray:
        """Number of the source document of each, int64 [N]."""
        if self.corpus.maps.is_small or isinstance(self.indices, AllBut):
            return self.corpus.documents[np.asarray(self.indices)]
        return self.corpus.documents_of(self.indices)

    def shards(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """By shard that has some: how many came before, and ids, continuation and offsets of these alone, end to end.

        Shards that are used whole are checked, if they were not before.
        """
        indices, every, maps = np.asarray(self.indices), isinstance(self.indices, AllBut), self.corpus.maps
        edges = np.searchsorted(indices, self.corpus.first_rows)
        for number in np.flatnonzero(np.diff(edges)).tolist():
            shard = maps.checked(number) if every else maps[number]
            local = indices[slice(*edges[number : number + 2])] - self.corpus.first_rows[number]
            lengths = shard.offsets[local + 1] - shard.offsets[local]
            offsets = np.append(0, np.cumsum(lengths, dtype=np.int64))
            if len(local) == maps.rows[number]:
                yield int(edges[number]), shard.ids, shard.marks, offsets
            else:
                taken = np.repeat(shard.offsets[local] - offsets[:-1], lengths) + np.arange(offsets[-1])
                yield int(edges[number]), shard.ids[taken], shard.marks[taken], offsets

    def rows(self, indices) -> list[dict]:
        return self.corpus.rows(self.indices[np.asarray(indices, np.int64)])


class EpochRows(Dataset):
    """Rows by pairs of an epoch and an index, a micro-batch at a time.

    `source.rows(indices)` must give a list of dicts; each gains the key epoch.
    """

    def __init__(self, source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> list[dict]:
        rows = self.source.rows([index for _, index in pairs])
        return [{"epoch": epoch, **row} for (epoch, _), row in zip(pairs, rows, strict=True)]


class TrainBatches:
    """Micro-batches of one process from `start` to the end of the run, as lists of (epoch, index of a row).

    Args:
        rows: R.
        micro_batch, accumulation, processes: rows of a micro-batch, micro-batches of a step, processes that share it.
        steps: optimiser steps of the whole run; the length is steps * accumulation, wherever the run starts.
        process: which of them this one is.
        lengths: int64 [R], tokens of each row, with which rows of like length share a micro-batch.
        pool_steps: steps whose rows are sorted by length together; 1 leaves every step the rows that chance gave it.
        order: of an epoch, PERMUTED or SORTED.
        mixture: of Rows.
        start: places of the stream that are already done, those of whole steps; set it before iterating.

    Attributes:
        padding, padding_unpacked: share of the positions without a token, and what it were with the corpus's own
            rows; None where nobody has measured it.
        sources: what the run sees of each of several corpora, in words; None of one.
    """

    padding: float | None = None
    padding_unpacked: float | None = None
    sources: str | None = None

    def __init__(
        self,
        rows: int,
        micro_batch: int,
        accumulation: int = 1,
        processes: int = 1,
        process: int = 0,
        *,
        steps: int,
        seed: int,
        lengths: np.ndarray | RowLengths | None = None,
        pool_steps: int = BUCKET_STEPS,
        order: str = PERMUTED,
        mixture=None,
    ):
        if not rows:
            raise ValueError("rows must be at least 1")
        self.rows, self.lengths, self.steps, self.seed = rows, lengths, steps, seed
        self.micro_batch, self.accumulation = micro_batch, accumulation
        self.processes, self.process = processes, process
        self.step_size = micro_batch * accumulation * processes
        self.pool_steps, self.order, self._mixture = pool_steps, order, mixture
        self.start = 0
        self._orders: dict[int, np.ndarray] = {}

    @classmethod
    def of_run(cls, args, rows: int, **options) -> "TrainBatches":
        """This process's micro-batches of a whole run; args: RunArguments, max_steps set; options: of this class."""
        share = (args.train_batch_size, args.gradient_accumulation_steps, args.data_processes, args.data_process)
        seed = args.seed if args.data_seed is None else args.data_seed
        return cls(rows, *share, steps=args.max_steps, seed=seed, order=args.row_order, **options)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def epoch_at(self, place: int) -> float:
        """Passes over the rows that the first `place` places of the stream make."""
        return place / self.rows

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epochs, indices in self._steps():
            pairs = list(zip(epochs.tolist(), indices.tolist(), strict=True))
            # A row of the sorted step goes to the next micro-batch of any process, like with like; which process
            # gets which micro-batch changes nothing, because every sum runs over the whole step.
            for micro_batch in range(self.accumulation):
                first = (micro_batch * self.processes + self.process) * self.micro_batch
                yield pairs[first : first + self.micro_batch]

    def _steps(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Epochs and rows of each step, [S] each; many steps are worked out at once."""
        pool_steps = 1 if self.lengths is None else self.pool_steps
        pool_size = pool_steps * self.step_size
        pools = max(1, _TOGETHER // pool_size)
        first_pool, done = divmod(self.start // self.step_size, pool_steps)
        for first in count(first_pool, pools):
            places = np.arange(first * pool_size, (first + pools) * pool_size)
            epochs, indices = (each.reshape(pools, pool_size) for each in self._indices(places))
            if self.lengths is not None:
                # The longest first, so that the memory of a step's later micro-batches fits in what the first freed.
                lengths = self.lengths[indices.ravel()].reshape(pools, pool_size)
                by_length = np.argsort(lengths, axis=1, kind="stable")[:, ::-1]
                draws = draw(self.seed, _STEP_ORDER, np.arange(first, first + pools)[:, None], np.arange(pool_steps))
                order = np.argsort(draws, axis=1, kind="stable")
                by_length = by_length.reshape(pools, pool_steps, self.step_size)
                by_length = np.take_along_axis(by_length, order[:, :, None], axis=1).reshape(pools, pool_size)
                epochs, indices = (np.take_along_axis(each, by_length, axis=1) for each in (epochs, indices))
            steps = (each.reshape(-1, self.step_size)[done:] for each in (epochs, indices))
            yield from zip(*steps, strict=True)
            done = 0

    def _indices(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of the stream -> their epochs and the indices of their rows."""
        if self._mixture is not None:
            return self._mixture.at(places, self.seed)
        epochs, within = np.divmod(places, self.rows)
        if self.order == PERMUTED:
            return epochs, permuted(within, self.rows, self.seed, epochs)
        indices = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            indices[now] = self._order_of(int(epoch))[within[now]]
        return epochs, indices

    def _order_of(self, epoch: int) -> np.ndarray:
        """Order of one epoch by sorted draws, [R]; two are kept, because a pool of steps may lie across two epochs."""
        if epoch not in self._orders:
            keys = draw(self.seed, _EPOCH_ORDER, epoch, np.arange(self.rows))
            recent = list(self._orders.items())[-1:]
            self._orders = dict([*recent, (epoch, np.argsort(keys, kind="stable"))])
        return self._orders[epoch]


class EvalBatches:
    """Every row once, rows of like length together; batch b goes to process b modulo processes.

    What a batch holds does not depend on the number of processes.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, processes: int = 1, process: int = 0):
        order = np.argsort(lengths, kind="stable")
        batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self._batches = batches[process::processes]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._batches:
            yield [(0, index) for index in batch.tolist()]


def padding_share(batches: TrainBatches, rows: Rows, multiple: int, micro_batches: int = 2000) -> float:
    """Share of the positions of the run's first micro-batches without a token; multiple: what they are padded to.

    Fewer of a large corpus, each row of which may lie in another shard.
    """
    if not getattr(rows.lengths, "is_small", True):
        micro_batches = -(-getattr(rows.lengths, "looked_at", _TOGETHER) // batches.micro_batch)
    some = [[index for _, index in batch] for batch in islice(batches, min(micro_batches, len(batches)))]
    lengths = rows.lengths[np.ravel(some)].reshape(len(some), -1)
    widths = -(-lengths.max(axis=1) // multiple) * multiple
    return 1 - float(lengths.sum() / (widths.sum() * lengths.shape[1]))


def make_train_batches(args, rows: Rows, plain: Rows, multiple: int) -> TrainBatches:
    """This process's micro-batches of a whole run, which know how much of them is padding.

    args: RunArguments, max_steps set; plain: rows of the corpus that `rows` were made of; multiple:
    what micro-batches are padded to.
    """

    def batches_of(source: Rows) -> TrainBatches:
        pool_steps = BUCKET_STEPS if args.train_sampling_strategy == "group_by_length" else 1
        options = {"lengths": source.ranked_lengths, "pool_steps": pool_steps, "mixture": source.mixture}
        return TrainBatches.of_run(args, len(source), **options)

    batches = batches_of(rows)
    batches.padding = padding_share(batches, rows, multiple)
    batches.sources = None if rows.mixture is None else rows.mixture.describe(args.max_steps * batches.step_size)
    batches.padding_unpacked = batches.padding if rows is plain else padding_share(batches_of(plain), plain, multiple)
    return batches


def make_eval_batches(args, rows: Rows) -> EvalBatches:
    """This process's share of the evaluation; args: RunArguments."""
    return EvalBatches(rows.lengths, args.eval_batch_size, args.data_processes, args.data_process)
