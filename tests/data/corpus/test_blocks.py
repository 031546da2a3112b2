"""Words are what neither segmenter nor tokenizer splits; blocks lose nothing and end with sentences."""

from itertools import pairwise

import numpy as np
import pytest
import rjieba
from hypothesis import given, settings
from hypothesis import strategies as st

from data.corpus.blocks import join_rows, make_blocks
from data.tokens.fast_tokenizer import FastTokenizer
from data.tokens.tokenizer_files import load_backend
from data.tokens.word_segmenters import make_segmenter

PIECES = [
    "研究生命起源",
    "这位研究生也参与其中",
    "。",
    "！”",
    "café",
    "cafe\u0301",
    "\r",
    "\n",
    " ",
    "3.14%",
    "卡拉OK",
]
PIECES += ["T恤", "a. b", "）", "……", "[MASK]", "，", "北京大学", "研\u0301究", "abc123", "?!", "\u2028"]
texts = st.lists(
    st.one_of(
        st.sampled_from(PIECES),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=4),
    ),
    max_size=30,
).map("".join)


@pytest.fixture(scope="module")
def backend(bert_folder):
    return load_backend(str(bert_folder()), None)


def blocks_of(backend, documents, capacity=510, min_chars=1, segmenter="rjieba"):
    return make_blocks(documents, FastTokenizer(backend), make_segmenter(segmenter), capacity, min_chars)[0]


def rows_of(blocks, flat):
    ends = np.cumsum(blocks.lengths).tolist()
    return [flat[a:b].tolist() for a, b in pairwise([0, *ends])]


def words_of(backend, text, **options):
    blocks = blocks_of(backend, [text], **options)
    words = []
    for token, joined in zip(map(backend.id_to_token, blocks.ids.tolist()), blocks.continuation.tolist(), strict=True):
        if joined:
            words[-1] += token.removeprefix("##")
        else:
            words.append(token)
    return words


def marks_by_hand(backend, document):
    """Ids and marks of one document, by the definition, one token at a time."""
    encoding = backend.encode(document, add_special_tokens=False)
    starts = {start for _, start, _ in rjieba.tokenize(document)}
    marks = []
    for i, (first, _) in enumerate(encoding.offsets):
        same = i > 0 and encoding.word_ids[i] == encoding.word_ids[i - 1]
        last = max(encoding.offsets[i - 1][1] - 1, encoding.offsets[i - 1][0]) if i else 0
        marks.append(i > 0 and (same or not any(last < start <= first for start in starts)))
    return encoding, marks


def sentence_ends_by_hand(document):
    """Positions after which a sentence has ended, with its closing quotes and brackets."""
    ends, chain = set(), False
    for i, mark in enumerate(document):
        following = document[i + 1 : i + 2]
        is_end = mark in "。！？!?；;…｡\n\u2028\u2029" or (mark == "." and following in ("", " ", "\n", "\r"))
        closes = mark in "”’」』）)】》〉〗］]｝}"
        chain = is_end or (closes and chain)
        if chain:
            ends.discard(i - 1)
            ends.add(i)
    return ends


def test_a_word_is_the_span_that_neither_splits(backend):
    assert words_of(backend, "研究生命。研究生") == ["研究", "生命", "。", "研究生"]
    assert words_of(backend, "你好café手机") == ["你好", "cafe", "手机"]  # rjieba: caf | é
    assert words_of(backend, "卡拉OK很好") == ["卡拉", "ok", "很", "好"]
    assert words_of(backend, "T恤") == ["t恤"]


def test_white_space_marks_the_words_of_separated_text(backend):
    assert words_of(backend, "研究生 命起 源", segmenter="whitespace") == ["研究生", "命起", "源"]


@settings(max_examples=150, deadline=None)
@given(documents=st.lists(texts, min_size=1, max_size=3))
def test_words_are_those_of_the_definition(backend, documents):
    blocks = blocks_of(backend, documents, capacity=10**6)
    expected = [marks_by_hand(backend, document) for document in documents]
    assert blocks.ids.tolist() == [token for encoding, _ in expected for token in encoding.ids]
    assert blocks.continuation.tolist() == [mark for _, marks in expected for mark in marks]
    assert blocks.words == sum(not mark for _, marks in expected for mark in marks)


@settings(max_examples=300, deadline=None)
@given(documents=st.lists(texts, min_size=1, max_size=3), capacity=st.integers(1, 24))
def test_blocks_lose_nothing_and_end_with_sentences_and_words(backend, documents, capacity):
    blocks = blocks_of(backend, documents, capacity)
    rows = rows_of(blocks, blocks.ids)
    assert all(0 < len(row) <= capacity for row in rows)
    assert (np.diff(blocks.texts) >= 0).all()
    cut_words = 0
    for number, document in enumerate(documents):
        encoding, marks = marks_by_hand(backend, document)
        own = [row for row, owner in zip(rows, blocks.texts, strict=True) if owner == number]
        assert [token for row in own for token in row] == encoding.ids
        ends = sentence_ends_by_hand(document)
        last = [max(a, b - 1) for a, b in encoding.offsets]
        allowed = {
            i
            for i in range(1, len(marks))
            if not marks[i] and any(last[i - 1] <= end < encoding.offsets[i][0] for end in ends)
        }
        cut = 0
        for row in own[:-1]:
            start, cut = cut, cut + len(row)
            reach = range(start + 1, start + capacity + 1)
            sentences = [i for i in reach if i in allowed]
            words = [i for i in reach if not marks[i]]
            assert cut == (sentences or words or [start + capacity])[-1]
            cut_words += bool(marks[cut] and not marks[start])
    assert blocks.cut_words == cut_words
    assert not any(row[0] for row in rows_of(blocks, blocks.continuation))


def test_sentences_are_packed_and_close_with_their_quotes(backend):
    text = "我在：“好。”他在：“我爱北京！”天气3.14很好。好吗"
    blocks = blocks_of(backend, [text], capacity=16)
    rows = ["".join(backend.id_to_token(i).removeprefix("##") for i in row) for row in rows_of(blocks, blocks.ids)]
    assert rows == ["我在：“好。”", "他在：“我爱北京！”", "天气3.14很好。好吗"]


def test_a_word_longer_than_a_block_is_cut_and_counted_once(backend):
    blocks = blocks_of(backend, ["我 " + "a1" * 15 + " 你"], capacity=8)
    assert blocks.cut_words == 1
    assert blocks.lengths.tolist() == [1, 8, 8, 8, 7]


def test_short_documents_are_dropped_whole_and_their_tokens_counted(backend):
    documents = ["我爱北京", " 我 ", "", "你好吗。"]
    blocks = blocks_of(backend, documents, min_chars=2)
    assert blocks.kept.tolist() == [True, False, False, True]
    assert blocks.texts.tolist() == [0, 3]
    assert blocks.dropped_tokens == 1
    assert len(blocks.ids) + blocks.dropped_tokens == sum(
        len(backend.encode(document, add_special_tokens=False).ids) for document in documents
    )


def test_rows_are_framed():
    flat, lengths = np.array([5, 6, 7], np.uint16), np.array([2, 1])
    assert join_rows(flat, lengths, [1], [2]).tolist() == [1, 5, 6, 2, 1, 7, 2]
    assert join_rows(flat[:0], lengths[:0], [1], [2]).tolist() == []
