"""Word numbers are the segmenter's own positions, in pieces of any size, with and without a user dictionary."""

from itertools import pairwise

import numpy as np
import pytest
import rjieba
from hypothesis import given, settings
from hypothesis import strategies as st

from data.files import DataError
from data.tokens import word_segmenters
from data.tokens.word_segmenters import make_segmenter

texts = st.lists(
    st.one_of(
        st.sampled_from(
            ["研究生命起源", "这位研究生也参与其中", "。", "！”", "caf", "é", "\r", "\n", " ", "𠀀", "3.14%", "卡拉OK"]
        ),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6),
    ),
    max_size=12,
).map("".join)


def words(segmenter, text):
    numbers = segmenter.word_numbers(text, np.frombuffer(text.encode("utf-32-le"), np.uint32))
    assert len(numbers) == len(text)
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def test_a_word_is_marked_where_the_segmenter_found_it():
    cut = words(make_segmenter("rjieba"), "他在研究生命起源。这位研究生也参与其中。")
    assert cut == ["他", "在", "研究", "生命", "起源", "。", "这位", "研究生", "也", "参与", "其中", "。"]


@settings(deadline=None)
@given(text=texts)
def test_words_are_exactly_those_of_rjieba(text):
    cut = words(make_segmenter("rjieba"), text)
    assert cut == [word for word, _, _ in rjieba.tokenize(text)]


@settings(deadline=None, max_examples=100)
@given(text=st.lists(texts, min_size=2, max_size=8).map("。".join))
def test_words_do_not_depend_on_the_pieces_in_which_a_long_text_is_cut(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_segmenters, "_PIECE", 3)
        assert words(make_segmenter("rjieba"), text) == rjieba.cut(text)


def test_a_user_dictionary_adds_words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("云计算大桥 100 n\n\n北京天安门大\n", encoding="utf-8")
    cut = words(make_segmenter("rjieba", str(path)), "我爱云计算大桥和北京天安门大")
    assert cut == ["我", "爱", "云计算大桥", "和", "北京天安门大"]
    assert words(make_segmenter("rjieba"), "云计算大桥") != ["云计算大桥"]


def test_a_user_dictionary_is_read_as_jieba_reads_it(tmp_path, capsys):
    path = tmp_path / "words.txt"
    lines = (
        "\ufeff天安门大 1000 n",
        "",
        "京大学 nz",
        "云计\t9999\tn",
        "云计  算桥   9999",
        "好 1",
        "好 9",
        "  上海大  ",
        "的士 0",
    )
    path.write_bytes("\r\n".join([*lines, "Hello World词组 2000", "京，海 5", "南 nrT"]).encode())
    cut = words(make_segmenter("rjieba", str(path)), "天安门大的士京大学云计好上海大")
    assert cut == ["天安门大", "的", "士", "京大学", "云计", "好", "上海大"]
    said = capsys.readouterr().err
    assert "4 of the 10 words are cut" in said and all(
        map(said.count, ("云计  算桥", "World词组", "京，海", "南 nrT"))
    )


@pytest.mark.parametrize("line", ["云 99999999999999999999999".encode(), "云".encode("gbk")])
def test_a_bad_dictionary_line_is_named(tmp_path, line):
    path = tmp_path / "words.txt"
    path.write_bytes("好词 3\n".encode() + line)
    with pytest.raises(DataError, match=r"words\.txt:2: must be"):
        make_segmenter("rjieba", str(path))


def test_white_space_separates_words_that_are_given():
    assert words(make_segmenter("whitespace"), "研究 生命\u3000起源\n好") == [
        "研究",
        " ",
        "生命",
        "\u3000",
        "起源",
        "\n",
        "好",
    ]


def test_a_dictionary_without_rjieba_is_refused():
    with pytest.raises(ValueError, match="--user_dict must go with --segmenter rjieba"):
        make_segmenter("whitespace", "words.txt")
