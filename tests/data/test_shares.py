"""What runs that share work have in common."""

from itertools import chain

import pytest

from common.errors import UserError
from data.shares import leave, share_of, take


def test_shares_are_parts_in_order_whose_sizes_differ_by_one():
    for count in range(1, 9):
        parts = [share_of(list(range(5)), index, count) for index in range(count)]
        assert list(chain.from_iterable(parts)) == list(range(5)) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_a_run_leaves_is_read_as_it_is_or_refused(tmp_path):
    content = {"text": "\udcff\n", "list": [1, [2.5, None]]}
    leave(tmp_path / "a" / "b.json", content)
    assert take(tmp_path / "a" / "b.json") == content
    whole = (tmp_path / "a" / "b.json").read_bytes()
    for damaged in (whole[:-3], whole.replace(b"2.5", b"3.5"), b"", b"\n" + whole, whole[1:]):
        (tmp_path / "a" / "b.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"b\.json must be as it was written, got a damaged one"):
            take(tmp_path / "a" / "b.json")
