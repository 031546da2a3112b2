"""Which rows each micro-batch of each step holds: one endless stream, a pure function of (seed, place in the stream).

The stream visits every row once per epoch in a new random order and runs on into the next epoch without a short
batch. A step takes `step_size` places of it, whatever the number of processes and accumulation steps that share them,
so 2 x 4 accumulation, one batch of 8 and two processes of 4 train on the same rows.
S step_size, the rows of one optimiser step over all processes; R rows of the stream.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset

from data.batches.packing import Rows
from data.batches.random_draws import draw

_EPOCH_ORDER, _STEP_ORDER = 11, 12  # streams of draws, apart from those of masking
BUCKET_STEPS = 50  # steps that share one pool of rows when rows of like length go together


class CorpusRows(Dataset):
    """Rows of a corpus by (epoch, row) pairs, a micro-batch at a time.

    `corpus.rows(indices)` must give a list of dicts; each gains the key epoch.
    """

    def __init__(self, corpus):
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> list[dict]:
        rows = self.corpus.rows([row for _, row in pairs])
        return [{"epoch": epoch, **row} for (epoch, _), row in zip(pairs, rows, strict=True)]


class TrainBatches:
    """Micro-batches of one process from `start` to the end of the run, as lists of (epoch, row) pairs.

    Args:
        rows: [R] row numbers to train on.
        micro_batch, accumulation, processes: rows of a micro-batch, micro-batches of a step, processes that share it.
        steps: optimiser steps of the whole run; the length is steps * accumulation, wherever the run starts.
        process: number of this one.
        lengths: [R] tokens of each of `rows`; given, rows of like length share a micro-batch.
        pool_steps: steps whose rows are sorted by length together; 1 leaves every step the rows that chance gave it.
        start: places of the stream that are already done; set it before iterating.
    """

    def __init__(
        self,
        rows: np.ndarray,
        micro_batch: int,
        accumulation: int = 1,
        processes: int = 1,
        process: int = 0,
        *,
        steps: int,
        seed: int,
        lengths: np.ndarray | None = None,
        pool_steps: int = BUCKET_STEPS,
    ):
        if not len(rows):
            raise ValueError("rows must not be empty")
        self.rows, self.lengths, self.steps, self.seed = np.asarray(rows), lengths, steps, seed
        self.micro_batch, self.accumulation, self.processes, self.process = (
            micro_batch,
            accumulation,
            processes,
            process,
        )
        self.step_size = micro_batch * accumulation * processes
        self.pool_steps = pool_steps
        self.start = 0
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def epoch_at(self, place: int) -> float:
        """Passes over the rows that the first `place` places of the stream make."""
        return place / len(self.rows)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for place in self._step_places():
            pairs = self._pairs(place)
            # A row of the sorted step goes to the next micro-batch of any process, like with like; which process
            # gets which micro-batch changes nothing, because every sum runs over the whole step.
            for number in range(self.accumulation):
                first = (number * self.processes + self.process) * self.micro_batch
                yield pairs[first : first + self.micro_batch]

    def _step_places(self) -> Iterator[np.ndarray]:
        """Stream places of each step, [S] at a time."""
        if self.lengths is None:
            place = self.start
            while True:
                yield np.arange(place, place + self.step_size)
                place += self.step_size
        pool = self.pool_steps * self.step_size
        done = self.start % pool // self.step_size
        for number in range(self.start // pool, 2**62):
            places = np.arange(number * pool, (number + 1) * pool)
            lengths = self.lengths[self._indices(places)[1]]
            # The longest first, so that the memory of a step's later micro-batches fits in what the first has freed.
            steps = places[np.argsort(lengths, kind="stable")[::-1]].reshape(self.pool_steps, self.step_size)
            order = np.argsort(draw(self.seed, _STEP_ORDER, number, np.arange(self.pool_steps)), kind="stable")
            yield from steps[order[done:]]
            done = 0

    def _pairs(self, places: np.ndarray) -> list[tuple[int, int]]:
        epochs, indices = self._indices(places)
        return list(zip(epochs.tolist(), self.rows[indices].tolist(), strict=True))

    def _indices(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stream places -> their epochs and their indices into `rows`."""
        epochs, within = np.divmod(places, len(self.rows))
        indices = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            indices[now] = self._order_of(int(epoch))[within[now]]
        return epochs, indices

    def _order_of(self, epoch: int) -> np.ndarray:
        """Random order of one epoch, [R]; two are kept, because a pool of steps may lie across two epochs."""
        if epoch not in self._orders:
            keys = draw(self.seed, _EPOCH_ORDER, epoch, np.arange(len(self.rows)))
            recent = list(self._orders.items())[-1:]
            self._orders = dict([*recent, (epoch, np.argsort(keys, kind="stable"))])
        return self._orders[epoch]


class EvalBatches:
    """Every row once, rows of like length together; batch b goes to process b modulo processes.

    What a batch holds does not depend on the number of processes.
    """

    def __init__(self, rows: np.ndarray, lengths: np.ndarray, batch_size: int, processes: int = 1, process: int = 0):
        order = np.asarray(rows)[np.argsort(lengths, kind="stable")]
        batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self._batches = batches[process::processes]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._batches:
            yield [(0, row) for row in batch.tolist()]


logger = logging.getLogger(__name__)


def padding_share(batches: TrainBatches, rows: Rows, multiple: int, micro_batches: int = 2000) -> float:
    """Share of the positions of the run's first micro-batches without a token; multiple: what they are padded to."""
    tokens = positions = 0
    for _, batch in zip(range(min(micro_batches, len(batches))), batches, strict=False):
        found = rows.lengths[[row for _, row in batch]]
        tokens += int(found.sum())
        positions += len(found) * -(-int(found.max()) // multiple) * multiple
    return 1 - tokens / positions


def make_train_batches(args, rows: Rows, plain: Rows, multiple: int) -> TrainBatches:
    """This process's micro-batches of a whole run; logs how much of them is padding.

    args: RunArguments, max_steps set; plain: rows of the corpus that `rows` were made of; multiple:
    what micro-batches are padded to.
    """

    def batches_of(found: Rows) -> TrainBatches:
        return TrainBatches(
            np.arange(len(found)),
            args.train_batch_size,
            args.gradient_accumulation_steps,
            args.data_processes,
            args.data_process,
            steps=args.max_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            lengths=found.lengths,
            pool_steps=BUCKET_STEPS if args.train_sampling_strategy == "group_by_length" else 1,
        )

    shares = [100 * padding_share(batches_of(found), found, multiple) for found in (rows, plain)]
    logger.info("%d rows; padding %.1f %% of the positions (%.1f %% in rows of the corpus)", len(rows), *shares)
    return batches_of(rows)


def make_eval_batches(args, rows: Rows) -> EvalBatches:
    """This process's share of the evaluation; args: RunArguments."""
    numbers = np.arange(len(rows))
    return EvalBatches(numbers, rows.lengths, args.eval_batch_size, args.data_processes, args.data_process)
