"""Rows made by chunks hold every token once, are as many and as full as those of a small corpus, and any one of them
can be made alone."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batches import chunks
from data.batches.corpora import MixedRows
from data.batches.packing import ConcatChunks, IsolatedChunks, cut_stream, fill_bins, pack
from data.batches.sampling import PlainRows, TrainBatches, padding_share
from data.corpus import store
from data.corpus.arrow_shards import CorpusError, shard_name
from data.corpus.sentences import sentence_tables
from data.corpus.store import AllBut, Corpus
from data.tokens.tokenizer_files import load_backend, special_frame
from tests.data.batches.small_corpora import random_documents, write


@pytest.fixture(scope="module")
def backend(bert_folder):
    return load_backend(str(bert_folder()), None)


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Every corpus is one, and has many chunks."""
    monkeypatch.setattr(store, "SMALL", 0)
    for kind in (ConcatChunks, IsolatedChunks):
        monkeypatch.setattr(kind, "slots", 8)
        monkeypatch.setattr(kind, "reach", min(kind.reach, 8))


@pytest.fixture(params=[(1, 0.0), (3, 0.0), (3, 0.3)], ids=["one shard", "three", "rows left out"])
def plain(request, tmp_path, backend):
    shards, share = request.param
    corpus = write(tmp_path / "corpus", backend, random_documents(7, 150), shards, max_seq_length=64)
    left_out = np.flatnonzero(np.random.default_rng(1).random(len(corpus)) < share)
    return PlainRows(corpus, AllBut(len(corpus), left_out))


def tokens(rows, frame):
    ids = np.concatenate([row["input_ids"] for row in rows])
    return np.bincount(ids[~np.isin(ids, frame)], minlength=max(frame) + 1).tolist()


@pytest.mark.parametrize("packing", ["concat", "isolated"])
def test_every_token_is_in_one_row_and_rows_are_as_full(plain, backend, packing):
    frame = special_frame(backend)
    whole, rows = pack(plain, packing, 64, backend), pack(plain, packing, 64, backend, chunked=True)
    assert isinstance(rows, chunks.ChunkRows) and not isinstance(whole, chunks.ChunkRows)
    listed = rows.rows(range(len(rows)))
    assert tokens(listed, frame) == tokens(plain.rows(range(len(plain))), frame)
    assert [row["index"] for row in listed] == list(range(len(rows)))
    lengths = [len(row["input_ids"]) for row in listed]
    assert all(len(row["continuation"]) == length <= 64 for row, length in zip(listed, lengths, strict=True))
    assert lengths == rows.lengths[np.arange(len(rows))].tolist() and rows.lengths.max() == 64
    assert np.mean(lengths) == pytest.approx(whole.lengths.mean(), rel=0.04)  # a row of each shard is not full
    assert rows.lengths.mean() == pytest.approx(whole.lengths.mean(), rel=0.04)
    assert not any(row["continuation"][:2].any() for row in listed), "a row begins with a word"


def test_concat_rows_are_cut_from_the_stream_mostly_between_sentences(plain, backend):
    (cls, sep), (_, opens) = special_frame(backend), sentence_tables(backend)
    stream, previous = [], None
    for row, document in zip(plain.rows(range(len(plain))), plain.documents, strict=True):
        if previous != (row["index"] - 1, document):
            stream.append(sep)
        stream += row["input_ids"][1:-1].tolist()
        previous = (row["index"], document)
    text, listed = bytes(stream), pack(plain, "concat", 64, backend, chunked=True)
    listed, whole = listed.rows(range(len(listed))), []
    begins = {tuple(row["input_ids"][1:4]) for row in plain.rows(range(len(plain)))}
    for row in listed:
        ids = row["input_ids"].tolist()
        assert (ids[0], ids[-1]) == (cls, sep) and sep not in (ids[1], ids[-2]) and bytes(ids[1:-1]) in text
        whole.append(tuple(ids[1:4]) in begins or opens[ids[1]])
    assert np.mean(whole) > 0.9


def test_isolated_rows_of_the_corpus_are_whole_but_for_a_few(plain, backend):
    rows = pack(plain, "isolated", 64, backend, chunked=True)
    pieces = []
    for row in rows.rows(range(len(rows))):
        ends = np.cumsum(row["pieces"])
        assert ends[-1] == len(row["input_ids"])
        pieces += [tuple(piece.tolist()) for piece in np.split(row["input_ids"], ends[:-1])]
    wanted = {tuple(row["input_ids"].tolist()) for row in plain.rows(range(len(plain)))}
    assert sum(piece in wanted for piece in pieces) > 0.9 * len(plain)
    assert len(plain) <= len(pieces) < 1.1 * len(plain)


@pytest.mark.parametrize("packing", ["concat", "isolated"])
def test_any_row_can_be_made_alone_and_travels(plain, backend, packing):
    rows = pack(plain, packing, 64, backend, chunked=True)
    in_order, order = rows.rows(range(len(rows))), np.random.default_rng(0).permutation(len(rows))
    again = pickle.loads(
        pickle.dumps(pack(PlainRows(Corpus(plain.corpus.folder), plain.indices), packing, 64, backend, True))
    )
    for row in again.rows(order):
        assert all(np.array_equal(row[name], value) for name, value in in_order[row["index"]].items())
    assert len(again._plans) <= chunks._KEPT


def test_rows_are_sorted_by_a_guess_that_reads_nothing(plain, backend, monkeypatch):
    rows = pack(plain, "concat", 64, backend, chunked=True)
    lengths, guessed = rows.lengths[np.arange(len(rows))], rows.ranked_lengths[np.arange(len(rows))]
    assert np.corrcoef(lengths, guessed)[0, 1] > 0.7
    monkeypatch.setattr(ConcatChunks, "plan", None)
    both = MixedRows([rows, plain], [None, None])
    assert both.ranked_lengths[[0, len(rows)]].tolist() == [guessed[0], plain.lengths[[0]][0]]
    batches = TrainBatches(len(rows), 4, 2, steps=9, seed=0, lengths=rows.ranked_lengths)
    assert len(list(zip(range(18), batches, strict=False))) == 18
    monkeypatch.undo()
    monkeypatch.setattr(store, "SMALL", 0)
    assert 0 < padding_share(batches, rows, 1) < 0.5


def test_small_corpora_and_rows_that_were_chosen_are_packed_together(plain, backend, monkeypatch):
    chosen = PlainRows(plain.corpus, np.arange(20))
    assert not isinstance(pack(chosen, "concat", 64, backend, chunked=True), chunks.ChunkRows)
    monkeypatch.setattr(store, "SMALL", 1 << 30)
    small = PlainRows(Corpus(plain.corpus.folder), plain.indices)
    assert not isinstance(pack(small, "isolated", 64, backend, chunked=True), chunks.ChunkRows)


def test_making_them_looks_at_a_sample_alone(tmp_path, backend, monkeypatch):
    corpus = write(tmp_path / "corpus", backend, random_documents(7, 400), 40, max_seq_length=64)
    monkeypatch.setattr(chunks, "_SMALL_SHARD", 0)
    monkeypatch.setattr(chunks, "_SAMPLE", 3)
    monkeypatch.setattr(chunks, "_SAMPLE_ROWS", 4)
    rows = pack(PlainRows(corpus, AllBut(len(corpus))), "concat", 64, backend, chunked=True)
    assert len(corpus.maps._mapped) <= 6 and len(rows) > 40


def test_a_damaged_shard_is_told(tmp_path, backend):
    corpus = write(tmp_path / "corpus", backend, random_documents(7, 40), 1, max_seq_length=64)
    rows = pack(PlainRows(corpus, AllBut(len(corpus))), "concat", 64, backend, chunked=True)
    file, ends = tmp_path / "corpus" / shard_name(0), corpus.maps[0].offsets.tobytes()
    content = bytearray(file.read_bytes())
    at = content.index(ends) + 4 * 7
    content[at : at + 4] = np.int32(-9).tobytes()
    with file.open("r+b") as out:
        out.write(content)
    with pytest.raises(CorpusError, match=rf"{file.name} .*rows that end before they begin"):
        rows.rows(range(len(rows)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=60), st.integers(0, 3))
def test_a_stream_is_cut_into_as_many_rows_as_are_wanted(sentences, more):
    begins, befores, total = [], [], 0
    for size, separated in sentences:
        befores.append(total)
        total += separated and total > 0
        begins.append(total)
        total += size
    text, capacity = total - sum(b - a for a, b in zip(befores, begins, strict=True)), 16
    count = min(-(-total // capacity) + more, text)
    cuts = cut_stream(begins, befores, total, capacity, count)
    assert len(cuts) == count and cuts[0][0] == 0 and cuts[-1][1] == total
    assert all(0 < stop - start <= capacity for start, stop in cuts)
    skipped = [(stop, start) for (_, stop), (start, _) in pairwise(cuts) if stop < start]
    assert set(skipped) <= set(zip(befores, begins, strict=True)) and all(a <= b for (_, a), (b, _) in pairwise(cuts))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(0, 3))
def test_items_fill_as_many_bins_as_are_wanted(lengths, more):
    count = min(-(-sum(lengths) // 20) + more, sum(lengths))
    bins = fill_bins(lengths, 20, count)
    assert len(bins) == count and all(0 < sum(size for _, _, size in parts) <= 20 for parts in bins)
    parts = sorted(part for parts in bins for part in parts)
    for item, length in enumerate(lengths):
        own = [(first, size) for number, first, size in parts if number == item]
        assert [first for first, _ in own] == np.cumsum([0, *(size for _, size in own)])[:-1].tolist()
        assert sum(size for _, size in own) == length
