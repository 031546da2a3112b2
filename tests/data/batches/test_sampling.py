"""The stream of training rows: every row once per epoch, the same steps for any split, and a start anywhere."""

from itertools import islice

import numpy as np
import pytest
from tokenizers import Tokenizer

from data.batches.sampling import (
    BUCKET_STEPS,
    HELD_OUT_SEED,
    EpochRows,
    EvalBatches,
    PlainRows,
    TrainBatches,
    load_rows,
    padding_share,
    settle_length,
)
from data.corpus.store import CorpusError
from data.tokens.tokenizer_files import load_backend
from tests.data.batches.small_corpora import every, random_documents, write

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
    assert rows.lengths.tolist() == corpus.lengths[[3, 5]].tolist()
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
    assert load_rows(str(tmp_path / "corpus"), str(tmp_path / "corpus"), None, backend)[1].lengths.sum()


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
