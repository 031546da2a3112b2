"""Several corpora in one run: each has its share of the tokens, and every place of the stream its own row."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import ArgumentError
from data.batches.corpora import MixedRows, Mixture, load_rows, named_corpora
from data.batches.electra_rows import ElectraRows
from data.batches.packing import pack
from data.batches.sampling import TrainBatches, make_train_batches
from data.corpus.arrow_shards import CorpusError
from data.tokens.tokenizer_files import load_backend
from tests.data.batches.small_corpora import random_documents, write
from tests.runs import assert_same_run, killed_in


@pytest.fixture
def corpora(tmp_path, bert_folder):
    """(folders, backend) of two corpora, the second larger and of longer rows."""
    backend = load_backend(str(bert_folder()), None)
    for name, count in (("one", 12), ("two", 60)):
        documents = random_documents(count, count)
        write(tmp_path / name, backend, [[row * (1 + (name == "two")) for row in document] for document in documents])
    return [str(tmp_path / name) for name in ("one", "two")], backend


def run_arguments(**changes):
    values = {"train_batch_size": 4, "gradient_accumulation_steps": 1, "data_processes": 1, "data_process": 0}
    values |= {"seed": 3, "data_seed": None, "max_steps": 20_000, "row_order": "permuted"}
    return SimpleNamespace(**values | {"train_sampling_strategy": "random"} | changes)


def test_words_become_folders_and_shares(tmp_path):
    for name in ("a", "b", "c:0.5", "d,e"):
        (tmp_path / name).mkdir()
    a, b, c, d = (f"{tmp_path}/{name}" for name in ("a", "b", "c:0.5", "d,e"))
    assert named_corpora(a) == ([a], [None]) and named_corpora(d) == ([d], [None])
    assert named_corpora(f"{a},{b}:0.3") == ([a, b], [None, 0.3])
    assert named_corpora(f"{c},{b}") == ([c, b], [None, None])
    assert named_corpora(f"{c}:.25,{b}:0.75") == ([c, b], [0.25, 0.75])
    for wrong in (f"{a}:1.5,{b}", f"{a}:0.5,{b}:0.4", f"{a}:0,{b}", f"{a}:0.6,{b}:0.4,{c}", f"{a}:0.5"):
        with pytest.raises(CorpusError, match="--train_dir must give shares between 0 and 1 that leave some"):
            named_corpora(wrong)
    with pytest.raises(CorpusError, match="must name each folder once"):
        named_corpora(f"{a},{a}/:0.5")


@pytest.mark.parametrize("shares", [(None, 0.3), (0.01, 0.99)])
def test_a_share_is_of_the_tokens_and_every_row_comes_once_before_any_again(corpora, shares):
    (one, two), backend = corpora
    words = ",".join(
        f"{folder}:{share}" if share else folder for folder, share in zip((one, two), shares, strict=True)
    )
    rows = load_rows(words, None, None, backend)[0]
    wanted = 1 - shares[1]
    assert len(rows) == sum(map(len, rows.parts))
    batches = make_train_batches(run_arguments(), rows, rows, 1)
    pairs = np.array([pair for batch in islice(batches, 1 << 14) for pair in batch])  # one period
    tokens = np.bincount((pairs[:, 1] >= len(rows.parts[0])).astype(int), rows.lengths[pairs[:, 1]])
    assert tokens[0] / tokens.sum() == pytest.approx(wanted, abs=1e-3)
    for first, part in zip((0, len(rows.parts[0])), rows.parts, strict=True):
        epochs, members = pairs[(pairs[:, 1] >= first) & (pairs[:, 1] < first + len(part))].T
        for epoch in range(epochs.max()):
            assert sorted(members[epochs == epoch]) == list(range(first, first + len(part)))
    (row,) = rows.rows([len(rows) - 1])
    (same,) = rows.parts[1].rows([len(rows.parts[1]) - 1])
    assert row["index"] == len(rows) - 1 and np.array_equal(row["input_ids"], same["input_ids"])
    assert rows.lengths[np.array([len(rows) - 1])] == [len(same["input_ids"])]


def test_the_stream_is_a_function_of_seed_and_place(corpora):
    (one, two), backend = corpora
    rows = load_rows(f"{one},{two}:0.3", None, None, backend)[0]
    for strategy in ("random", "group_by_length"):
        whole = list(islice(make_train_batches(run_arguments(train_sampling_strategy=strategy), rows, rows, 1), 100))
        later = make_train_batches(run_arguments(train_sampling_strategy=strategy), rows, rows, 1)
        later.start = 4 * 60
        assert list(islice(later, 40)) == whole[60:]
        halves = {"train_batch_size": 2, "data_processes": 2, "train_sampling_strategy": strategy}
        shares = [
            islice(make_train_batches(run_arguments(data_process=rank, **halves), rows, rows, 1), 100)
            for rank in (0, 1)
        ]
        assert [a + b for a, b in zip(*shares, strict=True)] == whole
    other = list(islice(make_train_batches(run_arguments(seed=4), rows, rows, 1), 100))
    assert other != list(islice(make_train_batches(run_arguments(), rows, rows, 1), 100))


def test_places_of_trillions_of_rows_are_worked_out_where_they_are():
    mixture = Mixture([10**12, 7], [40_000, 25_536], ["one", "two"])
    places = np.arange(5 * 10**12, 5 * 10**12 + 1000)
    epochs, indices = mixture.at(places, 1)
    assert len(np.unique(indices[indices < 10**12])) == (indices < 10**12).sum() > 500 and indices.max() < 10**12 + 7
    assert epochs[indices < 10**12].max() == 3
    again = mixture.at(places[::-1], 1)
    assert np.array_equal(again[1][::-1], indices) and np.array_equal(again[0][::-1], epochs)


def test_without_shares_every_row_of_all_comes_once_an_epoch(corpora):
    (one, two), backend = corpora
    rows = load_rows(f"{one},{two}", None, None, backend)[0]
    assert rows.mixture is None
    batches = TrainBatches(len(rows), 1, steps=2 * len(rows), seed=1)
    assert sorted(index for batch in islice(batches, len(rows)) for _, index in batch) == list(range(len(rows)))
    counts = sum(part.corpus.token_counts() for part in rows.parts)
    assert np.array_equal(rows.corpus.token_counts(), counts)


def test_shares_weigh_the_counts_of_tokens(corpora):
    (one, two), backend = corpora
    rows = load_rows(f"{one}:0.5,{two}:0.5", None, None, backend)[0]
    told = make_train_batches(run_arguments(max_steps=100), rows, rows, 1).sources
    assert told.count("50.0% of the tokens of ") == 2 and told.count(" passes") == 2 and two in told
    one, two = (part.corpus.token_counts() for part in rows.parts)
    half = (one / one.sum() + two / two.sum()) / 2
    counts = rows.corpus.token_counts()
    assert counts / counts.sum() == pytest.approx(half, abs=1e-3)


@pytest.mark.parametrize("kind", ["concat", "isolated", "packed"])
def test_rows_made_of_rows_are_made_of_each_corpus(corpora, kind):
    (one, two), backend = corpora

    def make(plain):
        return ElectraRows(plain, kind, 160, backend, 0) if kind == "packed" else pack(plain, kind, 160, backend)

    rows = load_rows(f"{one},{two}:0.3", None, None, backend)[0].each(make)
    assert isinstance(rows, MixedRows) and rows.mixture is not None
    alone = [load_rows(folder, None, None, backend)[0].each(make) for folder in (one, two)]
    every = rows.rows(range(len(rows)))
    expected = [row["input_ids"] for part in alone for row in part.rows(range(len(part)))]
    assert all(np.array_equal(row["input_ids"], ids) for row, ids in zip(every, expected, strict=True))
    assert [row["index"] for row in every] == list(range(len(rows)))
    assert np.asarray(rows.lengths).tolist() == [len(ids) for ids in expected]


def test_documents_of_each_corpus_are_held_out_and_unlike_corpora_refused(corpora, tmp_path):
    (one, two), backend = corpora
    train, held_out = load_rows(f"{one},{two}:0.3", None, 0.2, backend)
    for kept, held, folder in zip(train.parts, held_out.parts, (one, two), strict=True):
        alone = load_rows(folder, None, 0.2, backend)
        assert np.array_equal(kept.indices, alone[0].indices) and np.array_equal(held.indices, alone[1].indices)
    assert train.mixture is not None and held_out.mixture is None
    write(tmp_path / "lines", backend, random_documents(1), keep_lines=True)
    with pytest.raises(CorpusError, match=r"corpora prepared alike, got a line in each row in .*lines alone"):
        load_rows(f"{one},{tmp_path / 'lines'}", None, None, backend)


@pytest.mark.parametrize("script", ["mlm", "electra"])
def test_a_killed_run_on_two_corpora_goes_on_as_an_undisturbed_one(small_runs, write_corpus, tmp_path, script):
    write_corpus(tmp_path / "other", small_runs.tokenizer, rows=40, seed=1)
    both = f"{small_runs.folder / 'corpus'},{tmp_path / 'other'}:0.4"
    changes = {"train_dir": both, "dropout": 0.1, "validation_split": 0.2}
    small_runs.run(script, tmp_path / "whole", **changes)
    with killed_in(5):
        small_runs.run(script, tmp_path / "run", **changes)
    small_runs.run(script, tmp_path / "run", **changes)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"with the same settings, got one with data\.train_dir"):
        small_runs.run(script, tmp_path / "run", **changes | {"train_dir": both.replace("0.4", "0.5")})
