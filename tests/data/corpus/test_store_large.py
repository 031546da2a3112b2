"""A large corpus is opened without a look into its shards, gives the same rows, and damage is told by name."""

import json
import shutil
import time

import numpy as np
import pytest

from data.batches.corpora import load_rows
from data.batches.sampling import make_train_batches
from data.corpus import store
from data.corpus.arrow_shards import CorpusError, checksum, shard_name, write_shard
from data.corpus.manifest import read_manifest, write_manifest
from data.corpus.store import Corpus
from data.tokens.tokenizer_files import load_backend
from tests.data.batches.small_corpora import random_documents, write

SHARDS = 6


@pytest.fixture(scope="module")
def backend(bert_folder):
    return load_backend(str(bert_folder()), None)


@pytest.fixture(scope="module")
def prepared(backend, tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps") / "corpus"
    write(folder, backend, random_documents(8, 60), shards=SHARDS, max_seq_length=90)
    sums = {shard_name(number): checksum(folder / shard_name(number)) for number in range(SHARDS)}
    write_manifest(folder, read_manifest(folder, ""), sums)
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """Of a corpus that counts as a large one, with checksums."""
    monkeypatch.setattr(store, "SMALL", 0)
    return shutil.copytree(prepared, tmp_path / "corpus")


def small(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SMALL", 1 << 30)
        return Corpus(folder)


def damage(folder, number):
    """Another token at the end of a shard's rows."""
    file = folder / shard_name(number)
    content, ids = bytearray(file.read_bytes()), small(folder).maps[number].ids.tobytes()
    content[content.index(ids) + len(ids) - 4] ^= 1
    file.write_bytes(content)


def test_opening_reads_the_manifest_alone(folder, monkeypatch):
    opened, real = [], store.read_shard
    monkeypatch.setattr(store, "read_shard", lambda *args: (opened.append(args), real(*args))[1])
    corpus = Corpus(folder)
    assert len(corpus) == sum(corpus.maps.rows) and not opened
    corpus.rows([3, 4])
    assert [(path.name, whole) for path, whole in opened] == [(shard_name(0), False)]


def test_rows_and_batches_are_those_of_the_small_corpus(folder, backend, monkeypatch):
    one, other = small(folder), Corpus(folder)
    assert (one.maps.is_small, other.maps.is_small) == (True, False)
    monkeypatch.setattr(store, "_MOST_MAPS", 2)
    for first, second in zip(one.rows(range(len(one))), other.rows(range(len(one))), strict=True):
        assert all(np.array_equal(first[name], second[name]) for name in ("index", "input_ids", "continuation"))
    assert len(other.maps._mapped) == 2
    assert np.array_equal(one.lengths, other.lengths) and np.array_equal(one.documents, other.documents)

    class Run:
        train_batch_size, gradient_accumulation_steps, data_processes, data_process = 4, 2, 1, 0
        max_steps, seed, data_seed, row_order, train_sampling_strategy = 100, 3, None, "permuted", "group_by_length"

    def batches():
        rows = load_rows(str(folder), None, None, backend)[0]
        made = make_train_batches(Run, rows, rows, 8)
        return made.padding, list(zip(range(200), made, strict=False))

    large = batches()
    monkeypatch.setattr(store, "SMALL", 1 << 30)
    assert large == batches()


@pytest.mark.parametrize("kept", [True, False])
def test_rows_of_documents_are_found_in_their_shards(folder, kept):
    corpus, documents = Corpus(folder), small(folder).documents
    chosen = np.unique(documents)[:: 7 if kept else 1]
    assert corpus.rows_of(chosen).tolist() == np.flatnonzero(np.isin(documents, chosen)).tolist()
    assert corpus.last_document == documents[-1] and corpus.rows_of(np.array([10**6])).tolist() == []


# Damage


def test_what_reads_everything_checks_everything(folder):
    damage(folder, 4)
    corpus = Corpus(folder)
    corpus.rows(range(5))
    for read in (lambda: list(corpus.shards()), corpus.token_counts, lambda: corpus.lengths, lambda: corpus.documents):
        with pytest.raises(CorpusError, match=shard_name(4) + ".*another checksum"):
            read()
    with pytest.raises(CorpusError, match=shard_name(4)):
        small(folder)


def test_the_background_finds_damage_and_the_next_rows_tell_it(folder):
    damage(folder, 3)
    mine, other = Corpus(folder), Corpus(folder)
    for share, corpus in enumerate((other, mine)):
        corpus.maps.check_in_background(share, 2)
    deadline = time.monotonic() + 30
    with pytest.raises(CorpusError, match=shard_name(3) + ".*another checksum"):
        while time.monotonic() < deadline:
            mine.lengths_of(np.arange(2))
            time.sleep(0.01)
    with pytest.raises(CorpusError, match=shard_name(3)):
        mine.rows([0])
    while len(other.maps._checked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert other.maps._checked == {0, 2, 4} and other.rows([0])


def test_a_run_checks_its_corpora_in_the_background(folder, backend, monkeypatch):
    shares = []
    monkeypatch.setattr(store.ShardMaps, "check_in_background", lambda self, *share: shares.append(share))
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    load_rows(str(folder), str(folder), None, backend)
    assert shares == [(2, 8), (2, 8)]


def test_other_files_are_told_before_a_row_of_them_is_read(folder):
    corpus, shard = Corpus(folder), folder / shard_name(0)
    mapped = corpus.rows([0])
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(content)
    assert corpus.rows([0])[0]["input_ids"].tolist() == mapped[0]["input_ids"].tolist(), "still there for us"
    last = folder / shard_name(SHARDS - 1)
    shutil.copy(last, folder / "copy")
    (folder / "copy").replace(last)
    with pytest.raises(CorpusError, match=f"--train_dir .* must stay as it is.*{last.name}"):
        corpus.rows([len(corpus) - 1])
    file = folder / shard_name(1)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CorpusError, match=file.name):
        corpus.lengths_of(np.arange(len(corpus) // 2))
    with pytest.raises(CorpusError, match=r"--validation_dir .*must hold data-00001\.arrow"):
        Corpus(folder, "--validation_dir")


def test_rows_and_ids_that_cannot_be_are_told(folder, backend):
    manifest, file = json.loads((folder / "manifest.json").read_text()), folder / shard_name(2)
    ids = np.arange(40, dtype=np.uint16)
    write_shard(file, ids, ids % 2, np.array([20, 20]), np.array([30, 30]), {})
    content, ends = bytearray(file.read_bytes()), np.array([0, 20, 40], np.int32).tobytes()
    content[content.index(ends) + 4 : content.index(ends) + 8] = np.int32(-7).tobytes()
    manifest["shards"][2] |= {"bytes": len(content), "blocks": 2}

    def opened(content):
        file.write_bytes(content)
        write_manifest(folder, {name: manifest[name] for name in manifest.keys() - {"crc32"}})
        return Corpus(folder)

    corpus = opened(bytes(content))
    first = sum(corpus.maps.rows[:2])
    for read in (corpus.rows, corpus.lengths_of):
        with pytest.raises(CorpusError, match=f"{file.name} .*rows that end before they begin"):
            read(np.array([first, first + 1]))
    manifest["shards"][2]["blocks"] = 3
    with pytest.raises(CorpusError, match=f"{file.name} .*2 rows instead of 3"):
        opened(bytes(content)).rows([first])
    manifest["shards"][2]["blocks"] = 2
    write_shard(file, ids + 60_000, ids % 2, np.array([20, 20]), np.array([30, 30]), {})
    corpus = opened(file.read_bytes())
    corpus.check_tokenizer(backend)
    with pytest.raises(CorpusError, match=f"{file.name} must hold ids up to"):
        list(corpus.shards())
