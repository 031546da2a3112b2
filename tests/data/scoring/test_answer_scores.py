"""The rules of answers, on the vectors of the official CMRC script and on hand-made ones."""

import pytest

from data.scoring.answer_scores import (
    best_over_answers,
    character_f1,
    cmrc_exact,
    cmrc_f1,
    cmrc_tokens,
    squad_exact,
    squad_f1,
)


@pytest.mark.parametrize(
    ("golds", "prediction", "f1", "exact"),
    [
        (["北京大学"], "北大", 1 / 3, 0),
        (["1995年"], "1995年1月", 2 / 3, 0),
        (["《三国志》"], "三国志", 1, 1),
        (["光荣公司", "光荣"], "日本光荣公司", 0.8, 0),
        (["New York 市"], "new york市", 1, 0),
        (["甲，乙"], "甲乙", 1, 1),
        (["他说“好”"], '他说"好"', 0.5, 0),
        (["……好"], "好", 2 / 3, 0),
    ],
)
def test_cmrc_gives_the_scores_of_the_official_rules(golds, prediction, f1, exact):
    assert best_over_answers(cmrc_f1, [prediction], [golds]) == pytest.approx([f1])
    assert best_over_answers(cmrc_exact, [prediction], [golds]) == [exact]


def test_cmrc_f1_counts_the_longest_run_not_a_subsequence():
    assert cmrc_f1("甲丙乙", "甲乙") == pytest.approx(2 * 1 / 5)


def test_cmrc_removes_only_the_marks_of_its_list():
    assert cmrc_tokens("《甲》-A.b (c)、乙") == ["甲", "a.b", "(", "c", ")", "乙"]


def test_cmrc_words_are_those_of_the_english_tokenizer():
    assert " ".join(cmrc_tokens('约1,234.5元, or "3.5%"?End.')) == '约 1,234.5 元 , or " 3.5 % " ? end .'


def test_empty_and_missing_answers_score_0():
    assert best_over_answers(cmrc_f1, ["", None, "甲"], [["甲"], ["甲"], ["甲"]]) == [0, 0, 1]
    assert best_over_answers(cmrc_exact, ["", None, "甲"], [["甲"], ["甲"], ["甲"]]) == [0, 0, 1]


def test_character_f1_is_a_bag_without_spaces_and_punctuation():
    assert character_f1("大北 京，", "北京大學") == pytest.approx(6 / 7)


def test_squad_ignores_case_articles_and_punctuation():
    assert squad_exact("The New-York!", "newyork") == 1
    assert squad_f1("the old city", "An old town") == pytest.approx(0.5)
