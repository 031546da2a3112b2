"""Overlap finds exactly the documents that equal a text or share a run of 30 letters and digits with one."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.files import DataError
from data.text import overlap as overlap_module
from data.text.overlap import Overlap


def clean(text):
    return "".join(filter(str.isalnum, text))


def runs(text):
    return {text[i : i + 30] for i in range(len(text) - 29)}


def repeats(document, line):
    """The definition, by brute force; a line is a text and so is each of its fields."""
    letters = clean(document)
    texts = [clean(text) for text in {line, *line.split("\t")}]
    return bool(letters) and any(letters == text or runs(letters) & runs(text) for text in texts)


def build(folder, *contents):
    files = [folder / f"{i}.tsv" for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content.encode())
    return Overlap.build(files)


# Few letters and long texts, so that runs of 30 are shared by chance; the separators are all that is removed.
letters = st.lists(st.sampled_from(["天地玄黄" * 4, "a1\U00020000", "宇宙", "，", " ", "é", "~\ufe0f"]), max_size=12)
texts = letters.map("".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=6), st.lists(texts, min_size=1, max_size=4), st.integers(0, 3))
def test_equals_brute_force(tmp_path_factory, documents, lines, tabs):
    lines = ["\t".join(lines[: tabs + 1]), *lines[tabs + 1 :]]
    index = build(tmp_path_factory.mktemp("o"), "\n".join(lines) + "\n")
    repeating, held = index.find(documents)
    assert set(repeating.tolist()) == {i for i, d in enumerate(documents) if any(repeats(d, line) for line in lines)}
    expected = sum(any(repeats(document, line) for document in documents) for line in lines)
    assert index.lines_found(np.unique(held)).tolist() == [expected]
    assert index.line_counts.tolist() == [len(lines)]


def test_thirty_characters_are_a_run_and_twenty_nine_are_not(tmp_path):
    text = "".join(chr(0x4E00 + 7 * i) for i in range(100))
    index = build(tmp_path, text + "\n")
    for start in range(71):
        for length, expected in ((30, [0]), (29, [])):
            around = "甲" * start + "，".join(text[start : start + length]) + "乙" * 40
            assert index.find([around])[0].tolist()[:1] == expected
    assert index.find([text[:29]])[0].size == 0


def test_a_run_does_not_cross_from_one_document_or_text_to_the_next(tmp_path):
    text = "".join(chr(0x4E00 + 7 * i) for i in range(60))
    index = build(tmp_path, f"{text[:20]}\n{text[20:40]}\n{text[40:]}\n")
    assert index.find([text])[0].size == 0
    index = build(tmp_path, f"{text}\n")
    assert index.find([text[:20], text[20:40], text[40:]])[0].size == 0


def test_counts_are_kept_per_file(tmp_path):
    one, two = "春眠不觉晓处处闻啼鸟" * 3, "夜来风雨声花落知多少" * 3
    index = build(tmp_path, f"label\ttext\n1\t{one}\n0\t{two}\n", f"{one}\n{one}。\n", "")
    repeating, held = index.find([f"x{one}y", "no", one])
    assert set(repeating.tolist()) == {0, 2}
    assert index.lines_found(np.unique(held)).tolist() == [1, 2, 0]
    assert index.line_counts.tolist() == [3, 2, 1]


@pytest.mark.parametrize("indent", [None, 2])
def test_strings_of_json_are_texts(tmp_path, indent):
    first, second = "春眠不觉晓，处处闻啼鸟", "夜来风雨声，花落知多少"
    content = json.dumps({"a": [{"b": first}], "c": {"d": second, "e": 1}}, indent=indent)
    index = build(tmp_path, content, f"{json.dumps({'s': first})}\n{json.dumps({'s': second})}\n[not json\n")
    assert set(index.find([first + "。", second, "春眠不觉晓，"])[0].tolist()) == {0, 1}


def test_index_is_the_same_when_mapped_from_disk(tmp_path):
    index = build(tmp_path, "春眠不觉晓处处闻啼鸟" * 4 + "\n")
    index.save(tmp_path / "index")
    loaded = Overlap.load(tmp_path / "index")
    documents = ["春眠不觉晓处处闻啼鸟" * 3, "春眠"]
    for ours, theirs in zip(index.find(documents), loaded.find(documents), strict=True):
        assert np.array_equal(ours, theirs)


def test_windows_hashed_in_chunks_give_the_same_hashes(tmp_path, monkeypatch):
    content = "".join(chr(0x4E00 + i) for i in range(500))
    whole = build(tmp_path, content)
    monkeypatch.setattr(overlap_module, "_CHUNK", 7)
    assert np.array_equal(build(tmp_path, content).runs, whole.runs)


def test_json_too_deep_to_read_is_text(tmp_path):
    (tmp_path / "x").write_text("[" * 100_000 + "\n" + '{"a": ' * 950 + '"' + "又一行" * 10 + '"' + "}" * 950)
    assert Overlap.build([tmp_path / "x"]).line_counts.tolist() == [2]


def test_invalid_utf8_is_named(tmp_path):
    (tmp_path / "x.tsv").write_bytes(b"a\nb\xff\n")
    with pytest.raises(DataError, match=r"x\.tsv:2: "):
        Overlap.build([tmp_path / "x.tsv"])


@pytest.mark.needs_shared
def test_texts_of_a_real_evaluation_set_are_found(shared):
    file = shared / "data/chnsenticorp/dev.tsv"
    index = Overlap.build([file])
    lines = file.read_text(encoding="utf-8").split("\n")[1:-1]
    texts = [line.split("\t")[1].replace("，", " ") for line in lines]
    assert np.unique(index.find(texts)[0]).tolist() == list(range(1200))
