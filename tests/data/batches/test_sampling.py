"""The stream of training rows: every row once per epoch, the same steps for any split, and a start anywhere."""

import tracemalloc
from itertools import islice

import numpy as np
import pytest
from tokenizers import Tokenizer

from data.batches.corpora import load_rows, settle_length
from data.batches.sampling import (
    BUCKET_STEPS,
    HELD_OUT_SEED,
    PERMUTED,
    SORTED,
    EpochRows,
    EvalBatches,
    PlainRows,
    TrainBatches,
    padding_share,
    permuted,
)
from data.corpus import store
from data.corpus.arrow_shards import CorpusError
from data.corpus.store import AllBut
from data.tokens.tokenizer_files import load_backend
from tests.data.batches.small_corpora import every, random_documents, write

LENGTHS = np.random.default_rng(0).integers(5, 128, 103)
ROWS = len(LENGTHS)
# The first rows of runs, seed 1: as they were when draws were sorted, and as they are now.
OLD = [[(0, 45), (0, 55), (0, 49), (0, 52)], [(0, 43), (0, 1), (0, 2), (0, 83)]]
OLD_GROUPED = [[(1, 53), (0, 53), (1, 55), (0, 55)], [(1, 71), (0, 71), (0, 102), (1, 4)]]
NEW = [[(0, 81), (0, 91), (0, 54), (0, 44)], [(0, 80), (0, 14), (0, 2), (0, 78)]]
FAR = [690793720, 401321105, 1981525281, 1727613504]


def batches(micro=4, accumulation=1, processes=1, process=0, grouped=False, **options):
    options = {"steps": 60, "seed": 1, "lengths": LENGTHS if grouped else None} | options
    return TrainBatches(ROWS, micro, accumulation, processes, process, **options)


def take(sampler, count):
    return list(islice(iter(sampler), count))


@pytest.mark.parametrize("order", [PERMUTED, SORTED])
def test_every_row_comes_once_per_epoch_in_a_new_order(order):
    flat = [pair for batch in take(batches(order=order), 103) for pair in batch]  # 412 places are 4 epochs
    for epoch in range(4):
        rows = [row for e, row in flat if e == epoch]
        assert sorted(rows) == list(range(ROWS)) != rows
    assert [row for e, row in flat if e == 0] != [row for e, row in flat if e == 1]
    assert take(batches(seed=2, order=order), 10) != take(batches(order=order), 10)


def test_the_orders_of_runs_never_change():
    assert take(batches(order=SORTED), 2) == OLD
    assert take(batches(order=SORTED, grouped=True), 2) == OLD_GROUPED
    assert take(batches(), 2) == NEW
    assert permuted(np.arange(4) * 499_999_999, 2_000_000_000, 7, np.arange(4)).tolist() == FAR


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

    assert EpochRows(Corpus()).__getitems__([(4, 2), (5, 0)]) == [
        {"epoch": 4, "index": 2},
        {"epoch": 5, "index": 0},
    ]
    assert len(EpochRows(Corpus())) == 3


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="rows"):
        TrainBatches(0, 4, steps=1, seed=0)


# Rows of a corpus


@pytest.fixture(scope="module")
def backend(bert_folder):
    return load_backend(str(bert_folder()), None)


def test_plain_rows_keep_the_index_of_the_corpus_and_have_at_most_the_prepared_length(tmp_path, backend):
    corpus = write(tmp_path / "corpus", backend, random_documents(4), max_seq_length=60)
    rows = PlainRows(corpus, np.array([3, 5]))
    assert [row["index"] for row in rows.rows([1, 0])] == [5, 3]
    assert rows.lengths[[0, 1]].tolist() == corpus.lengths[[3, 5]].tolist()
    assert (settle_length(rows, None), settle_length(rows, 50)) == (60, 50)
    with pytest.raises(CorpusError, match=r"--max_seq_length must be at least the \d+ tokens of the longest row"):
        settle_length(rows, 8)


def test_a_corpus_of_another_tokenizer_is_refused(tmp_path, backend):
    write(tmp_path / "corpus", backend, random_documents(5, 3))
    unframed = Tokenizer.from_str(backend.to_str())
    unframed.post_processor = None
    with pytest.raises(CorpusError, match="--tokenizer_name must be the tokenizer that made"):
        load_rows(str(tmp_path / "corpus"), None, None, unframed)


def test_held_out_rows_are_whole_documents(tmp_path, backend):
    corpus = write(tmp_path / "corpus", backend, random_documents(6))
    train, held_out = load_rows(str(tmp_path / "corpus"), None, 0.2, backend)
    assert (len(train) + len(held_out), HELD_OUT_SEED) == (len(corpus), 0)
    assert not set(corpus.documents[train.indices]) & set(corpus.documents[held_out.indices])
    assert len(load_rows(str(tmp_path / "corpus"), str(tmp_path / "corpus"), None, backend)[1]) == len(corpus)


def test_held_out_documents_of_a_large_corpus_are_worked_out_at_their_places(tmp_path, backend, monkeypatch):
    corpus = write(tmp_path / "corpus", backend, random_documents(6, 200), shards=7)
    monkeypatch.setattr(store, "SMALL", 0)
    train, held_out = load_rows(str(tmp_path / "corpus"), None, 0.2, backend)
    assert isinstance(train.indices, AllBut) and len(set(corpus.documents[held_out.indices])) == 40
    assert sorted([*np.asarray(train.indices), *held_out.indices]) == list(range(len(corpus)))
    assert not set(corpus.documents[train.indices]) & set(corpus.documents[held_out.indices])
    assert held_out.indices.tolist() == load_rows(str(tmp_path / "corpus"), None, 0.2, backend)[1].indices.tolist()
    old = [rows.indices.tolist() for rows in load_rows(str(tmp_path / "corpus"), None, 0.2, backend, SORTED)]
    assert old == [rows.tolist() for rows in corpus.split_documents(0.2, HELD_OUT_SEED)], "as it was"
    for share in (0.001, 0.999):
        with pytest.raises(CorpusError, match="--validation_split must lie between 0 and 1"):
            load_rows(str(tmp_path / "corpus"), None, share, backend)


def test_documents_inside_joined_rows_are_not_split_off(tmp_path, backend):
    write(tmp_path / "corpus", backend, random_documents(7), line_by_line=False)
    with pytest.raises(CorpusError, match="--validation_split must have rows of one document each"):
        load_rows(str(tmp_path / "corpus"), None, 0.2, backend)


def test_padding_is_counted_as_the_collator_pads(tmp_path, backend):
    corpus = write(tmp_path / "corpus", backend, [["我"], ["我爱你北京"]])
    rows = every(corpus)  # of 3 and 7 tokens
    batches = TrainBatches(2, 2, steps=3, seed=0)
    assert padding_share(batches, rows, 1) == pytest.approx(1 - 10 / 14)
    assert padding_share(batches, rows, 8) == pytest.approx(1 - 10 / 16)


# The order of an epoch


def orders(rows, epochs, seed=1):
    """[epochs, rows]"""
    places, each = np.tile(np.arange(rows), len(epochs)), np.repeat(epochs, rows)
    return permuted(places, rows, seed, each).reshape(len(epochs), rows)


@pytest.mark.parametrize("rows", [*range(1, 40), 127, 128, 129, 1000, 4099, 1 << 16, (1 << 17) + 1])
def test_an_epoch_has_every_row_once(rows):
    for order in orders(rows, [0, 3]):
        assert np.array_equal(np.sort(order), np.arange(rows))


def deviation(counts):
    """Chi-squared of counts that should be equal, in standard deviations from what chance gives."""
    freedom, expected = counts.size - 1, counts.mean()
    return (((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("rows", [5, 12, 31])
@pytest.mark.parametrize("across", ["epochs", "seeds"])
def test_every_row_is_at_every_place_and_behind_every_other_equally_often(rows, across):
    if across == "epochs":
        found = orders(rows, np.arange(3000))
    else:
        found = np.concatenate([orders(rows, [0], seed) for seed in range(3000)])
    at = np.stack([np.bincount(found[:, place], minlength=rows) for place in range(rows)])
    behind = np.bincount((found[:, :-1] * rows + found[:, 1:]).ravel(), minlength=rows**2).reshape(rows, rows)
    assert abs(deviation(at)) < 5 and abs(deviation(behind[~np.eye(rows, dtype=bool)])) < 5


def test_orders_have_nothing_to_do_with_each_other_nor_with_that_of_the_corpus():
    rows = 4099
    first, second, *_ = several = [*orders(rows, [0, 1, 2, 1 << 40]), *orders(rows, [0, 1], seed=2)]
    pairs = [(one, other) for number, one in enumerate(several) for other in several[:number]]
    pairs += [(order, np.arange(rows)) for order in several] + [(order[1:], order[:-1]) for order in several]
    pairs += [(np.diff(first), np.diff(second))]
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / rows**0.5
        assert (one == other).sum() < 10, "1 on average"


def test_a_run_over_two_billion_rows_begins_anywhere_in_little_memory():
    class Lengths:
        def __getitem__(self, indices):
            return 5 + indices % 100

    sampler = TrainBatches(2_000_000_000, 256, 2, 2, 1, steps=10**8, seed=1, lengths=Lengths(), pool_steps=1)
    sampler.start = 1_999_999_000 // sampler.step_size * sampler.step_size
    tracemalloc.start()
    pairs = [pair for batch in take(sampler, 20) for pair in batch]
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert {epoch for epoch, _ in pairs} == {0, 1} and len(set(pairs)) == 20 * 256
    assert 0 <= min(row for _, row in pairs) < 1_000_000_000 < max(row for _, row in pairs) < 2_000_000_000
