"""Units of work cover every line once, whatever the files and the unit size."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.corpus import sources
from data.corpus.sources import LineSource


def scanned(folder, contents, unit_bytes):
    files = [folder / f"{i:03d}.jsonl" for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "UNIT_BYTES", unit_bytes)
        return LineSource(files, folder, None).scan()


@settings(deadline=None, max_examples=150)
@given(
    contents=st.lists(st.text("ab\n", max_size=30).map(str.encode), min_size=1, max_size=4),
    unit_bytes=st.integers(1, 40),
)
def test_units_hold_every_line_once_and_know_their_numbers(tmp_path_factory, contents, unit_bytes):
    folder = tmp_path_factory.mktemp("scan")
    inputs, units = scanned(folder, contents, unit_bytes)
    source = LineSource([], folder, None)
    documents = [line for unit in units for line in source.raw(unit)]
    expected, number = [], 0
    for i, content in enumerate(contents):
        lines = content.split(b"\n")
        lines = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
        for line_number, line in enumerate(lines, 1):
            if line != b"\n":
                expected.append((number, line, f"{folder / f'{i:03d}.jsonl'}:{line_number}"))
            number += 1
    assert documents == expected
    assert [unit.number for unit in units] == list(range(len(units)))
    assert all(unit.size >= unit_bytes for unit in units[:-1])
    assert [file["sha256"] for file in inputs] == [hashlib.sha256(content).hexdigest() for content in contents]
    assert [file["bytes"] for file in inputs] == [len(content) for content in contents]


def test_a_long_line_stays_whole(tmp_path):
    long_line = b"x" * (3 << 20) + b"\n"
    _, units = scanned(tmp_path, [b"a\n" + long_line + b"b\n"], unit_bytes=10)
    assert [[line for _, line, _ in LineSource([], tmp_path, None).raw(unit)] for unit in units] == [
        [b"a\n", long_line],
        [b"b\n"],
    ]


def test_many_files_share_units_and_units_grow_with_the_input_up_to_a_limit(tmp_path, monkeypatch):
    _, units = scanned(tmp_path, [b"line\n"] * 600, unit_bytes=1)
    assert 200 <= len(units) <= 300 and sum(len(unit.spans) for unit in units) == 600
    monkeypatch.setattr(sources, "_MOST_UNIT_BYTES", 5)
    assert len(scanned(tmp_path, [b"line\n"] * 600, unit_bytes=1)[1]) == 600
