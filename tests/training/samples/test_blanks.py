"""Blanks of fixed sentences: what is filled in, what is right, which lines of a file are none."""

import pytest

from common.errors import ArgumentError
from probe_mlm import Probe
from training.samples.blanks import Blanks, Question, count_right, read_questions

TEXT = "一丁[MASK]丂七[MASK]"


def test_an_answer_tells_what_is_right_and_what_was_wanted(published):
    probe = Probe(str(published("gau_alpha")))
    first, second = (guesses[0].token for guesses in probe.candidates(TEXT))
    filled = probe.fill(TEXT)
    assert probe.answer(Question(TEXT)) == (filled, [])
    assert probe.answer(Question(TEXT, (first, second))) == (filled, [True, True])
    wrong = "一" if second != "一" else "丁"
    line, hits = probe.answer(Question(TEXT, (first, wrong)), top_k=5)
    assert (line, hits) == (f"{filled}    wanted: {first} {wrong}", [True, False])
    assert count_right(hits) == "1 of 2 blanks right at the first guess" and count_right([]) == ""
    questions = [Question(TEXT), Question(TEXT, (first, wrong)), Question("[MASK]")]
    records, numbers = Blanks(probe.model, probe.tokenizer, questions)()
    assert numbers == {"probe_accuracy": 0.5}
    assert [record["text"] for record in records] == [TEXT, TEXT, "[MASK]"]
    assert records[0]["filled"] == probe.fill(TEXT, 3)
    assert Blanks(probe.model, probe.tokenizer, questions[:1])()[1] == {}


def test_lines_longer_than_the_model_takes_are_named(published, tmp_path):
    probe, file = Probe(str(published("gau_alpha"))), tmp_path / "questions.tsv"
    file.write_text(f"[MASK]\n{TEXT}\n", encoding="utf-8")
    assert len(read_questions(str(file), probe.tokenizer, most=8)) == 2
    with pytest.raises(ArgumentError, match="line 2 must have at most 7 tokens; shorten it"):
        read_questions(str(file), probe.tokenizer, most=7)
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ArgumentError, match=r"must hold a text with \[MASK\], got none"):
        read_questions(str(file), probe.tokenizer)
