"""A corpus folder is read row by row without copies, in part or whole, refuses what does not fit, and is split."""

import os
import pickle

import datasets
import numpy as np
import pyarrow as pa
import pytest

from data.corpus import store
from data.corpus.arrow_shards import CorpusError, id_dtype, read_shard, shard_name, write_shard
from data.corpus.manifest import dataset_info, write_manifest
from data.corpus.store import AllBut, Corpus, RowLengths
from data.tokens.tokenizer_files import load_backend, tokenizer_hash
from tests.data.batches.small_corpora import random_documents, write

LENGTHS = ([3, 5, 4], [], [6])
DOCUMENTS = ([0, 0, 2], [], [7])


@pytest.fixture
def folder(tmp_path, bert_folder):
    backend = load_backend(str(bert_folder()), None)
    shards, start = [], 10
    for number, (lengths, documents) in enumerate(zip(LENGTHS, DOCUMENTS, strict=True)):
        ids = np.arange(start, start + sum(lengths), dtype=np.uint16)
        start += len(ids)
        path = tmp_path / shard_name(number)
        write_shard(path, ids, ids % 2, np.array(lengths, np.int64), np.array(documents), {"blocks": len(lengths)})
        shards.append({"file": path.name, "bytes": path.stat().st_size})
    tokenizer = {"name": "small", "hash": tokenizer_hash(backend), "size": backend.get_vocab_size()}
    dataset_info(tmp_path, [shard["file"] for shard in shards])
    write_manifest(tmp_path, {"format": 1, "complete": True, "tokenizer": tokenizer, "shards": shards})
    return tmp_path


def test_rows_come_back_from_every_shard_in_any_order(folder):
    corpus = Corpus(folder)
    assert len(corpus) == 4
    assert corpus.lengths.tolist() == [3, 5, 4, 6] and corpus.lengths.dtype == np.int32
    assert corpus.documents.tolist() == [0, 0, 2, 7] and corpus.documents.dtype == np.int64
    rows = corpus.rows([3, 0, 3])
    assert [row["index"] for row in rows] == [3, 0, 3]
    assert rows[0]["input_ids"].tolist() == list(range(22, 28)) and rows[0]["input_ids"].dtype == np.uint16
    assert rows[1]["continuation"].tolist() == [0, 1, 0] and rows[1]["continuation"].dtype == np.uint8
    assert not rows[0]["input_ids"].flags.owndata and not rows[0]["input_ids"].flags.writeable
    assert corpus.rows([]) == []
    with pytest.raises(IndexError):
        corpus.rows([4])


def test_a_corpus_crosses_to_other_processes_as_its_folder(folder):
    dumped = pickle.dumps(Corpus(folder))
    assert len(dumped) < 2000
    assert pickle.loads(dumped).rows([1])[0]["input_ids"].tolist() == list(range(13, 18))


def test_shards_hold_no_file_descriptors(folder):
    before = len(os.listdir("/proc/self/fd"))
    corpus = Corpus(folder)
    assert len(os.listdir("/proc/self/fd")) == before
    assert corpus.rows([3])[0]["input_ids"].tolist() == list(range(22, 28))


def test_token_counts_cover_the_vocabulary(folder):
    corpus = Corpus(folder)
    counts = corpus.token_counts()
    assert len(counts) == corpus.manifest["tokenizer"]["size"] and counts.sum() == 18
    assert counts[10:28].tolist() == [1] * 18


def test_the_record_of_a_shard_is_read_without_the_manifest(folder):
    assert [read_shard(folder / shard_name(i)).record["blocks"] for i in range(3)] == [3, 0, 1]


def test_ids_take_two_bytes_while_they_fit():
    assert (id_dtype(1 << 16), id_dtype((1 << 16) + 1)) == (np.uint16, np.uint32)


def test_the_folder_opens_with_datasets(folder):
    loaded = datasets.load_from_disk(str(folder))
    assert loaded.features["input_ids"].feature.dtype == "uint16"
    assert loaded[3] == {"input_ids": list(range(22, 28)), "continuation": [0, 1] * 3, "document": 7}


def test_whole_documents_are_split_off(folder):
    corpus = Corpus(folder)
    train, held = corpus.split_documents(0.34, seed=1)
    assert sorted([*train, *held]) == [0, 1, 2, 3] and train.dtype == np.int64
    assert not set(corpus.documents[train]) & set(corpus.documents[held])
    assert len(set(corpus.documents[held].tolist())) == 1
    again = corpus.split_documents(0.34, seed=1)
    assert np.array_equal(train, again[0]) and np.array_equal(held, again[1])
    assert len({tuple(corpus.split_documents(0.34, seed=seed)[1]) for seed in range(20)}) == 3
    for share in (1e-9, 1 - 1e-9):  # at least one document on either side
        assert all(len(rows) for rows in corpus.split_documents(share, seed=1))
    for share in (0, 1, -1):
        with pytest.raises(CorpusError, match="--validation_split must lie between 0 and 1"):
            corpus.split_documents(share, seed=1)


def test_another_tokenizer_is_refused(folder, bert_folder):
    corpus = Corpus(folder)
    corpus.check_tokenizer(load_backend(str(bert_folder()), None))
    with pytest.raises(CorpusError, match="--tokenizer_name must be the tokenizer that made"):
        corpus.check_tokenizer(load_backend(str(bert_folder(do_lower_case=False)), None))


def test_what_is_no_finished_corpus_is_refused(folder, tmp_path):
    with pytest.raises(CorpusError, match="--train_dir must name a corpus folder"):
        Corpus(tmp_path / "absent")
    manifest = Corpus(folder).manifest
    write_manifest(folder, manifest | {"complete": False})
    with pytest.raises(CorpusError, match=r"--validation_dir .* must be a finished corpus"):
        Corpus(folder, "--validation_dir")
    write_manifest(folder, manifest | {"format": 99})
    with pytest.raises(CorpusError, match=r"--train_dir .* must have corpus format"):
        Corpus(folder)
    write_manifest(folder, manifest)
    shard = folder / shard_name(0)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CorpusError, match=r"--train_dir .* must hold data-00000\.arrow"):
        Corpus(folder)
    shard.unlink()
    with pytest.raises(CorpusError, match="no such file"):
        Corpus(folder)


def test_every_column_is_one_array_in_the_file(folder):
    stream = pa.ipc.open_stream(pa.memory_map(str(folder / shard_name(0))))
    assert stream.read_all()["input_ids"].num_chunks == 1


# A part of a corpus


@pytest.mark.parametrize("without", [[], [0], [9], [0, 1, 2], [2, 5, 6], list(range(10))])
def test_all_but_some_numbers(without):
    numbers, kept = AllBut(10, without), np.setdiff1d(np.arange(10), without)
    assert len(numbers) == len(kept) and np.array_equal(np.asarray(numbers), kept)
    assert numbers[np.arange(len(kept))[::-1]].tolist() == kept[::-1].tolist()


@pytest.mark.parametrize("small", [True, False])
def test_lengths_are_those_of_the_rows(bert_folder, tmp_path, monkeypatch, small):
    backend = load_backend(str(bert_folder()), None)
    whole = write(tmp_path / "corpus", backend, random_documents(3), shards=4, max_seq_length=90)
    monkeypatch.setattr(store, "SMALL", 1 << 30 if small else 0)
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
    monkeypatch.setattr(store, "SMALL", 1 << 30 if small else 0)
    mean = RowLengths(Corpus(tmp_path / "corpus"), AllBut(5000)).mean()
    assert mean == pytest.approx(lengths.mean(), rel=1e-9 if small else 0.01)


def test_rows_of_a_shard_that_is_cut_short_while_they_are_read_are_not_handed_out(folder, monkeypatch):
    """Between the look at its size and the reading: a map of what is gone from the last page holds zeros."""
    corpus, look, shard = Corpus(folder), store.ShardMaps.__getitem__, folder / shard_name(0)

    def look_and_cut(maps, number):
        mapped = look(maps, number)
        os.truncate(shard, 8)
        return mapped

    monkeypatch.setattr(store.ShardMaps, "__getitem__", look_and_cut)
    with pytest.raises(CorpusError, match=rf"{shard.name} with 8 bytes"):
        corpus.rows([0, 1])
