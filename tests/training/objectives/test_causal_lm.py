"""The causal objective: the original's losses over its streams; documents apart in stock models; what it refuses."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from common.errors import ArgumentError
from data.batches.causal_streams import CausalCollator, StreamBatches
from data.batches.sampling import TrainBatches
from training.loop.trainer import Trainer
from training.objectives.causal_lm import CausalLanguageModelling, _telling_length

ORIGINAL = json.loads((Path(__file__).parents[2] / "fixtures" / "xl_dataset.json").read_text(encoding="utf-8"))


def original_rows():
    """The original's samples as causal_streams gives them (test_causal_streams.py compares the two)."""
    places = [place for d in ORIGINAL["documents"] for place in range(len(d["prompt"]) + len(d["text"]))]
    for number, sample in enumerate(ORIGINAL["samples"]):
        real = places[8 * number : 8 * number + 8]
        labels = np.where(sample["loss_mask"], sample["target"], -100)[: len(real)]
        yield {"input_ids": np.array(sample["text"])[: len(real)], "labels": labels, "position_ids": np.array(real)}


@pytest.mark.parametrize("training", [True, False])
def test_losses_over_the_streams_are_the_originals(xl_model, xl_tensors, training):
    model = xl_model(attention_window=8, mem_len=4)
    rows, batches = list(original_rows()), StreamBatches(7, 2, steps=4, seed=0)
    objective = CausalLanguageModelling(model, 8, batches, mem_len=4)
    for number, pairs in zip(range(4), batches, strict=False):
        batch = CausalCollator(ORIGINAL["end"], 8)([rows[row] for _, row in pairs])
        with torch.set_grad_enabled(training):
            sums, _ = objective(model, batch | {"fresh": number == 0})
        count = objective.counts(batch)["clm"]
        torch.testing.assert_close(
            sums["clm"] / count, xl_tensors[f"xl_dataset/stream/{number}/loss"], rtol=0, atol=1e-5
        )
        assert count == xl_tensors[f"xl_dataset/stream/{number}/loss_mask_sum"]
        assert sums["clm"].requires_grad == training


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_documents_of_a_row_are_apart_in_a_stock_model(attention):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    model.set_attn_implementation(attention)
    ids = torch.randint(0, 50, (1, 16))
    labels = ids.roll(-1, 1)

    def loss(span, positions, mask=True):
        batch = {"input_ids": ids[:, span], "labels": labels[:, span], "position_ids": positions}
        with torch.no_grad():
            return CausalLanguageModelling(model, 16, document_mask=mask)(model, batch)[0]["clm"]

    places = torch.cat([torch.arange(3, 8), torch.arange(11)]).unsqueeze(0)  # the first document began before the row
    alone = loss(slice(0, 5), torch.arange(5)[None]) + loss(slice(5, 16), torch.arange(11)[None])
    torch.testing.assert_close(loss(slice(0, 16), places), alone, rtol=1e-5, atol=1e-5)
    assert (loss(slice(0, 16), places, mask=False) - alone).abs() > 1e-2


def stock(kind, **fields):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
    shape |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape | fields)).train()


SMALL = {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 16}
LOCAL = SMALL | {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
WINDOWS = {
    "mistral": SMALL | {"sliding_window": 4},
    "gemma2": LOCAL,
    "gemma3_text": LOCAL,
    "cohere2": LOCAL,
    "qwen2": LOCAL | {"use_sliding_window": True},
    "phi3": SMALL | {"sliding_window": 4},
    "starcoder2": SMALL | {"sliding_window": 4},
    "gpt_oss": LOCAL | {"num_local_experts": 2, "num_experts_per_tok": 1},
    "modernbert-decoder": {"intermediate_size": 32, "local_attention": 4, "global_attn_every_n_layers": 2},
    "llama4_text": SMALL
    | {"layer_types": ["chunked_attention", "full_attention"], "attention_chunk_size": 4, "intermediate_size_mlp": 32}
    | {"num_local_experts": 1, "no_rope_layers": [1, 0]},
    "gpt_neo": {"num_layers": 2, "num_heads": 2, "window_size": 4, "attention_types": [[["global", "local"], 1]]},
    "llama": SMALL,
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2},
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_row_of_documents_has_the_loss_of_each_document_alone(kind):
    model = stock(kind, **WINDOWS[kind])
    objective = CausalLanguageModelling(model, 24)
    state = torch.get_rng_state()
    objective.check(model, packed=True)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    ids = torch.randint(3, 50, (2, 24), generator=torch.Generator().manual_seed(1))
    labels = ids.roll(-1, 1)
    cuts = [(0, 7, 16, 24), (0, 13, 24)]
    places = torch.stack([torch.cat([torch.arange(b - a) for a, b in itertools.pairwise(cut)]) for cut in cuts])
    with torch.no_grad():
        packed = objective(model.eval(), {"input_ids": ids, "labels": labels, "position_ids": places})[0]["clm"]
        alone = sum(
            torch.nn.functional.cross_entropy(model(row[None, a:b]).logits[0], label[a:b], reduction="sum")
            for row, label, cut in zip(ids, labels, cuts, strict=True)
            for a, b in itertools.pairwise(cut)
        )
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (
            "bloom",
            {"n_layer": 1, "n_head": 2},
            "BloomForCausalLM does not .*too many values.*--document_mask",
        ),
        ("mamba", {}, "MambaForCausalLM does not .*; give --document_mask false"),
        ("openai-gpt", {"n_layer": 1, "n_head": 2}, "OpenAIGPTLMHeadModel does not .*; give --document_mask false"),
        ("rwkv", {"attention_hidden_size": 32}, "RwkvForCausalLM does not .*; give --document_mask false"),
        ("bert", {}, "BertLMHeadModel must be causal, .*is_decoder=true"),
    ],
)
def test_models_that_cannot_keep_documents_apart_are_told_before_training(kind, fields, message):
    model = stock(kind, **fields)
    with pytest.raises(ArgumentError, match=message):
        CausalLanguageModelling(model, 24).check(model, packed=True)
    if kind != "bert":
        CausalLanguageModelling(model, 24, document_mask=False).check(model, packed=True)
        CausalLanguageModelling(model, 24).check(model, packed=False)


def test_the_trial_row_is_longer_than_every_window_that_rows_can_fill():
    config = GPT2Config()
    assert _telling_length(config, 1024) == 64
    config.sliding_window = 100
    assert (_telling_length(config, 1024), _telling_length(config, 110), _telling_length(config, 50)) == (116, 110, 50)


def test_memory_goes_to_other_micro_batches_and_processes_and_to_no_other_streams(xl_model):
    model = xl_model(attention_window=8, mem_len=4)

    def objective(*shape):
        return CausalLanguageModelling(model, 8, TrainBatches(16, *shape, steps=1, seed=0), mem_len=4)

    assert objective(4).state() == {}
    batch = {"labels": torch.ones(4, 8, dtype=torch.int64), "position_ids": torch.arange(8).expand(4, 8)}
    batch["input_ids"] = torch.randint(0, 60, (4, 8))
    whole = objective(4)
    whole(model, batch)
    parts = objective(2, 2)
    parts.restore(whole.state())
    assert all(torch.equal(a, b) for a, b in zip(parts.state().values(), whole.state().values(), strict=True))
    halves = [objective(2, 1, 2, process) for process in range(2)]
    for process, half in enumerate(halves):
        half.restore(whole.state())
        for name, tensor in half.state().items():
            assert torch.equal(tensor, whole.state()[name][2 * process : 2 * process + 2])
    again = objective(1, 4)
    again.restore(*(half.state() for half in halves))
    assert all(torch.equal(a, b) for a, b in zip(again.state().values(), whole.state().values(), strict=True))
    for other, state in (
        (objective(4, 1, 2, 1), whole.state()),
        (objective(4), halves[0].state()),
        (objective(4), {}),
    ):
        with pytest.raises(ArgumentError, match="--resume_from_checkpoint must hold the memory"):
            other.restore(state)


def test_the_bias_vectors_of_relative_attention_are_decayed(xl_model):
    class Bare(Trainer):
        def __init__(self, objective):
            self.objective = objective

    model = xl_model()
    names = Bare(CausalLanguageModelling(model, 8)).get_decay_parameter_names(model)
    assert {"model.rel_bias.r_w_bias", "model.rel_bias.r_r_bias", "model.embed_tokens.weight"} <= set(names)
    assert not any(name.endswith((".bias", "norm.weight")) for name in names)
