"""run_clm.py: streams with memory, packed rows, perplexity; sums and resumption are exact; errors name the flag."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import run_clm
from common.errors import ArgumentError
from data.corpus import store
from tests import chinese_corpora
from tests.processes import run_together
from tests.runs import as_before_checksums, assert_close_runs, assert_same_run, curve, killed_in, weights
from training.arguments import RunArguments
from training.pretrained import load_tokenizer

ROOT = Path(__file__).parents[1]
EAGER = {"torch_compile_backend": "eager"}
XL = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,mem_len=8,segment_length=8,attention_window=12"
NO_DROPOUT = XL + ",hidden_dropout=0,attention_dropout=0"
GPT2 = {"model_type": "gpt2", "config_overrides": "n_embd=32,n_layer=2,n_head=2,n_positions=32"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, bert_folder):
    """(tokenizer folder, file of prompts and texts)"""
    rng = np.random.default_rng(0)
    words = ["北京大学", "天安门我爱你", "生命起源", "今天气很不错", "手机一二三人"]
    lines = []
    for _ in range(60):
        chosen = rng.integers(0, len(words), rng.integers(1, 8))
        text = "".join(words[i] + words[(i + 1) % len(words)] for i in chosen)
        lines.append({"prompt": "他在研究" * int(rng.integers(0, 3)), "text": text})
    file = tmp_path_factory.mktemp("data") / "data.json"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return bert_folder(), file


@pytest.fixture
def flags(prepared, tmp_path):
    """(flag=value, ...) -> the arguments of a tiny run into tmp_path/run; True is a bare flag, None leaves one out."""

    def make(**changes):
        tokenizer, file = prepared
        values = {"do_train": True, "tokenizer_name": tokenizer, "train_file": file, "output_dir": tmp_path / "run"}
        values |= {"config_overrides": XL, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": 1234}
        values |= {"max_steps": 12, "logging_steps": 5, "save_steps": 4, "report_to": "none"} | changes
        pairs = [(name, value) for name, value in values.items() if value is not None]
        return [
            word for name, value in pairs for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
        ]

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mem_len": 0, "document_mask": False},
        GPT2 | {"max_seq_length": 16},
        {"schedule": "cosine_to_floor", "schedule_floor": 0.05, "warmup_steps": 2, "gradient_checkpointing": True},
    ],
    ids=["streams", "rows", "gpt2", "finetuning"],
)
def test_every_kind_of_run_learns(flags, tmp_path, changes):
    metrics = run_clm.main(flags(validation_split=0.2, max_steps=30, **changes))
    losses = [record["loss"] for record in curve(tmp_path / "run") if "loss" in record]
    assert losses[-1] < losses[0] - 0.3 and metrics["eval_perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert (config["eos_token_id"], config["pad_token_id"]) == (tokenizer.sep_token_id, tokenizer.pad_token_id)


# Exact sums


def gradient_run(flags, folder, micro, accumulation, **changes):
    """Flags of a run whose weights are its gradients: plain SGD with a rate of 1."""
    settings = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
    settings |= {"config_overrides": NO_DROPOUT, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e9}
    settings |= {"lr_scheduler_type": "constant", "max_steps": 4, "logging_steps": 1, "validation_split": 0.2}
    return flags(output_dir=folder, **(settings | changes))


@pytest.mark.parametrize("changes", [{}, {"mem_len": 0}], ids=["streams", "rows"])
def test_accumulation_changes_neither_loss_nor_gradient(flags, tmp_path, changes):
    run_clm.main(gradient_run(flags, tmp_path / "8x1", 8, 1, **changes))
    run_clm.main(gradient_run(flags, tmp_path / "2x4", 2, 4, **changes))
    assert_close_runs(tmp_path / "8x1", tmp_path / "2x4")


def test_processes_change_neither_loss_nor_gradient_nor_perplexity(flags, tmp_path):
    run_clm.main(gradient_run(flags, tmp_path / "8x1", 8, 1))
    words = [*gradient_run(flags, tmp_path / "2 processes", 2, 2), "--use_cpu"]
    run_together(ROOT / "run_clm.py", words, tmp_path)
    assert json.loads((tmp_path / "2 processes" / "run.json").read_text())["processes"] == 2
    assert_close_runs(tmp_path / "8x1", tmp_path / "2 processes")


# Resumption


def test_documents_of_a_large_corpus_come_by_shard_but_in_a_run_begun_before_that(
    flags, prepared, tmp_path, monkeypatch, small_units
):
    monkeypatch.setattr(store, "SMALL", 0)
    source = chinese_corpora.write_jsonl(tmp_path / "in.jsonl", chinese_corpora.documents(60))
    chinese_corpora.prepare(prepared[0], source, tmp_path / "corpus", "--max_seq_length", "24")
    changes = {"train_file": None, "train_dir": tmp_path / "corpus", "validation_split": 0.2, "save_steps": 3}
    with monkeypatch.context() as patch:
        patch.setattr(RunArguments, "rows_by_chunk", False)
        run_clm.main(flags(output_dir=tmp_path / "old", **changes))
        with killed_in(5):
            run_clm.main(flags(**changes))
    run_clm.main(flags(**changes))
    assert_same_run(tmp_path / "old", tmp_path / "run")
    new = flags(output_dir=tmp_path / "new", dataloader_num_workers=2, **changes)
    with killed_in(5):
        run_clm.main(new)
    run_clm.main(new)
    run_clm.main(flags(output_dir=tmp_path / "whole", **changes))
    assert_same_run(tmp_path / "whole", tmp_path / "new")
    assert curve(tmp_path / "new") != curve(tmp_path / "old")


@pytest.mark.parametrize("changes", [{"gradient_accumulation_steps": 2}, {"mem_len": 0}], ids=str)
def test_a_killed_run_ends_like_an_undisturbed_one(flags, tmp_path, changes):
    changes = {"validation_split": 0.2, "eval_strategy": "steps", "eval_steps": 3, **changes}
    run_clm.main(flags(output_dir=tmp_path / "whole", **changes))
    with killed_in(10 * changes.get("gradient_accumulation_steps", 1)):
        run_clm.main(flags(**changes))
    run_clm.main(flags(**changes))
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_checkpoint_without_its_memory_is_refused(flags, tmp_path):
    run_clm.main(flags(max_steps=4))
    checkpoint = tmp_path / "run" / "checkpoint-4"
    (checkpoint / "memory_0.safetensors").unlink()
    with pytest.raises(ArgumentError, match=r"--resume_from_checkpoint .* lacks memory_0.safetensors"):
        run_clm.main(flags(max_steps=8, resume_from_checkpoint=checkpoint))
    as_before_checksums(checkpoint)
    with pytest.raises(ArgumentError, match="--resume_from_checkpoint must hold the memory"):
        run_clm.main(flags(max_steps=8, resume_from_checkpoint=checkpoint))


# Published checkpoints


def test_finetuning_a_published_checkpoint_starts_its_schedule_anew(flags, tmp_path, published_txl, prepared):
    """The original went on with the pretraining's schedule where the checkpoint held one."""
    folder = shutil.copytree(published_txl, tmp_path / "txl")
    content = torch.load(folder / "mp_rank_00_model_states.pt", weights_only=True)
    torch.save(content | {"client_lr_scheduler": {"num_iters": 150000}}, folder / "mp_rank_00_model_states.pt")
    lines = [{"prompt": "问题：怎么看待大模型？", "text": "最近很火。" * count} for count in range(1, 13)]
    (tmp_path / "data.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    changes = {"tokenizer_name": None, "model_name_or_path": folder, "config_overrides": None, "max_steps": 8}
    changes |= {"train_file": tmp_path / "data.json", "max_seq_length": 8, "mem_len": 4, "logging_steps": 1}
    changes |= {"schedule": "cosine_to_floor", "schedule_floor": 0.05, "warmup_steps": 4, "learning_rate": 1e-3}
    run_clm.main(flags(**changes))
    records = [record for record in curve(tmp_path / "run") if "loss" in record]
    decay = [0.05 + 0.95 * (1 + math.cos(math.pi * step / 8)) / 2 for step in (1, 2, 3)]
    assert [record["learning_rate"] for record in records] == pytest.approx(
        [1e-3 * share for share in (0, 0.25, 0.5, 0.75, 1, *decay)]
    )
    assert records[-1]["loss"] < records[0]["loss"]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "run")) == 301


# Perplexity


def likelihood(model, tokens, prompt, end):
    """Sum of the losses of all targets, each in a forward of its own, and their number."""
    targets = [*tokens[1:], end]
    total = count = 0
    with torch.no_grad():
        for place, target in enumerate(targets):
            if place + 1 >= prompt:
                logits = model(torch.tensor([tokens[: place + 1]])).logits[0, -1]
                total -= logits.log_softmax(-1)[target].item()
                count += 1
    return total, count


def test_perplexity_is_that_of_one_token_at_a_time_whatever_the_batch(flags, tmp_path, prepared, capsys):
    """With a memory of the window's length, chunks are exact (the original scores token by token)."""
    run_clm.main(flags(max_steps=2))
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tmp_path / "run"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "run"),
    )
    model.eval()
    lines = [json.loads(line) for line in prepared[1].read_text().splitlines()[:6]]
    some = tmp_path / "some.json"
    some.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ask = {"do_train": None, "do_eval": True, "train_file": None, "config_overrides": None, "output_dir": None}
    ask |= {"model_name_or_path": tmp_path / "run", "validation_file": some, "mem_len": 11}
    capsys.readouterr()
    metrics = [
        run_clm.main(flags(**ask, per_device_eval_batch_size=size, perplexity_file=tmp_path / f"{size}.json"))
        for size in (1, 4)
    ]
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == metrics[0]
    assert metrics[0]["eval_loss"] == pytest.approx(metrics[1]["eval_loss"], rel=1e-6)
    wanted = []
    for line in lines:
        prompt, text = (tokenizer(line[key], add_special_tokens=False)["input_ids"] for key in ("prompt", "text"))
        tokens = [tokenizer.cls_token_id, *prompt, *text]
        wanted.append(likelihood(model, tokens, 1 + len(prompt), tokenizer.sep_token_id))
    total, count = np.array(wanted).sum(0)
    assert metrics[0]["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    written = [json.loads(line) for line in (tmp_path / "4.json").read_text().splitlines()]
    assert [line["targets"] for line in written] == [count for _, count in wanted]
    assert [line["perplexity"] for line in written] == pytest.approx([math.exp(t / c) for t, c in wanted], rel=1e-5)


def test_perplexity_of_any_causal_model_on_a_text_file(flags, tmp_path, prepared):
    """Windows of 16 tokens give each target what the model sees of them; strides give it more."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(prepared[0]), "--tokenizer_name")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=16)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "gpt2")
    text = "今天气很不错\n他在研究生命起源，北京大学和清华。" * 3
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    ask = {"do_train": None, "do_eval": True, "train_file": None, "config_overrides": None, "output_dir": None}
    ask |= {"model_name_or_path": tmp_path / "gpt2", "validation_file": tmp_path / "text.txt"}
    tokens = [tokenizer.cls_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    targets = torch.tensor([*tokens[1:], tokenizer.sep_token_id])
    for stride in (16, 4):
        metrics = [run_clm.main(flags(**ask, stride=stride, per_device_eval_batch_size=size)) for size in (1, 8)]
        assert metrics[0]["eval_loss"] == pytest.approx(metrics[1]["eval_loss"], rel=1e-6)
        losses, done = [], 0
        for start in range(0, len(tokens), stride):
            window = torch.tensor([tokens[start : start + 16]])
            with torch.no_grad():
                scores = model(window).logits[0].log_softmax(-1)
            stop = start + window.shape[1]
            losses += [-scores[place - start, targets[place]].item() for place in range(done, stop)]
            done = stop
            if stop == len(tokens):
                break
        assert metrics[0]["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


# Errors


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_file": "missing.json"}, "--train_file must name an existing file or folder, got 'missing.json'"),
        ({"train_file": None}, "--train_file or --train_dir"),
        ({"do_train": None}, "--do_train or --do_eval"),
        ({"tokenizer_name": None}, "--tokenizer_name"),
        ({"mem_len": -1}, "--mem_len"),
        (GPT2 | {"mem_len": 4}, "--mem_len must be 0 for GPT2LMHeadModel"),
        (
            EAGER | {"torch_compile_mode": "reduce-overhead"},
            "--torch_compile_mode reduce-overhead records CUDA graphs",
        ),
        (GPT2 | {"max_seq_length": 64}, "--max_seq_length"),
        ({"validation_split": 0.2, "stride": 4}, "--stride"),
        ({"validation_split": 2}, "--validation_split"),
        ({"per_device_train_batch_size": 4000}, "--per_device_train_batch_size"),
        ({"eval_strategy": "steps"}, "--do_eval and --eval_strategy need held-out text"),
        ({"group_by_length": True}, "--group_by_length"),
        ({"schedule_floor": 0.1}, "--schedule_floor"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_errors_are_one_line_that_names_the_flag(flags, monkeypatch, changes, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError) as caught:
        run_clm.main(flags(**changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"prompt": "他"}', "bad.json:2: must be a JSON object with the key 'text'"),
        ('{"prompt": "他", "text": "  "}', "bad.json:2: the text must have at least one token"),
        ('{"prompt": 1, "text": "他"}', "bad.json:2: the value of 'prompt' must be a string"),
        ('{"prompt": "他", "text"', "bad.json:2: must be one JSON object"),
    ],
)
def test_bad_lines_are_named(flags, tmp_path, line, message):
    (tmp_path / "bad.json").write_text('{"text": "他在研究"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        run_clm.main(flags(train_file=tmp_path / "bad.json"))
    assert message in str(caught.value)


def test_steps_without_an_answer_token_are_no_steps_into_nowhere(flags, tmp_path):
    line = json.dumps({"prompt": "他在研究" * 40, "text": "好"})
    (tmp_path / "long.json").write_text(line + "\n", encoding="utf-8")
    run_clm.main(flags(train_file=tmp_path / "long.json", per_device_train_batch_size=1, logging_steps=1, max_steps=6))
    losses = [record["loss"] for record in curve(tmp_path / "run") if "loss" in record]
    assert all(math.isfinite(loss) for loss in losses) and 0.0 in losses
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


@pytest.mark.slow
def test_compiled_training_is_the_same_run(flags, tmp_path):
    torch.compiler.reset()
    changes = {"config_overrides": NO_DROPOUT, "max_steps": 4, "logging_steps": 1, "learning_rate": 1e-3}
    run_clm.main(flags(output_dir=tmp_path / "plain", **changes))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    run_clm.main(flags(torch_compile_backend="aot_eager", **changes))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    assert_close_runs(tmp_path / "plain", tmp_path / "run", rel=1e-4, atol=1e-4)
