"""Streams of documents: the original's samples, masks and order; corpora and windows; nothing lost, nothing twice."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from data.batches import causal_streams
from data.batches.causal_documents import CorpusDocuments, Frames, ShardDocuments
from data.batches.causal_streams import (
    CausalCollator,
    SegmentBatches,
    ShardStreamRows,
    StreamBatches,
    StreamRows,
    Windows,
    stream_rows,
)
from data.batches.masking import IGNORED
from data.batches.sampling import EpochRows
from data.corpus.arrow_shards import CorpusError
from tests.data.batches.documents import END, documents_of, random_documents

ORIGINAL = json.loads((Path(__file__).parents[2] / "fixtures" / "xl_dataset.json").read_text(encoding="utf-8"))


def in_order(pairs, seed, end):
    """Documents that the stream with this seed puts into the order of `pairs`."""
    shuffled = StreamRows(documents_of([((), (i,)) for i in range(len(pairs))]), len(pairs), seed).rows([0])[0]
    unshuffled = [None] * len(pairs)
    for pair, index in zip(pairs, shuffled["input_ids"].tolist(), strict=True):
        unshuffled[index] = pair
    return documents_of(unshuffled, end)


@pytest.mark.parametrize("seed", [0, 7])
def test_samples_are_those_of_the_original(seed):
    pairs = [(document["prompt"], document["text"]) for document in ORIGINAL["documents"]]
    rows = StreamRows(in_order(pairs, seed, ORIGINAL["end"]), ORIGINAL["length"], seed)
    assert len(rows) == len(ORIGINAL["samples"])
    batch = CausalCollator(ORIGINAL["end"], ORIGINAL["length"])(rows.rows(range(len(rows))))
    delta = np.arange(8)[:, None] + ORIGINAL["memory"] - np.arange(12)  # of query and key
    for number, sample in enumerate(ORIGINAL["samples"]):
        row = {name: batch[name][number].numpy() for name in ("input_ids", "labels", "position_ids")}
        real = batch["attention_mask"][number].bool().numpy()
        assert row["input_ids"].tolist() == sample["text"]
        scored = np.array(sample["loss_mask"], bool)
        assert np.array_equal(row["labels"] != IGNORED, scored)
        assert np.array_equal(row["labels"][scored], np.array(sample["target"])[scored])
        seen = (delta >= 0) & (delta <= row["position_ids"][:, None])
        original = np.array([[int(mark) for mark in line] for line in sample["attention_mask"]], bool) & (delta >= 0)
        assert np.array_equal(seen[real], original[real])


def test_rows_of_a_batch_follow_the_original_order():
    batches = StreamBatches(7, 2, steps=6, seed=0)
    order = [[row for _, row in batch] for _, batch in zip(range(6), batches, strict=False)]
    assert order == ORIGINAL["order"]


def test_streams_do_not_depend_on_how_a_step_is_shared():
    def steps(micro, accumulation, processes, start=0):
        sides = []
        for process in range(processes):
            batches = StreamBatches(50, micro, accumulation, processes, process, steps=4, seed=0)
            batches.start = start
            sides.append([batch for _, batch in zip(range(4 * accumulation), batches, strict=False)])
        return [
            [
                sides[process][step * accumulation + number]
                for number in range(accumulation)
                for process in range(processes)
            ]
            for step in range(4)
        ]

    def flat(steps):
        return [[pair for batch in step for pair in batch] for step in steps]

    whole = flat(steps(8, 1, 1))
    assert flat(steps(2, 4, 1)) == whole and flat(steps(2, 2, 2)) == whole
    assert [row for _, row in whole[1]] == [row + 1 for _, row in whole[0]]
    assert flat(steps(8, 1, 1, start=16))[0] == whole[2]


def test_the_stream_holds_every_token_and_target_once():
    documents = random_documents(40)
    assert_holds_everything_once(StreamRows(documents, 16, seed=3), documents)


def assert_holds_everything_once(rows, documents):
    segments = rows.rows(range(len(rows)))
    ids, labels, places = (
        np.concatenate([row[name] for row in segments]) for name in ("input_ids", "labels", "position_ids")
    )
    assert rows.lengths[np.arange(len(rows))].tolist() == [len(row["input_ids"]) for row in segments]
    assert len(ids) == documents.lengths.sum() and rows.lengths.mean() == len(ids) / len(rows)
    assert rows.lengths.max() == len(segments[0]["input_ids"])
    begins = np.flatnonzero(places == 0)
    parts = {tuple(part) for part in np.split(ids, begins[1:])}
    assert parts == {tuple(documents.tokens(i, 0, n).tolist()) for i, n in enumerate(documents.lengths)}
    assert (labels != IGNORED).sum() == documents.targets()
    inside = (labels != IGNORED) & (labels != END)
    assert np.array_equal(labels[inside], ids[np.flatnonzero(inside) + 1])
    assert (labels == END).sum() == len(documents.lengths)


def plain(row):
    return {name: np.asarray(value).tolist() for name, value in row.items()}


@pytest.mark.parametrize("length", [16, 100, 100_000])
def test_the_stream_of_a_large_corpus_holds_every_token_and_target_once(large_corpus, monkeypatch, length):
    corpus, backend = large_corpus
    documents = ShardDocuments(corpus, Frames.of([7], END, backend))
    rows = stream_rows(documents, length, seed=3)
    assert type(rows) is ShardStreamRows
    assert_holds_everything_once(rows, CorpusDocuments(corpus, [7], END, backend))
    first = [plain(row) for row in rows.rows(range(len(rows)))]
    monkeypatch.setattr(causal_streams, "_KEPT", 1)
    again = pickle.loads(pickle.dumps(stream_rows(documents, length, seed=3)))
    backwards = [plain(row) for row in again.rows(range(len(rows))[::-1])]
    assert backwards[::-1] == first, "a row depends on nothing but its index"
    if length == 16:
        other = [plain(row) for row in stream_rows(documents, length, seed=4).rows(range(len(rows)))]
        begins = [number for row in first for number in row["position_ids"]].count(0)
        assert other != first and begins == len(CorpusDocuments(corpus, [7], END, backend).lengths)
        assert first[0]["input_ids"] != documents.shard(0).tokens(0, 0, 16).tolist()
        train, _ = documents.split(0.3)
        assert 0.4 < len(stream_rows(train, length, seed=3)) / len(rows) < 0.95


def test_a_shard_of_other_tokens_than_its_manifest_says_is_told(large_corpus):
    corpus, backend = large_corpus
    corpus.manifest["shards"][2]["tokens"] += 1
    rows = stream_rows(ShardDocuments(corpus, Frames.of([], END, backend)), 16, seed=3)
    with pytest.raises(CorpusError, match=r"data-00002\.arrow must be a whole shard .*other tokens"):
        rows.rows(range(len(rows)))


@pytest.mark.parametrize("length, stride", [(8, 8), (8, 3), (16, 1), (64, 64)])
def test_windows_score_every_target_once_with_all_the_context_there_is(length, stride):
    documents = random_documents(12, seed=1)
    windows = Windows(documents, length, stride)
    scored = 0
    for row in windows.rows(range(len(windows))):
        tokens = documents.tokens(row["document"], 0, int(documents.lengths[row["document"]]))
        targets = np.append(tokens[1:], END)[row["position_ids"]]
        chosen = row["labels"] != IGNORED
        assert np.array_equal(row["labels"][chosen], targets[chosen])
        assert len(row["input_ids"]) <= length
        if row["position_ids"][0] and chosen.any():
            assert chosen[: length - stride].sum() == 0
        scored += chosen.sum()
    assert scored == documents.targets()


@pytest.mark.parametrize("processes", [1, 2])
def test_segments_of_documents_come_in_order_and_side_by_side(processes):
    windows = Windows(random_documents(11, seed=2), 8, 8)
    seen, collate = [], CausalCollator(0, 8)
    for process in range(processes):
        at, batches = {}, SegmentBatches(windows, 3, processes, process)
        listed = list(batches)
        assert len(listed) == len(batches)
        for pairs in listed:
            rows = EpochRows(windows).__getitems__(pairs)
            batch = collate(rows)
            assert batch["fresh"] == any(len(row["input_ids"]) and row["position_ids"][0] == 0 for row in rows)
            for column, (_, row) in enumerate(pairs):
                if row == len(windows):
                    continue
                if batch["fresh"]:
                    at[column] = row - 1
                assert row == at[column] + 1
                at[column] = row
                seen.append(row)
    assert sorted(seen) == list(range(len(windows)))
