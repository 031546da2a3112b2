"""run_mlm_wwm.py on packed rows and with transformers' own encoders: isolation is exact, runs learn and resume."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import RobertaProcessing
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

import models  # noqa: F401  registers the model types
import run_mlm_wwm
from common.errors import ArgumentError
from data import create_data
from data.batches.masking import MaskCollator, TokenMasking
from data.batches.packing import pack
from data.batches.sampling import PlainRows
from data.corpus import store
from data.corpus.arrow_shards import CorpusError
from data.corpus.store import Corpus
from models.post_norm import use_fast_layers
from models.stock import accept_our_inputs
from tests.processes import run_together
from tests.runs import assert_same_run, curve, killed_in, read_log
from training.arguments import ModelArguments, RunArguments
from training.model_setup import make_model
from training.objectives.masked_lm import MaskedLanguageModelling, separate_documents
from training.pretrained import load_tokenizer

ROOT = Path(__file__).parents[1]
TRANSFORMER = (
    "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=48,max_position_embeddings=90"
)
SHAPES = {
    "gau_alpha": "hidden_size=32,intermediate_size=64,num_hidden_layers=2,attention_key_size=16",
    "flash_quad": "hidden_size=32,num_hidden_layers=2,s=16",
    "roberta": TRANSFORMER,
    "bert": TRANSFORMER,
    "electra": TRANSFORMER + ",embedding_size=16",
}
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = ["dogs", "cats", "see", "chase", "birds", "trees"]
EVERY = pytest.mark.parametrize("kind", SHAPES)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, bert_folder, write_corpus):
    """(tokenizer folder, corpus folder); rows have 6 to 39 tokens"""
    tokenizer = bert_folder()
    return tokenizer, write_corpus(tmp_path_factory.mktemp("prepared") / "corpus", tokenizer)


@pytest.fixture
def flags(prepared, tmp_path):
    """(model type, flag=value, ...) -> the arguments of a tiny run into tmp_path/run."""

    def make(kind, **changes):
        values = {"tokenizer_name": prepared[0], "train_dir": prepared[1], "output_dir": tmp_path / "run"}
        values |= {"model_type": kind, "config_overrides": SHAPES.get(kind), "per_device_train_batch_size": 8}
        values |= {"learning_rate": 1e-2, "max_steps": 9, "logging_steps": 3, "save_steps": 3, "report_to": "none"}
        pairs = [(name, value) for name, value in (values | changes).items() if value is not None]
        words = [word for name, value in pairs for word in (f"--{name}", str(value))]
        return ["--do_train", *words]

    return make


def packed_batch(prepared, packing, length=64, rows=3):
    """The tensors of the last packed rows, which have the most documents, and the tokenizer."""
    tokenizer = load_tokenizer(str(prepared[0]), "--tokenizer_name")
    corpus = Corpus(prepared[1])
    packed = pack(PlainRows(corpus, np.arange(len(corpus))), packing, length, tokenizer.backend_tokenizer)
    specials = tuple(tokenizer.all_special_ids)
    masking = TokenMasking(len(tokenizer), tokenizer.mask_token_id, specials, probability=0.15, seed=1)
    collator = MaskCollator(masking, tokenizer.pad_token_id, pad_to_multiple_of=8)
    return collator([row | {"epoch": 0} for row in packed.rows(np.arange(len(packed))[-rows:])]), tokenizer


def tiny_model(kind, tokenizer, prepared):
    torch.manual_seed(3)
    model_args = ModelArguments(str(prepared[0]), model_type=kind, config_overrides=SHAPES[kind])
    return use_fast_layers(accept_our_inputs(make_model(AutoModelForMaskedLM, model_args, tokenizer))).eval()


@EVERY
def test_logits_of_a_packed_document_are_those_of_the_document_alone(prepared, kind):
    batch, tokenizer = packed_batch(prepared, "isolated", length=70)
    model = tiny_model(kind, tokenizer, prepared)
    assert (batch["attention_mask"] == 0).any() and batch["document_ids"].max() > 2
    inputs = {k: v for k, v in separate_documents(batch).items() if k not in ("labels", "masked_positions")}
    with torch.no_grad():
        together = model(**inputs).logits
        for row in range(3):
            for document in range(1, int(batch["document_ids"][row].max()) + 1):
                own = batch["document_ids"][row] == document
                ids = batch["input_ids"][row, own].unsqueeze(0)
                alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
                torch.testing.assert_close(together[row, own], alone, atol=1e-5, rtol=0)


@EVERY
def test_loss_and_gradients_of_packed_documents_are_finite_sums_of_those_alone(prepared, kind):
    """What the objective adds up is the same for rows of one document each; padding gives no gradient."""
    batch, tokenizer = packed_batch(prepared, "isolated")
    model = tiny_model(kind, tokenizer, prepared)
    objective = MaskedLanguageModelling(model, 64, 0.15)
    sums, metrics = objective(model, batch)
    assert int(metrics["mlm_accuracy"][1]) == int(objective.counts(batch)["mlm"])
    sums["mlm"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    model.zero_grad()
    total = 0.0
    for row in range(len(batch["input_ids"])):
        for document in range(1, int(batch["document_ids"][row].max()) + 1):
            own = batch["document_ids"][row] == document
            alone = {name: batch[name][row, own].unsqueeze(0) for name in ("input_ids", "attention_mask", "labels")}
            labelled = (alone["labels"][0] != -100).nonzero().squeeze(-1)
            alone["masked_positions"] = (labelled if len(labelled) else torch.zeros(1, dtype=torch.long)).unsqueeze(0)
            loss, _ = objective(model, alone)
            loss["mlm"].backward()
            total += float(loss["mlm"].detach())
    assert float(sums["mlm"].detach()) == pytest.approx(total, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gau_alpha", {"packing": "isolated"}),
        ("flash_quad", {"packing": "isolated", "mask_unit": "token"}),
        ("roberta", {"packing": "concat", "mask_unit": "token"}),
        ("roberta", {"packing": "isolated", "bf16": "true", "gradient_checkpointing": "true"}),
        ("bert", {"packing": "isolated", "max_seq_length": 80, "optimizer": "muon", "unigram_bias": "true"}),
        ("flash", {"packing": "concat", "config_overrides": "hidden_size=32,num_hidden_layers=2,query_key_dim=16"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["packing"],
)
def test_packed_runs_learn_and_say_what_packing_saves(flags, tmp_path, caplog, kind, changes):
    caplog.set_level("INFO")
    run_mlm_wwm.main(flags(kind, use_cpu="true", validation_split=0.2, **changes))
    records = [record for record in read_log(tmp_path / "run") if "loss" in record]
    assert records[-1]["loss"] < records[0]["loss"]
    (line,) = [line for message in caplog.messages for line in message.split("\n") if "of the positions" in line]
    packed, plain = map(float, re.findall(r"([\d.]+)%", line))
    assert packed < plain and plain > 30 and (packed < 15 or changes["packing"] == "concat")


@pytest.mark.parametrize(("kind", "packing"), [("roberta", "concat"), ("gau_alpha", "isolated")])
def test_a_packed_run_resumes_bit_for_bit(flags, tmp_path, kind, packing):
    run_mlm_wwm.main(flags(kind, packing=packing, output_dir=tmp_path / "whole"))
    with killed_in(5):
        run_mlm_wwm.main(flags(kind, packing=packing))
    run_mlm_wwm.main(flags(kind, packing=packing, dataloader_num_workers=2))
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert read_log(tmp_path / "run")[-1]["loss"] == read_log(tmp_path / "whole")[-1]["loss"]


def test_rows_of_a_large_corpus_are_made_by_chunks_but_in_a_run_begun_before_that(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SMALL", 0)
    changes = {"kind": "roberta", "packing": "concat", "validation_split": 0.2}
    with monkeypatch.context() as patch:
        patch.setattr(RunArguments, "rows_by_chunk", False)
        run_mlm_wwm.main(flags(output_dir=tmp_path / "old", **changes))
        with killed_in(5):
            run_mlm_wwm.main(flags(**changes))
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["arguments"]
    assert "rows_by_chunk" not in settings, "as earlier code wrote them"
    run_mlm_wwm.main(flags(**changes))
    assert_same_run(tmp_path / "old", tmp_path / "run")
    new = {"output_dir": tmp_path / "new", "dataloader_num_workers": 2}
    with killed_in(5):
        run_mlm_wwm.main(flags(**changes | new))
    run_mlm_wwm.main(flags(**changes | new))
    settings = json.loads((tmp_path / "new" / "run.json").read_text())["settings"]["arguments"]
    assert settings["rows_by_chunk"] and curve(tmp_path / "new") != curve(tmp_path / "old")
    run_mlm_wwm.main(flags(**changes | new | {"output_dir": tmp_path / "whole", "dataloader_num_workers": 0}))
    assert_same_run(tmp_path / "whole", tmp_path / "new")


def test_any_masked_lm_of_transformers_trains_on(flags, tmp_path, prepared):
    """distilbert, whose forward knows no token types; from its folder, as from a hub name."""
    sizes = "dim=32,n_layers=2,n_heads=2,hidden_dim=48"
    run_mlm_wwm.main(flags("distilbert", config_overrides=sizes, max_steps=3, output_dir=tmp_path / "first"))
    first = {"model_name_or_path": tmp_path / "first", "config_overrides": None}
    run_mlm_wwm.main(flags("distilbert", packing="concat", **first))
    records = read_log(tmp_path / "run")
    assert records[0]["loss"] < read_log(tmp_path / "first")[0]["loss"]
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run")
    assert type(model).__name__ == "DistilBertForMaskedLM"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("flash", {"packing": "isolated", "config_overrides": "num_hidden_layers=1"}, "concat or none, or gau_alpha"),
        ("roformer", {"packing": "isolated", "config_overrides": TRANSFORMER}, "--packing isolated needs a model"),
        ("roberta", {"config_overrides": "max_position_embeddings=30"}, "--max_seq_length must be at most 29"),
        ("bert", {"packing": "concat", "max_seq_length": 91}, "--max_seq_length must be at most 90"),
        ("bert", {"packing": "concat", "max_seq_length": 20}, "--max_seq_length must be at least the 39 tokens"),
        ("bert", {"packing": "all"}, "--packing"),
        ("bert", {"mask_unit": "letter"}, "--mask_unit"),
        ("bert", {"mlm_probability": 1}, "--mlm_probability must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_packed_is_told_before_training(flags, tmp_path, kind, changes, message):
    with pytest.raises((ArgumentError, CorpusError), match=message):
        run_mlm_wwm.main(flags(kind, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("packing", ["none", "isolated"])
def test_roberta_trains_on_a_corpus_of_create_data(flags, tmp_path, packing):
    """Rows that begin inside a document, from a tokenizer trained here, all flags of the original's line."""
    texts = [f"{subject} {verb} the {thing}." for subject in WORDS for verb in WORDS for thing in WORDS]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=290, special_tokens=SPECIALS, show_progress=False)
    trained._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    names = dict(zip(names, SPECIALS, strict=True)) | {"cls_token": "<s>", "sep_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **names)
    tokenizer.save_pretrained(tmp_path / "roberta-base")
    command = ["--tokenizer_name", tmp_path / "roberta-base", "--train_file", tmp_path / "texts.txt"]
    command += ["--max_seq_length", 48, "--output_dir", tmp_path / "wiki", "--preprocessing_num_workers", 1]
    create_data.main(list(map(str, command)))
    changes = {"tokenizer_name": tmp_path / "roberta-base", "train_dir": tmp_path / "wiki", "mask_unit": "token"}
    changes |= {"weight_decay": 1e-2, "warmup_steps": 2, "max_grad_norm": 1.0, "fp16": "true", "max_seq_length": 48}
    run_mlm_wwm.main(flags("roberta", packing=packing, num_train_epochs=3, max_steps=12, **changes))
    records = read_log(tmp_path / "run")
    assert records[-1]["step"] == 12 and records[-1]["loss"] < records[0]["loss"]
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["model_type"], config["pad_token_id"], config["vocab_size"]) == ("roberta", 1, len(tokenizer))


def test_max_grad_norm_limits_the_step(flags, tmp_path):
    """Under plain SGD with a rate of 1 the weights move by exactly the norm that is allowed."""
    weights = []
    for norm in (0.1, 0.3):
        changes = {"optim": "sgd", "learning_rate": 1, "lr_scheduler_type": "constant", "max_steps": 1}
        run_mlm_wwm.main(flags("bert", max_grad_norm=norm, output_dir=tmp_path / str(norm), **changes))
        weights.append(load_file(tmp_path / str(norm) / "model.safetensors"))
    moved = torch.cat([(weights[0][name] - weights[1][name]).flatten() for name in weights[0]]).norm()
    assert float(moved) == pytest.approx(0.2, rel=1e-3)


@EVERY
def test_a_batch_where_nothing_is_masked_gives_zero_and_no_nan(prepared, kind):
    batch, tokenizer = packed_batch(prepared, "isolated")
    batch["labels"] = torch.full_like(batch["labels"], -100)
    model = tiny_model(kind, tokenizer, prepared).train()
    sums, _ = MaskedLanguageModelling(model, 64, 0.15)(model, batch)
    sums["mlm"].backward()
    assert float(sums["mlm"].detach()) == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.slow
def test_two_processes_with_accumulation_give_the_losses_of_one(flags, tmp_path):
    shape = f"{TRANSFORMER},hidden_dropout_prob=0,attention_probs_dropout_prob=0"
    changes = {"config_overrides": shape, "packing": "isolated", "max_steps": 4, "logging_steps": 1}
    run_mlm_wwm.main(flags("roberta", output_dir=tmp_path / "one", **changes))
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "output_dir": tmp_path / "two"}
    run_together(ROOT / "run_mlm_wwm.py", [*flags("roberta", **changes, **split), "--use_cpu"], tmp_path)
    assert json.loads((tmp_path / "two/run.json").read_text())["processes"] == 2
    for one, two in zip(read_log(tmp_path / "one"), read_log(tmp_path / "two"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
