"""BLEU, chrF and ROUGE: the libraries' own on Latin text, characters as tokens of Chinese, missing packages."""

import pytest

from common.errors import ArgumentError
from data.scoring import text_scores
from data.scoring.text_scores import check_packages, score_texts

REFERENCES = ["The cats sat on the mat, purring.", "Ședinţa a fost deschisă la ora 9.\nApoi s-a închis."]
TEXTS = ["A cat sat on mats and purred.", "Ședinţa a fost închisă la ora 10."]


def test_scores_are_those_of_the_libraries():
    sacrebleu, rouge = pytest.importorskip("sacrebleu"), pytest.importorskip("rouge_score.rouge_scorer")
    scores = score_texts(TEXTS, REFERENCES, "ro")
    assert scores["bleu"] == sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score > 0
    assert scores["chrf"] == sacrebleu.corpus_chrf(TEXTS, [REFERENCES]).score > 0
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = rouge.RougeScorer(names, use_stemmer=True)
    each = [scorer.score(reference, text) for reference, text in zip(REFERENCES, TEXTS, strict=True)]
    means = {name: 100 * sum(one[name].fmeasure for one in each) / 2 for name in names}
    assert {name: scores[name] for name in names} == means and means["rouge1"] > 0
    assert list(scores) == ["bleu", "chrf", *names]


@pytest.mark.parametrize("language", ["zh", None])
def test_characters_of_chinese_are_tokens(language):
    sacrebleu = pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    references, texts = ["今天天气很好GPU。", "我们去公园玩。"], ["今天天气好GPU。", "我去公园玩吧。"]
    scores = score_texts(texts, references, language)
    assert scores["bleu"] == sacrebleu.corpus_bleu(texts, [references], tokenize="zh").score > 0
    one = score_texts(["今天天气好GPU。"], ["今天天气很好GPU。"], language)
    assert one["rouge1"] == pytest.approx(100 * 2 * 6 / (6 + 7))


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(text_scores, "find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match="packages sacrebleu and rouge-score, not here; pip install sacrebleu rou"):
        check_packages("--references")
