"""The probe's output, on the command line and imported."""

import re

import pytest
import torch

import models
from common.errors import ArgumentError, UserError
from probe_mlm import Probe, main

TEXT = "一丁[MASK]丂七[MASK]"


@pytest.mark.parametrize("name", ["gau_alpha", "flash_quad", "flash"])
def test_prints_the_best_tokens_in_place_of_each_mask(published, name, capsys):
    folder = str(published(name))
    main([folder, TEXT, "[MASK]丄", "--top_k", "3"])
    first, second = capsys.readouterr().out.splitlines()
    guess = r"\[(.\+[01]\.\d{4}|\[\w+\]\+[01]\.\d{4})(\|\|(.|\[\w+\])\+[01]\.\d{4}){2}\]"
    assert re.fullmatch(f"一丁{guess}丂七{guess}", first), first
    assert re.fullmatch(f"{guess}丄", second), second


def test_candidates_are_the_models_probabilities_best_first(published):
    probe = Probe(str(published("gau_alpha")))
    ids = torch.tensor([[2, 5, 6, 4, 7, 8, 4, 3]])
    assert probe.tokenizer(TEXT)["input_ids"] == ids[0].tolist()
    with torch.no_grad():
        probabilities = probe.model(ids, attention_mask=torch.ones_like(ids)).logits.softmax(-1)
    for position, candidates in zip((3, 6), probe.candidates(TEXT, 5), strict=True):
        best = probabilities[0, position].topk(5)
        assert [c.token for c in candidates] == probe.tokenizer.convert_ids_to_tokens(best.indices.tolist())
        assert [c.probability for c in candidates] == pytest.approx(best.values.tolist())


def test_a_published_flash_is_probed_as_if_padded_to_its_table(published):
    assert Probe(str(published("flash"))).model.config.linear_divisor == "max_position"


def test_top_k_beyond_the_vocabulary_gives_the_vocabulary(published):
    assert len(Probe(str(published("flash"))).candidates("[MASK]", 1000)[0]) == 100


def test_a_file_of_questions_counts_first_guesses(published, tmp_path, capsys):
    folder, file = str(published("gau_alpha")), tmp_path / "questions.tsv"
    first = [guess[0].token for guess in Probe(folder).candidates(TEXT, 1)]
    wrong = next(token for token in ("一", "丁") if token != first[1])
    file.write_text(f"\ufeff{TEXT}\n\n{TEXT}\t{first[0]}\t{wrong}\r\n", encoding="utf-8")
    main([folder, TEXT, "--probe_file", str(file), "--top_k", "1"])
    lines = capsys.readouterr().out.splitlines()
    filled = Probe(folder).fill(TEXT, 1)
    assert lines == [
        filled,
        filled,
        f"{filled}    wanted: {first[0]} {wrong}",
        "1 of 2 blanks right at the first guess",
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\n\xe4\xb8\x80\n", r"line 2 must hold a text with \[MASK\] and one answer for each or none, got 0 blanks"),
        (b"[MASK][MASK]\t\xe4\xb8\x80\n", "line 1 .*got 2 blanks and 1 answers"),
        (b"[MASK]\tword\n", "line 1 must have answers of one token, got 'word'"),
        (b"[MASK]\xff\n", "line 1 must be UTF-8"),
    ],
)
def test_a_file_of_questions_is_refused_by_line(published, tmp_path, content, message):
    (tmp_path / "questions.tsv").write_bytes(content)
    with pytest.raises(ArgumentError, match=message):
        main([str(published("flash")), "--probe_file", str(tmp_path / "questions.tsv")])


def test_text_without_a_mask_and_a_missing_model_are_named(published, tmp_path):
    folder = str(published("flash"))
    with pytest.raises(UserError, match=r"TEXT must contain \[MASK\], got '一丁'"):
        main([folder, "一丁"])
    with pytest.raises(UserError, match="TEXT or --probe_file must be given"):
        main([folder])
    with pytest.raises(UserError, match="--probe_file must name a file"):
        main([folder, "--probe_file", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"MODEL .*nowhere must be a folder or a reachable hub name"):
        main([str(tmp_path / "nowhere"), TEXT])
    with pytest.raises(ArgumentError):
        Probe(str(tmp_path / "nowhere"))


def test_models_export_what_the_readme_imports():
    for name in ("FLASHQuadForMaskedLM", "FLASHForMaskedLM", "GAUAlphaForMaskedLM"):
        assert hasattr(models, name)
