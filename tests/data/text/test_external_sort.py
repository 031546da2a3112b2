"""Documents come back sorted by their keys, however many buckets and blocks they went through."""

import numpy as np
import pytest

from data.text.external_sort import RECORD, Buckets, content_keys, position_keys, random_keys


def records_of(payloads, first=0):
    records = np.zeros(len(payloads), RECORD)
    records["position"] = np.arange(first, first + len(payloads))
    return records


def sorted_by_disk(folder, payloads, count, keys):
    """The payloads through `count` buckets, added in three blocks of which the last comes first."""
    buckets = Buckets(folder, count)
    for part in np.array_split(np.arange(len(payloads)), 3)[::-1]:
        texts = [payloads[index] for index in part]
        records = records_of(texts, int(part[0]))
        keys(records, texts)
        buckets.add(records, texts)
    taken = [payload for _, payloads in buckets.take(distinct=False) for payload in payloads]
    assert not list(folder.iterdir())
    return taken


@pytest.mark.parametrize("count", [1, 7, 300])
def test_the_order_is_that_of_the_keys_for_any_number_of_buckets(tmp_path, count):
    payloads = [f"document {index}".encode() * (index % 5) for index in range(200)]
    in_order = sorted_by_disk(tmp_path / "o", payloads, count, lambda records, _: position_keys(records, 200))
    assert in_order == payloads
    shuffled = sorted_by_disk(tmp_path / "s", payloads, count, lambda records, _: random_keys(records, 3))
    keys = records_of(payloads)
    random_keys(keys, 3)
    assert shuffled == [payloads[index] for index in np.lexsort((keys["low"], keys["high"]))] != payloads


@pytest.mark.parametrize("count", [1, 5])
def test_of_equal_documents_the_first_stays(tmp_path, count):
    payloads = [str(index % 37).encode() for index in range(100)]
    buckets = Buckets(tmp_path / "b", count)
    records = records_of(payloads)
    content_keys(records, payloads, seed=1)
    buckets.add(records, payloads)
    positions = [position for kept, _ in buckets.take(distinct=True) for position in kept["position"].tolist()]
    assert sorted(positions) == list(range(37)) and buckets.dropped == 63
