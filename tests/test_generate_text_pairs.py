"""generate_text.py --references: translations scored as the libraries score them, on any number of processes."""

import json
import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

import generate_text
from common.errors import ArgumentError
from tests.processes import run_together
from training.pretrained import load_tokenizer

TEXTS = ["北京大学和清华", "天安门", "我爱你", "caf 今天气很不错", "长江桥"]
SHAPES = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "initializer_factor": 5.0},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32, "init_std": 1.0},
}


@pytest.fixture
def asked(bert_folder, tmp_path):
    """(kind) -> the command line that translates TEXTS from Chinese by a model of random weights."""

    def make(kind):
        tokenizer = load_tokenizer(str(bert_folder()), "--tokenizer_name")
        ids = {"pad_token_id": 0, "eos_token_id": tokenizer.sep_token_id, "decoder_start_token_id": 3}
        config = AutoConfig.for_model(kind, **SHAPES[kind], **ids, vocab_size=len(tokenizer), forced_eos_token_id=None)
        torch.manual_seed(0)
        AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / kind)
        records = [{"translation": {"de": text[::-1], "zh": text}} for text in TEXTS]
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        (tmp_path / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
        words = [tmp_path / kind, "--input_file", tmp_path / "pairs.jsonl", "--references", "--source_lang", "zh"]
        words += ["--source_prefix", "研", "--temperature", "0", "--max_new_tokens", "6", "--use_cpu"]
        return [str(word) for word in words]

    return make


@pytest.fixture
def scored(monkeypatch):
    """What is scored, where the libraries are not here to do it."""
    calls = []
    monkeypatch.setattr(generate_text, "check_packages", lambda flag: None)
    monkeypatch.setattr(generate_text, "score_texts", lambda *given: calls.append(given) or {"bleu": 1.0})
    return calls


@pytest.mark.parametrize("kind", SHAPES)
def test_texts_are_those_of_generate_in_the_order_of_the_file_by_batches_or_alone(asked, scored, capsys, kind):
    words, records = asked(kind), []
    for size in ("1", "3"):
        capsys.readouterr()
        generate_text.main([*words, "--batch_size", size])
        *lines, scores = map(json.loads, capsys.readouterr().out.splitlines())
        records.append(lines)
        assert scores == {"bleu": 1.0}
    assert records[0] == records[1]
    assert [(line["prompt"], line["reference"]) for line in lines] == [(text, text[::-1]) for text in TEXTS]
    assert scored[0] == ([line["text"] for line in lines], [text[::-1] for text in TEXTS], "de")
    tokenizer, model = load_tokenizer(words[0], "MODEL"), AutoModelForSeq2SeqLM.from_pretrained(words[0])
    for line in lines:
        inputs = tokenizer("研" + line["prompt"], return_tensors="pt")["input_ids"]
        (ids,) = model.generate(inputs, do_sample=False, max_new_tokens=6, max_length=None)
        wanted = tokenizer.decode(ids, skip_special_tokens=True)
        assert line["text"].replace(" ", "") == wanted.replace(" ", "") != ""


def test_longer_sources_are_cut_if_asked(asked, scored, capsys):
    words = asked("bart")
    long = json.dumps({"translation": {"de": "a", "zh": "北" * 40}})
    with open(words[2], "a", encoding="utf-8") as file:
        file.write(long + "\n")
    with pytest.raises(ArgumentError, match="the prompt must have no more tokens than MODEL's 32 positions, got 43"):
        generate_text.main(words)
    generate_text.main([*words, "--max_source_length", "32"])
    assert len(scored[0][0]) == len(TEXTS) + 1


def test_any_number_of_processes_gives_the_same_texts_and_the_libraries_scores(asked, tmp_path):
    sacrebleu, rouge = pytest.importorskip("sacrebleu"), pytest.importorskip("rouge_score.rouge_scorer")
    script, answers = generate_text.__file__, []
    sampled = ["--temperature", "0.7", "--batch_size", "2"]
    for count in (1, 3):
        (logs := tmp_path / f"logs{count}").mkdir()
        file = tmp_path / f"out{count}.jsonl"
        words = [*asked("t5"), *sampled, "--output_file", file]
        printed = run_together(script, words, logs, processes=count)
        answers.append((file.read_bytes(), printed))
    assert answers[0] == answers[1]
    lines = [json.loads(line) for line in answers[0][0].splitlines()]
    texts, references = ([line[name] for line in lines] for name in ("text", "reference"))
    scores = json.loads(answers[0][1])
    assert scores["bleu"] == sacrebleu.corpus_bleu(texts, [references]).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(texts, [references]).score
    assert set(scores) == {"bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum"} and rouge


@pytest.mark.parametrize(
    "words, line",
    [
        ("--references", "--references needs --input_file"),
        ("--target_lang ro --input_file a", "--source_column and --target_column need --references"),
        ("--references --input_file a --max_source_length 0", "--max_source_length must be at least 1"),
    ],
)
def test_what_does_not_go_together_is_told(words, line):
    with pytest.raises(ArgumentError, match=re.escape(line)):
        generate_text.main(["model", *words.split()])


def test_packages_that_are_missing_are_named_before_the_model_is_read(monkeypatch):
    monkeypatch.setattr("data.scoring.text_scores.find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match="--references needs the packages sacrebleu and rouge-score, not here"):
        generate_text.main(["model", "--references", "--input_file", "pairs.jsonl"])
