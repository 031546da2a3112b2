"""generate_text.py: prompts typed, given and from files; the original's settings; any model; two processes; errors."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

import generate_text
from common.errors import ArgumentError
from data.text.prompts import fill_template
from models import TransformerXLConfig, TransformerXLForCausalLM, text_generator
from models.static_decoding import StaticStep
from tests.processes import search_path
from training.pretrained import load_tokenizer

ROOT = Path(__file__).parents[1]
PROMPT = "今天天气很"


@pytest.fixture(scope="module")
def tokenizer(bert_folder):
    return load_tokenizer(str(bert_folder()), "--tokenizer_name")


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A small Transformer-XL of transformers' layout, whose vocabulary is padded by three entries."""
    torch.manual_seed(0)
    config = TransformerXLConfig(
        vocab_size=len(tokenizer) + 3,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_window=16,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    path = tmp_path_factory.mktemp("txl")
    TransformerXLForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def run(capsys, *words):
    """What the script prints."""
    capsys.readouterr()
    generate_text.main([*map(str, words), "--use_cpu"])
    return capsys.readouterr().out


def texts(tmp_path, *words):
    """Texts of --output_file."""
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
    generate_text.main([*map(str, words), "--use_cpu", "--output_file", str(file)])
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_prompt_is_continued_as_generate_does(folder, tokenizer, capsys):
    ids = torch.tensor([[tokenizer.cls_token_id, *tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]])
    model = TransformerXLForCausalLM.from_pretrained(folder).eval()
    suppressed = list(range(len(tokenizer), model.config.vocab_size))
    continuation = model.generate(ids, max_length=24, do_sample=False, suppress_tokens=suppressed)[0, ids.shape[1] :]
    printed = run(capsys, folder, "--prompt", PROMPT, "--temperature", 0, "--max_length", 24)
    assert printed.startswith(PROMPT)
    wanted = tokenizer.decode(continuation, skip_special_tokens=True)
    assert len(wanted) > 10 and "".join(printed.removeprefix(PROMPT).split()) == "".join(wanted.split())


def test_sampling_depends_on_the_seed_and_the_settings(folder, tmp_path):
    def sample(*words):
        return texts(tmp_path, folder, "--prompt", PROMPT, "--max_length", 30, *words)

    one = sample("--seed", 1)
    assert one == sample("--seed", 1) and one != sample("--seed", 2)
    greedy = sample("--temperature", 0)
    assert greedy == sample("--top_k", 1) == sample("--top_p", 1e-6) == sample("--temperature", 1e-4)
    assert greedy != sample("--temperature", 0, "--repetition_penalty", 3.0)
    assert sample("--temperature", 0, "--num_beams", 3) == sample("--temperature", 0, "--num_beams", 3)
    assert sample("--temperature", 0, "--attention_window", 4) != greedy


def test_prompts_of_a_file_give_the_same_alone_and_in_batches(folder, tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text(f"{PROMPT}\n\n北京\r\n{'他在研究生命' * 9}\n", encoding="utf-8")
    ask = (folder, "--input_file", file, "--temperature", 0, "--max_new_tokens", 12)
    alone, together = (texts(tmp_path, *ask, "--batch_size", size) for size in (1, 3))
    assert len(alone) == 3 and alone == together
    printed = run(capsys, *ask)
    assert all(text.strip() in printed for text in alone)


def test_a_step_of_one_shape_gives_the_same_texts(folder, tmp_path, monkeypatch):
    """As a GPU decodes, without its graph: one step for each number of rows, none for beams."""
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n北京\n{'他在研究生命' * 9}\n", encoding="utf-8")
    ask = (folder, "--input_file", tmp_path / "prompts.txt", "--max_new_tokens", 20, "--batch_size", 2)
    choices = (("--repetition_penalty", 1.5, "--top_k", 5), ("--num_beams", 2))
    wanted = [texts(tmp_path, *ask, *choice) for choice in choices]
    rows = []
    monkeypatch.setattr(text_generator, "can_capture", lambda model: True)
    monkeypatch.setattr(text_generator, "captured_step", lambda *about: rows.append(about[1]) or StaticStep(*about))
    assert [texts(tmp_path, *ask, *choice) for choice in choices] == wanted and rows == [2, 1]
    assert texts(tmp_path, *ask, *choices[0], "--cuda_graph", "false") == wanted[0] and len(rows) == 2
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(options) or function)
    assert texts(tmp_path, *ask, *choices[0], "--torch_compile") == wanted[0] and len(compiled) == 2
    monkeypatch.setattr(text_generator, "captured_step", lambda *about: None)
    assert texts(tmp_path, *ask, *choices[0]) == wanted[0]


def test_pieces_come_while_a_text_is_made_and_end_when_nobody_wants_more(folder):
    """As the page of --serve takes them (tests/common/test_serving.py)."""
    args = generate_text.parse([str(folder), "--use_cpu", "--temperature", "0", "--max_new_tokens", "40"])
    generator = generate_text.make_generator(args, text_generator.SharedInterrupt())
    pieces = list(generator.pieces(PROMPT))
    assert len(pieces) > 10 and "".join(pieces) == generator.generate([PROMPT])[0]
    args.max_new_tokens = 10**6
    threads, some = threading.enumerate(), generator.pieces(PROMPT)
    assert next(some) == pieces[0]
    some.close()
    assert threading.enumerate() == threads
    args.max_new_tokens, args.num_beams = 40, 2
    assert list(generator.pieces(PROMPT)) == generator.generate([PROMPT])
    args.num_beams = 1
    with pytest.raises(ArgumentError, match="the prompt must have at least one token"):
        list(generator.pieces(""))


def test_templates_are_those_of_the_pretraining_corpora(folder, tmp_path):
    assert fill_template("zhidao", "怎么做红烧肉？", "急") == "问题：怎么做红烧肉？问题描述：急回答："
    assert fill_template("xinhua", "新年") == "标题：新年 内容："
    long = fill_template("zhihu", "好吗", "长" * 101, "我")
    assert long == f"问题：好吗问题描述：{'长' * 100}......回答用户：我 回答："
    (tmp_path / "titles.jsonl").write_text('{"title": "好吗", "desc": "很"}\n', encoding="utf-8")
    file = tmp_path / "out.jsonl"
    ask = [str(folder), "--template", "zhidao", "--input_file", str(tmp_path / "titles.jsonl"), "--use_cpu"]
    generate_text.main([*ask, "--max_new_tokens", "2", "--output_file", str(file)])
    assert json.loads(file.read_text(encoding="utf-8"))["prompt"] == "问题：好吗问题描述：很回答："


def test_the_loop_asks_again_after_nothing_and_ends_with_stop(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"\n   \n{PROMPT}\n{'长' * 40}\nstop\n{PROMPT}\n"))
    printed = run(capsys, folder, "--max_length", 20)
    assert printed.count(">>>") == 5 and printed.count(PROMPT) == 1
    for end in (io.StringIO(""), io.StringIO(f"{PROMPT}\n")):
        monkeypatch.setattr(sys, "stdin", end)
        run(capsys, folder, "--max_length", 10)


def test_ctrl_c_ends_without_a_traceback(folder, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    run(capsys, folder)


def test_stock_causal_and_two_part_models_work_too(tokenizer, tmp_path):
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    ends = {"eos_token_id": tokenizer.sep_token_id, "bos_token_id": tokenizer.cls_token_id}
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), initializer_range=0.5, **shape, **ends)).eval()
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    ends = {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0, "decoder_start_token_id": 0}
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **shape, **ends)).eval()
    for name, model in (("gpt2", gpt2), ("t5", t5)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n北京\n", encoding="utf-8")
    for name in ("gpt2", "t5"):
        ask = (tmp_path / name, "--input_file", tmp_path / "prompts.txt", "--temperature", 0, "--max_length", 16)
        for beams in (1, 3):
            alone = texts(tmp_path, *ask, "--num_beams", beams)
            assert alone == texts(tmp_path, *ask, "--num_beams", beams, "--batch_size", 2)
    source = tokenizer("北京大学" + PROMPT, return_tensors="pt")
    wanted = t5.generate(source["input_ids"], max_new_tokens=16, do_sample=False)[0]
    answers = texts(
        tmp_path,
        tmp_path / "t5",
        "--source_prefix",
        "北京大学",
        "--prompt",
        PROMPT,
        "--temperature",
        0,
        "--max_length",
        16,
    )
    assert answers[0].replace(" ", "") == tokenizer.decode(wanted, skip_special_tokens=True).replace(" ", "")
    with pytest.raises(ValueError, match="fewer tokens than MODEL's 32 positions"):
        texts(tmp_path, tmp_path / "gpt2", "--prompt", "长" * 40)


TWO_PARTS = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
TWO_PARTS |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 1}
TWO_PARTS |= {"forced_eos_token_id": None}
LED = {"max_encoder_position_embeddings": 16, "max_decoder_position_embeddings": 16, "attention_window": 4}
ONE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
POSITIONS = {
    "bart": TWO_PARTS | {"max_position_embeddings": 16},
    "pegasus": TWO_PARTS | {"max_position_embeddings": 16},
    "led": TWO_PARTS | LED,
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16},
    "opt": ONE | {"ffn_dim": 16, "word_embed_proj_dim": 16},
    "roberta": ONE | {"intermediate_size": 16, "is_decoder": True},
}


@pytest.mark.parametrize("kind", POSITIONS)
def test_texts_end_with_the_positions_of_the_model(tokenizer, tmp_path, caplog, kind):
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": len(tokenizer) - 1, "bos_token_id": 1}
    config = AutoConfig.for_model(kind, **POSITIONS[kind], **ids, vocab_size=len(tokenizer))
    torch.manual_seed(0)
    kinds = (AutoModelForSeq2SeqLM, AutoModelForCausalLM)
    kinds[not config.is_encoder_decoder].from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    caplog.set_level("INFO")
    (text,) = texts(tmp_path, tmp_path / "model", "--prompt", PROMPT, "--temperature", 0, "--max_new_tokens", 60)
    assert "MODEL's positions end after" in caplog.text
    assert texts(tmp_path, tmp_path / "model", "--prompt", PROMPT, "--temperature", 0) == [text]
    with pytest.raises(ValueError, match=r"the prompt must have .* MODEL's 1. positions, got"):
        generate_text.main([str(tmp_path / "model"), "--prompt", PROMPT * 5, "--use_cpu"])


# Checkpoints of THUDM's layout


@contextmanager
def recipe(script, *words, **environment):
    """A recipe while it runs, in a session of its own as in a terminal."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    variables |= {"PATH": search_path()}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = ["bash", str(ROOT / "scripts" / script), *map(str, words)]
    with subprocess.Popen(command, env=variables | environment, start_new_session=True, **streams) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # where all have ended
                os.killpg(process.pid, signal.SIGKILL)


def typed(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()


def until(process, words):
    """What it prints before these words."""
    printed = ""
    while not printed.endswith(words):
        printed += process.stdout.read(1) or pytest.fail(process.stderr.read())
    return printed.removesuffix(words)


def finished(process):
    """After a good end, without a word of Python's; its input stays open until then."""
    assert process.wait(timeout=300) == 0, process.stderr.read()
    assert "Traceback" not in process.stderr.read() and generate_text.ASK not in process.stdout.read()


def test_the_commands_run_on_a_published_checkpoint_on_one_process_and_two(published_txl, capsys):
    """Two are asked as in a terminal, whose Ctrl-C goes to the recipe and torchrun."""
    import change_mp

    prompt = "问题：怎么看待大模型？"
    ask = (published_txl, "--max_length", 40, "--seed", 5, "--dtype", "float32")
    spelled_out = ("--prompt", prompt, "--temperature", 0.9, "--attention_window", 768)
    alone = run(capsys, *ask, *spelled_out)
    assert len(alone.strip()) > len(prompt)
    with recipe("generate_text.sh", *ask, "--use_cpu", MP_SIZE="2") as process:
        until(process, generate_text.ASK)
        typed(process, prompt)
        assert until(process, generate_text.ASK) == alone
        time.sleep(0.5)  # between its prompt and its read, input() does not see a signal; no hand is as quick
        os.killpg(process.pid, signal.SIGINT)
        finished(process)
    change_mp.main([str(published_txl), "2"])
    assert run(capsys, published_txl.with_name("txl_MP2"), *ask[1:], *spelled_out) == alone


@pytest.mark.slow
def test_ctrl_c_ends_two_processes_in_the_middle_of_a_text(published_txl):
    with recipe("generate_text.sh", published_txl, "--use_cpu", "--max_length", 100_000, MP_SIZE="2") as process:
        until(process, generate_text.ASK)
        typed(process, "问题")
        until(process, "问题")
        os.killpg(process.pid, signal.SIGINT)
        finished(process)


def test_a_published_checkpoint_keeps_newlines_if_asked(published_txl, capsys):
    out = run(capsys, published_txl, "--newline_token", "--prompt", "问题", "--max_length", 12)
    assert out.startswith("问题")


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ("--template", "poem", "--prompt", "好"),
            "--template must be one of plain, zhihu, zhidao, xinhua, got 'poem'",
        ),
        (("--prompt", "  　"), "the prompt must hold more than spaces"),
        (("--input_file", "missing.txt"), "--input_file must name a file, got 'missing.txt'"),
        (("--temperature", "-1"), "--temperature"),
        (("--top_p", "2"), "--top_p"),
        (("--prompt", "好" * 30, "--max_length", "20"), "--max_length must be more than the 31 tokens of the prompt"),
        (("--prompt", "好", "--newline_token"), "--newline_token"),
        (("--output_file", "x"), "--output_file needs"),
        (("--prompt", "好", "--tokenizer_name", "missing/one"), "--tokenizer_name missing/one"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_errors_are_one_line_that_names_the_option(folder, monkeypatch, words, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError) as error:
        generate_text.main([str(folder), *words])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_bad_lines_of_prompts_are_named(folder, tmp_path):
    for name, content, message in (
        ("a.jsonl", '{"prompt": "好"}\n{"text": "好"}\n', "a.jsonl:2"),
        ("b.jsonl", '{"prompt": "  "}\n', "b.jsonl:1: the prompt must hold more than spaces"),
        ("c.txt", "\n\n", "--input_file must hold at least one prompt"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            generate_text.main([str(folder), "--input_file", str(tmp_path / name)])


def test_a_tokenizer_larger_than_the_model_is_refused(folder, small_cog_file):
    with pytest.raises(ValueError, match="--tokenizer_name must have at most"):
        generate_text.main([str(folder), "--prompt", "好", "--tokenizer_name", str(small_cog_file)])
