"""Model parallelism without its processes: which rows, which cuts, whose random numbers; errors name the flag."""

import re
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel

from common.errors import ArgumentError
from data.batches.causal_documents import Documents
from data.batches.causal_streams import Windows, make_eval_batches, make_train_batches
from models import TransformerXLConfig, TransformerXLForCausalLM
from models.relative import make_band
from training.arguments import ModelParallelArguments, RunArguments, course_settings
from training.loop.model_parallel import ask_for, take_share


def tiny(**fields):
    torch.manual_seed(0)
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64} | fields
    return TransformerXLForCausalLM(TransformerXLConfig(intermediate_size=64, **fields))


@pytest.fixture
def process(monkeypatch, tmp_path):
    """(number, size=2, processes=4) -> the arguments of that process."""

    def make(number, size=2, processes=4):
        monkeypatch.setattr(RunArguments, "world_size", processes)
        monkeypatch.setattr(RunArguments, "process_index", number)
        args = ModelParallelArguments(str(tmp_path), max_steps=5, use_cpu=True)
        args.model_parallel_size = size  # not earlier: it needs DeepSpeed
        return args

    return make


@pytest.fixture
def asked(process):
    """(model, size) -> the settings that DeepSpeed is given."""

    def ask(model, size=2):
        args = process(0, size)
        args.hf_deepspeed_config = SimpleNamespace(config={"zero_optimization": {"stage": 2}})
        ask_for(model, args)
        return args.hf_deepspeed_config.config

    return ask


class Numbers:
    """Rows that are nothing but their numbers."""

    lengths = np.full(64, 8)

    def __len__(self):
        return 64


def test_adjacent_processes_read_the_same_rows_and_groups_share_them(process):
    text = Documents(np.arange(200, dtype=np.uint16) % 50, np.array([40] * 5), np.zeros(5, int), 0)

    def rows_of(number, size, processes, mem_len):
        args = process(number, size, processes)
        batches = list(islice(make_train_batches(args, Numbers(), mem_len), 5))
        return batches, list(make_eval_batches(args, Windows(text, 8, 8), mem_len)), course_settings(args)

    for mem_len in (0, 4):
        cut = [rows_of(number, 2, 4, mem_len) for number in range(4)]
        whole = [rows_of(number, 1, 2, mem_len) for number in range(2)]
        assert [rows[:2] for rows in cut] == [whole[number // 2][:2] for number in range(4)]
        assert whole[0][:2] != whole[1][:2]
        assert cut[0][2] == whole[0][2] | {"model_parallel_size": 2}


def test_the_settings_cut_every_parameter_as_the_plan_of_the_model_says(asked):
    model = tiny()
    settings = asked(model)
    asked_for = settings["tensor_parallel"]
    assert asked_for["autotp_size"] == 2 and asked_for["vocab_parallel_lm_head"] is False
    assert settings["zero_optimization"] == {"stage": 2, "stage3_gather_16bit_weights_on_model_save": True}
    kinds = {}
    for name, _ in model.named_parameters():
        specs = [
            spec
            for spec in asked_for["partition_config"]["layer_specs"]
            if any(re.match(pattern, name) for pattern in spec["patterns"])
        ]
        assert len(specs) < 2
        kind = [(spec["partition_type"], spec.get("grad_allreduce", False)) for spec in specs]
        kinds.setdefault(re.sub(r"\.\d+\.", ".", name), set()).add(*kind or [None])
    column, row, summed = ("column", False), ("row", False), ("skip", True)
    expected = dict.fromkeys(kinds) | {
        **{f"model.layers.attn.{letter}_proj.weight": column for letter in "qkvr"},
        "model.layers.attn.o_proj.weight": row,
        "model.layers.mlp.fc_in.weight": column,
        "model.layers.mlp.fc_out.weight": row,
        "model.rel_bias.r_w_bias": summed,
        "model.rel_bias.r_r_bias": summed,
    }
    assert kinds == {name: {kind} for name, kind in expected.items()}


def test_each_process_has_the_biases_of_its_heads_and_the_gradients_add_up():
    weights = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    gradients, rows = [], []
    for part in range(2):
        model = tiny()
        torch.nn.init.normal_(model.model.rel_bias.r_w_bias, generator=torch.Generator().manual_seed(1))
        take_share(model, part, 2)
        own = torch.stack(model.model.rel_bias())  # u and v
        assert own.shape == (2, 2, 8)
        (own * weights.chunk(2, dim=1)[part]).sum().backward()
        rows.append(own[0])
        gradients.append(torch.stack([parameter.grad for parameter in model.model.rel_bias.parameters()]))
    assert torch.equal(torch.cat(rows), model.model.rel_bias.r_w_bias)
    assert torch.equal(sum(gradients), weights)


def test_attention_drops_other_weights_on_each_process_and_leaves_the_common_numbers_in_step():
    """Also when checkpointing runs it again, whose gradient would otherwise be that of other weights."""
    hidden = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(2))
    outputs, after, gradients = [], [], []
    for part in (0, 1, 1):
        model = tiny(attention_dropout=0.5, relative_encoding=False)
        layer = model.model.layers[0].train()
        take_share(model, part, 2)
        band = make_band(6, 0, 6, None, hidden.device)

        def attention(states, layer=layer, band=band):
            return layer.attn(states, None, band, None, (None, None), None)

        torch.manual_seed(3)
        arguments = hidden.clone().requires_grad_()
        recomputed = len(outputs) == 2
        output = checkpoint(attention, arguments, use_reentrant=False) if recomputed else attention(arguments)
        outputs.append(output.detach())
        after.append(torch.rand(()))
        output.square().sum().backward()
        gradients.append(arguments.grad)
    assert not torch.allclose(outputs[0], outputs[1]) and torch.equal(outputs[1], outputs[2])
    assert after[0] == after[1] == after[2]
    torch.testing.assert_close(gradients[1], gradients[2], rtol=0, atol=0)


def test_what_cannot_be_cut_is_refused(asked, process, monkeypatch):
    with pytest.raises(ArgumentError, match=r"--model_parallel_size must be 1 for GPT2LMHeadModel, which has no"):
        asked(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=10)))
    with pytest.raises(ArgumentError, match=r"--model_parallel_size \(MP_SIZE\) must divide the 4 num_attention_head"):
        asked(tiny(), 3)
    model = tiny()
    model.config.base_model_tp_plan = None
    monkeypatch.setattr(type(model), "tp_plan", {"model.layers.*.attn.q_proj": "packed_colwise"})
    with pytest.raises(ArgumentError, match=r"whose tp_plan has \['packed_colwise'\]"):
        asked(model)


@pytest.mark.parametrize(
    "size, processes, message",
    [
        (3, 4, r"--model_parallel_size \(MP_SIZE\) must divide the number of processes, 4, got 3"),
        (2, 1, r"--model_parallel_size \(MP_SIZE\) must divide the number of processes, 1, got 2"),
        (0, 1, r"--model_parallel_size \(MP_SIZE\) must divide the number of processes, 1, got 0"),
        (2, 4, "--model_parallel_size 2 needs --deepspeed with ZeRO stage 2 or below"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(monkeypatch, tmp_path, size, processes, message):
    monkeypatch.setattr(RunArguments, "world_size", processes)
    with pytest.raises(ValueError, match=message):
        ModelParallelArguments(str(tmp_path), model_parallel_size=size, use_cpu=True)
