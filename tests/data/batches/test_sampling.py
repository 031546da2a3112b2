"""The stream of training rows: every row once per epoch, the same steps for any split, and a start anywhere."""

from itertools import islice

import numpy as np
import pytest

from data.batches.sampling import BUCKET_STEPS, CorpusRows, EvalBatches, TrainBatches

LENGTHS = np.random.default_rng(0).integers(5, 128, 103)
ROWS = len(LENGTHS)


def batches(micro=4, accumulation=1, processes=1, process=0, steps=60, seed=1, grouped=False):
    return TrainBatches(
        ROWS, micro, accumulation, processes, process, steps=steps, seed=seed, lengths=LENGTHS if grouped else None
    )


def take(sampler, count):
    return list(islice(iter(sampler), count))


def test_every_row_comes_once_per_epoch_in_a_new_order():
    flat = [pair for batch in take(batches(), 103) for pair in batch]  # 412 places are 4 epochs
    for epoch in range(4):
        rows = [row for e, row in flat if e == epoch]
        assert sorted(rows) == list(range(ROWS)) != rows
    assert [row for e, row in flat if e == 0] != [row for e, row in flat if e == 1]
    assert take(batches(seed=2), 10) != take(batches(), 10)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_step_holds_the_same_rows_however_it_is_split(grouped):
    whole = take(batches(8, grouped=grouped), 30)
    accumulated = take(batches(4, accumulation=2, grouped=grouped), 60)
    first, second = (take(batches(4, processes=2, process=p, grouped=grouped), 30) for p in (0, 1))
    for step in range(30):
        expected = sorted(whole[step])
        assert sorted(accumulated[2 * step] + accumulated[2 * step + 1]) == expected
        assert sorted(first[step] + second[step]) == expected


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("step", [1, 49, 50, 77])
def test_a_start_anywhere_continues_the_stream(grouped, step):
    sampler = batches(2, accumulation=2, grouped=grouped)
    expected = take(sampler, 200)[2 * step :]
    resumed = batches(2, accumulation=2, grouped=grouped)
    resumed.start = step * resumed.step_size
    assert take(resumed, len(expected)) == expected


def test_grouping_puts_like_lengths_together_and_keeps_every_row():

    def padding(sampler):
        lengths = [[LENGTHS[row] for _, row in batch] for batch in take(sampler, BUCKET_STEPS)]
        return 1 - sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths)

    assert padding(batches(8, grouped=True)) < 0.05 < 0.25 < padding(batches(8))
    pairs = [pair for batch in take(batches(8, grouped=True), BUCKET_STEPS) for pair in batch]
    plain = [pair for batch in take(batches(8), BUCKET_STEPS) for pair in batch]
    assert sorted(pairs) == sorted(plain)


def test_a_step_of_several_micro_batches_begins_with_the_longest_and_keeps_the_rows_that_chance_gave_it():
    sampler = TrainBatches(ROWS, 4, 3, steps=60, seed=1, lengths=LENGTHS, pool_steps=1)
    sorted_batches, chance = take(sampler, 30), take(batches(12), 10)
    for step in range(10):
        rows = [pair for batch in sorted_batches[3 * step : 3 * step + 3] for pair in batch]
        assert sorted(rows) == sorted(chance[step])
        assert [LENGTHS[row] for _, row in rows] == sorted((LENGTHS[row] for _, row in rows), reverse=True)


def test_evaluation_sees_every_row_once_in_the_same_batches_for_any_number_of_processes():
    alone = list(EvalBatches(LENGTHS, 10))
    shared = [list(EvalBatches(LENGTHS, 10, 2, process)) for process in (0, 1)]
    assert sorted(row for batch in alone for _, row in batch) == list(range(ROWS))
    assert sorted(map(tuple, alone)) == sorted(map(tuple, shared[0] + shared[1]))


def test_rows_of_the_corpus_carry_their_epoch():
    class Corpus:
        def __len__(self):
            return 3

        def rows(self, indices):
            return [{"index": index} for index in indices]

    assert CorpusRows(Corpus()).__getitems__([(4, 2), (5, 0)]) == [
        {"epoch": 4, "index": 2},
        {"epoch": 5, "index": 0},
    ]
    assert len(CorpusRows(Corpus())) == 3


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="rows"):
        TrainBatches(0, 4, steps=1, seed=0)
