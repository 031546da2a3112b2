"""Packed rows hold every token once, whole sentences or whole corpus rows, and depend on the corpus alone."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from data.batches.packing import fill_rows, pack
from data.batches.sampling import PlainRows, TrainBatches, padding_share
from data.corpus.arrow_shards import CorpusError
from data.corpus.sentences import sentence_tables
from data.corpus.store import Corpus
from data.tokens.tokenizer_files import load_backend
from tests.data.batches.small_corpora import every, framed, random_documents, write


@pytest.fixture(scope="module")
def backend(bert_folder):
    return load_backend(str(bert_folder()), None)


def packed_rows(rows):
    return rows.rows(np.arange(len(rows)))


def stream_by_hand(rows, numbers, corpus, backend):
    """All tokens without frames, a separator before each document."""
    (_, separator), stream, previous = framed(backend, ""), [], (-1, -1)
    for number, row in zip(numbers, rows, strict=True):
        place = (int(corpus.documents[number]), number)
        if place[0] != previous[0] or number != previous[1] + 1:
            stream.append(separator)
        stream += row["input_ids"][1:-1].tolist()
        previous = place
    return stream


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("share", [1, 0.6])
@pytest.mark.parametrize("length", [40, 64])
def test_concat_lays_the_documents_end_to_end_and_loses_nothing(tmp_path, backend, shards, share, length):
    corpus = write(tmp_path / "corpus", backend, random_documents(length), shards)
    numbers = np.flatnonzero(np.random.default_rng(0).random(len(corpus)) < share)
    rows = pack(PlainRows(corpus, numbers), "concat", length, backend)
    cls, sep = framed(backend, "")
    listed = packed_rows(rows)
    assert [len(row["input_ids"]) for row in listed] == rows.lengths.tolist()
    assert all(len(row["input_ids"]) == len(row["continuation"]) <= length for row in listed)
    assert [row["index"] for row in listed] == list(range(len(rows)))
    assert all((row["input_ids"][0], row["input_ids"][-1]) == (cls, sep) for row in listed)
    wanted = stream_by_hand(corpus.rows(numbers), numbers.tolist(), corpus, backend)
    contents = [row["input_ids"][1:-1].tolist() for row in listed]
    without = [token for token in wanted if token != sep]
    assert [token for content in contents for token in content if token != sep] == without
    marks = np.concatenate([row["continuation"][1:-1][row["input_ids"][1:-1] != sep] for row in listed])
    assert marks.tolist() == [backend.id_to_token(token).startswith("##") for token in without]
    # a separator stands between two documents, or a row ends there
    position = 0
    for content in contents:
        position += wanted[position] == sep
        assert content == wanted[position : position + len(content)]
        position += len(content)
    assert position == len(wanted)


def test_concat_rows_are_full_and_begin_with_sentences_or_rows(tmp_path, backend):
    corpus = write(tmp_path / "corpus", backend, random_documents(1))
    rows = pack(every(corpus), "concat", 48, backend)
    kinds, opens = sentence_tables(backend)
    row_starts = {tuple(row["input_ids"][1:4].tolist()) for row in corpus.rows(range(len(corpus)))}
    listed, whole = packed_rows(rows), []
    for before, row in pairwise(listed):
        first, last = row["input_ids"][1], before["input_ids"][-2]
        whole.append(kinds[last] > 0 and opens[first])
        assert whole[-1] or tuple(row["input_ids"][1:4].tolist()) in row_starts
    assert np.mean(whole) > 0.5
    assert padding_share(TrainBatches(len(rows), 8, steps=9, seed=0), rows, 1) < 0.3
    # no row could have taken the next sentence as well: the longest one has 15 tokens and a separator
    assert rows.lengths[:-1].min() > 48 - 16


def test_isolated_keeps_whole_rows_apart_and_fills_them(tmp_path, backend):
    corpus = write(tmp_path / "corpus", backend, random_documents(2), shards=2)
    rows = pack(every(corpus), "isolated", 64, backend)
    listed = packed_rows(rows)
    assert all(row["pieces"].sum() == len(row["input_ids"]) == len(row["continuation"]) <= 64 for row in listed)
    assert [len(row["input_ids"]) for row in listed] == rows.lengths.tolist()
    pieces = [
        tuple(piece.tolist()) for row in listed for piece in np.split(row["input_ids"], np.cumsum(row["pieces"])[:-1])
    ]
    assert sorted(pieces) == sorted(tuple(row["input_ids"].tolist()) for row in corpus.rows(range(len(corpus))))
    assert rows.lengths[:-1].mean() > 0.95 * 64


def test_rows_that_are_joined_already_are_isolated_by_document_and_concat_leaves_them(tmp_path, backend):
    documents = [["我爱你" + "北京" * 8], ["你好吗"]]
    corpus = write(tmp_path / "corpus", backend, documents, line_by_line=False, max_seq_length=30)
    assert corpus.is_grouped and type(pack(every(corpus), "concat", 30, backend)) is PlainRows
    (row,) = pack(every(corpus), "isolated", 30, backend).rows([0])
    assert row["pieces"].tolist() == [5, 21]
    joined = write(tmp_path / "joined", backend, [["我爱你[SEP][CLS]你好吗"]], line_by_line=False)
    (row,) = pack(every(joined), "isolated", 30, backend).rows([0])
    assert row["pieces"].tolist() == [5, 5]


def test_packing_depends_on_the_corpus_alone_and_travels_to_workers(tmp_path, backend):
    corpus = write(tmp_path / "corpus", backend, random_documents(3), shards=2)
    for packing in ("concat", "isolated"):
        one, other = (pack(every(source), packing, 50, backend) for source in (corpus, Corpus(tmp_path / "corpus")))
        for a, b in zip(packed_rows(one), packed_rows(pickle.loads(pickle.dumps(other))), strict=True):
            assert all(np.array_equal(a[name], b[name]) for name in a)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), max_size=60))
def test_every_item_is_in_one_row_that_holds_it(lengths):
    members, edges = fill_rows(np.array(lengths, np.int64), 20)
    assert sorted(members.tolist()) == list(range(len(lengths)))
    fills = [sum(lengths[i] for i in members[a:b]) for a, b in pairwise(edges)]
    assert all(0 < fill <= 20 for fill in fills)
    assert sum(fill <= 10 for fill in fills) <= 1  # two half-empty rows would have been one


def test_what_cannot_be_packed_is_told(tmp_path, backend):
    corpus = write(tmp_path / "corpus", backend, random_documents(5))
    unframed = Tokenizer.from_str(backend.to_str())
    unframed.post_processor = None
    with pytest.raises(CorpusError, match="--packing concat needs a tokenizer with one token before"):
        pack(every(corpus), "concat", 64, unframed)
