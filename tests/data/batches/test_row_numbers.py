"""Row numbers and lengths that are worked out when asked for equal the arrays that they stand for."""

import numpy as np
import pytest

from data.batches.row_numbers import AllBut, RowLengths
from data.corpus import shard_maps
from data.corpus.arrow_shards import shard_name, write_shard
from data.corpus.store import Corpus, write_manifest
from data.tokens.tokenizer_files import load_backend
from tests.data.batches.small_corpora import random_documents, write


@pytest.mark.parametrize("without", [[], [0], [9], [0, 1, 2], [2, 5, 6], list(range(10))])
def test_all_but_some_numbers(without):
    numbers, kept = AllBut(10, without), np.setdiff1d(np.arange(10), without)
    assert len(numbers) == len(kept) and np.array_equal(np.asarray(numbers), kept)
    assert numbers[np.arange(len(kept))[::-1]].tolist() == kept[::-1].tolist()


@pytest.mark.parametrize("small", [True, False])
def test_lengths_are_those_of_the_rows(bert_folder, tmp_path, monkeypatch, small):
    backend = load_backend(str(bert_folder()), None)
    whole = write(tmp_path / "corpus", backend, random_documents(3), shards=4, max_seq_length=90)
    monkeypatch.setattr(shard_maps, "SMALL", 1 << 30 if small else 0)
    corpus = Corpus(tmp_path / "corpus")
    for indices in (AllBut(len(corpus)), AllBut(len(corpus), [0, 7]), np.array([4, 30, 31])):
        lengths, array = RowLengths(corpus, indices), whole.lengths[np.asarray(indices)]
        places = np.random.default_rng(0).integers(0, len(array), 20)
        assert len(lengths) == len(array) and np.array_equal(np.asarray(lengths), array)
        assert np.array_equal(lengths[places], array[places]) and lengths[places].dtype == np.int64
        assert lengths.max() == (array.max() if small else 90), "what no row has more of"


@pytest.mark.parametrize("small", [True, False])
def test_the_mean_length_of_a_large_corpus_is_that_of_its_bytes(bert_folder, tmp_path, monkeypatch, small):
    backend = load_backend(str(bert_folder()), None)
    corpus = write(tmp_path / "corpus", backend, random_documents(3))
    lengths = np.random.default_rng(0).integers(3, 90, 5000)
    ids = np.ones(lengths.sum(), np.uint16)
    file = tmp_path / "corpus" / shard_name(0)
    write_shard(file, ids, ids % 2, lengths, np.arange(5000), {})
    shards = [{"file": file.name, "bytes": file.stat().st_size, "blocks": 5000}]
    write_manifest(tmp_path / "corpus", corpus.manifest | {"shards": shards})
    monkeypatch.setattr(shard_maps, "SMALL", 1 << 30 if small else 0)
    mean = RowLengths(Corpus(tmp_path / "corpus"), AllBut(5000)).mean()
    assert mean == pytest.approx(lengths.mean(), rel=1e-9 if small else 0.01)
