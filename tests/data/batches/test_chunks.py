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
from data.batches.electra_rows import ElectraChunks, ElectraRows, ExampleBuilder, electra_rows
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
    for kind in (ConcatChunks, IsolatedChunks, ElectraChunks):
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


def test_rows_that_no_training_row_holds_are_told(tmp_path, backend):
    corpus = write(tmp_path / "corpus", backend, random_documents(7, 40), 1, max_seq_length=16)
    with pytest.raises(CorpusError, match=r"--max_seq_length must be at least the \d\d tokens of a row of .*, got 16"):
        pack(PlainRows(corpus, AllBut(len(corpus))), "concat", 16, backend, chunked=True)


# ELECTRA


@pytest.mark.parametrize("length", [32, 64])
@pytest.mark.parametrize("kind", ["packed", "reference"])
def test_electra_rows_of_chunks_are_like_those_of_a_small_corpus(plain, backend, kind, length):
    frame = special_frame(backend)
    whole, rows = (electra_rows(plain, kind, length, backend, 3, chunked) for chunked in (False, True))
    assert (type(whole), type(rows)) == (ElectraRows, ElectraChunks)
    listed, others = rows.rows(range(len(rows))), whole.rows(range(len(whole)))
    assert len(listed) == pytest.approx(len(others), rel=0.05)
    wanted, kept = (sum(tokens(each, frame)) for each in (others, listed))
    assert kept == wanted if kind == "packed" else kept == pytest.approx(wanted, rel=0.05)
    if kind == "packed":
        assert tokens(listed, frame) == tokens(plain.rows(range(len(plain))), frame)
    for row in listed:
        ids = row["input_ids"].tolist()
        assert len(ids) == len(row["continuation"]) <= length and (ids[0], ids[-1]) == tuple(frame)
        assert ids[row["first_segment"] - 1] == frame[1] and ids.count(frame[1]) == 1 + (
            row["first_segment"] < len(ids)
        )

    def shares(rows):
        single, lengths = [row["first_segment"] == len(row["input_ids"]) for row in rows], rows_of(rows)
        return [np.mean(single), np.mean(lengths < length / 2), lengths.mean() / length]

    def rows_of(rows):
        return np.array([len(row["input_ids"]) for row in rows])

    assert shares(listed) == pytest.approx(shares(others), abs=0.09)
    other = electra_rows(plain, kind, length, backend, 4, chunked=True)
    assert len(other) == len(rows), "whatever the seed"
    pairs = zip(other.rows(range(len(rows))), listed, strict=True)
    assert not all(np.array_equal(one["input_ids"], row["input_ids"]) for one, row in pairs)
    again = electra_rows(plain, kind, length, backend, 3, chunked=True).rows(range(len(rows))[::-1])
    assert all(np.array_equal(row["input_ids"], listed[row["index"]]["input_ids"]) for row in again)


def test_few_electra_rows_hold_two_documents(tmp_path, backend):
    texts = [["".join(chr(0x4E00 + (document * 7 + k) % 5) for k in range(90))] for document in range(120)]
    corpus = write(tmp_path / "corpus", backend, texts, 1, max_seq_length=92)
    plain, together = PlainRows(corpus, AllBut(len(corpus))), []
    rows = electra_rows(plain, "packed", 32, backend, 3, chunked=True)
    for number in range(int(rows._chunks.sum())):
        chunk = rows.chunk(0, number)
        starts, stops, _ = chunk.contents()
        ends = np.cumsum(stops - starts)
        for first, second in rows.plan(chunk)[2]:
            places = [place for start, size in [*first, *second] for place in (start, start + size - 1)]
            together.append(len(np.unique(np.searchsorted(ends, places, side="right"))) > 1)
    assert len(together) == len(rows) and np.mean(together) < 0.05


@pytest.mark.parametrize("settings", [{"line_by_line": False}, {"keep_lines": True}], ids=str)
def test_electra_rows_of_joined_rows_and_of_lines(tmp_path, backend, settings):
    corpus = write(tmp_path / "corpus", backend, random_documents(9, 60), 2, max_seq_length=64, **settings)
    plain, frame = PlainRows(corpus, AllBut(len(corpus))), special_frame(backend)
    rows = electra_rows(plain, "packed", 40, backend, 3, chunked=True)
    assert isinstance(rows, ElectraChunks)
    assert tokens(rows.rows(range(len(rows))), frame) == tokens(plain.rows(range(len(plain))), frame)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 29), min_size=1, max_size=30), st.booleans(), st.integers(0, 2**20), st.data())
def test_as_many_rows_are_made_of_some_as_are_wanted(sizes, keep, seed, data):
    starts = np.cumsum(sizes) - sizes
    rows = [([(int(start), size)], []) for start, size in zip(starts, sizes, strict=True)]
    least = -(-sum(sizes) // 29)
    count = data.draw(st.integers(least, max(least, sum(sizes) // 2)))
    fitted = ExampleBuilder(32, seed, keep).fit(rows, count)
    contents = [
        place for row in fitted for part in row for start, size in part for place in range(start, start + size)
    ]
    assert len(fitted) == count and len(set(contents)) == len(contents)
    assert all(
        first and sum(size for _, size in [*first, *second]) <= (29 if second else 30) for first, second in fitted
    )
    assert not keep or sorted(contents) == list(range(sum(sizes)))


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
