"""Compiled layers: how many graphs there are, and runs that are what they are without."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.errors import ArgumentError
from models.electra.config import ElectraOptions, generator_config
from models.electra.joint_model import new_joint_model
from tests.models.small_models import batch, head_inputs, make, make_xl
from training.loop import compiling
from training.loop.compiling import RECORDING, Recorded, check_recording, compile_for, compile_layers


def test_layers_share_their_graphs_and_lengths_have_one_for_all_of_them():
    torch.compiler.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = make("gau", num_hidden_layers=5).train()
    names = list(model.state_dict())
    compile_layers(model, backend=keep)
    counts = []
    for length in (16, 16, 24, 40, 20, 32, 28):
        ids, mask = batch((length, length - 5, 3), length)
        positions = torch.arange(length // 6).expand(3, -1).contiguous()
        model(**head_inputs("ForMaskedLM", ids, mask), masked_positions=positions).loss.backward()
        counts.append(len(graphs))
    # Of a layer and of the last one: for the first length, and then for any.
    assert counts == [2, 2, 4, 4, 4, 4, 4]
    assert list(model.state_dict()) == names


def rows_of(length, masked):
    ids, mask = batch((length, length - 5, 3), length)
    positions = torch.arange(masked).expand(3, -1).contiguous()
    return head_inputs("ForMaskedLM", ids, mask) | {"masked_positions": positions}


def joint_model():
    config = make("gau").config
    return new_joint_model(generator_config(config, 2), config, ElectraOptions())


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("flash", "joint")]


@pytest.mark.parametrize("name", ["flash_quad", *SLOW])
def test_lengths_of_buckets_make_no_graphs_without_end(name):
    torch.compiler.reset()
    graphs = []

    def keep(graph, inputs, **options):
        graphs.append(graph)
        return graph.forward

    joint = name == "joint"
    model = (joint_model() if joint else make(name, num_hidden_layers=2)).train()
    compile_layers(model, backend=keep, mode="reduce-overhead" if joint else None)
    counts = []
    for length, masked in ((16, 3), (24, 4), (40, 7), (32, 6), (48, 9)):
        extra = {"noise_seed": torch.arange(3)} if joint else {}
        model(**rows_of(length, masked), **extra).loss.backward()
        counts.append(len(graphs))
    assert counts[-1] == counts[1] <= 4, counts


@pytest.mark.parametrize("mem_len", [0, 8])
def test_segments_of_any_length_and_their_memory_make_no_graphs_without_end(mem_len):
    """Transformer-XL: without a memory, with one that fills up, with one that is full."""
    torch.compiler.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = make_xl(num_hidden_layers=3, attention_window=13, mem_len=mem_len).train()
    compile_layers(model, backend=keep)
    mems, counts = None, []
    for length in (16, 24, 40, 32, 6, 48, 16, 30):
        outputs = model(torch.randint(0, 49, (2, length)), mems=mems, output_mems=bool(mem_len))
        outputs.logits.sum().backward()
        mems = outputs.mems if mem_len else None
        counts.append(len(graphs))
    assert counts[-1] == counts[4] <= 4, counts


@pytest.mark.parametrize("mode", [None, "max-autotune-no-cudagraphs", *RECORDING])
def test_modes_with_cuda_graphs_compile_the_model_as_a_whole(mode):
    args = SimpleNamespace(torch_compile=True, fsdp="", deepspeed=None, torch_compile_backend="eager")
    args.torch_compile_mode = mode
    callbacks, plugin = [], SimpleNamespace(backend=None)
    accelerator = SimpleNamespace(state=SimpleNamespace(dynamo_plugin=plugin))
    model = make("gau")
    names = list(model.state_dict())
    compile_for(SimpleNamespace(args=args, accelerator=accelerator, model=model, add_callback=callbacks.append))
    layers = [f"gau_alpha.encoder.layer.{number}" for number in range(2)]
    compiled = [name for name, module in model.named_modules() if module._compiled_call_impl is not None]
    assert compiled == ([""] if mode in RECORDING else layers)
    assert [type(callback) for callback in callbacks] == ([Recorded] if mode in RECORDING else [])
    assert list(model.state_dict()) == names


def run(monkeypatch, able=True, **changes):
    """A trainer of a long run on a card, or of one that differs, and whether its layers are compiled."""
    monkeypatch.setattr(compiling, "has_compilers", lambda: able)
    told = {"torch_compile": None, "fsdp": "", "deepspeed": None, "full_determinism": False}
    told |= {"steps": 500, "device": "cuda", "family": "gau"} | changes
    args = SimpleNamespace(**told | {"device": torch.device(told["device"])})
    batches = None if told["steps"] is None else SimpleNamespace(steps=told["steps"])
    model = make(told["family"])
    compile_for(SimpleNamespace(args=args, model=model, train_batches=batches))
    return any(module._compiled_call_impl is not None for module in model.modules())


NOT = [{"torch_compile": False}, {"steps": 499}, {"steps": None}, {"device": "cpu"}, {"full_determinism": True}]
NOT += [{"fsdp": "full_shard"}, {"deepspeed": "{}"}, {"able": False}]


def test_long_runs_on_cuda_are_compiled_unless_told_otherwise(monkeypatch, caplog):
    with torch._dynamo.config.patch(suppress_errors=False), caplog.at_level("INFO"):
        assert run(monkeypatch) and "--torch_compile false" in caplog.text
        assert torch._dynamo.config.suppress_errors
    assert not [changes for changes in NOT if run(monkeypatch, **changes)]


def kept_bytes(model, rows):
    """Of activations, parameters left out, until the backward pass."""
    own, storages = {parameter.data_ptr() for parameter in model.parameters()}, {}

    def note(tensor):
        if tensor.data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(**rows).loss.backward()
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def test_compiled_layers_keep_about_what_the_pass_by_hand_keeps():
    """Of a layer, as the difference of three layers and two."""
    rows, layers = rows_of(64, 5), {}
    for compiled in (False, True):
        torch.compiler.reset()
        few, many = (make("gau", num_hidden_layers=number, max_position_embeddings=64).train() for number in (2, 3))
        if compiled:
            for model in (few, many):
                compile_layers(model, backend="aot_eager_decomp_partition")
        layers[compiled] = kept_bytes(many, rows) - kept_bytes(few, rows)
    assert layers[True] < 1.2 * layers[False], layers


def test_gradients_are_taken_out_of_a_graphs_memory_before_it_runs_again(monkeypatch):
    marks = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.grad
    callback = Recorded()
    callback.on_step_begin(None, None, None, model=model)
    callback.on_substep_end(None, None, None, model=model)
    assert torch.equal(model.weight.grad, before) and model.weight.grad.data_ptr() != before.data_ptr()
    assert model.bias.grad is None and len(marks) == 2


def test_a_memory_needs_a_mode_without_cuda_graphs():
    check_recording("reduce-overhead", 0)
    check_recording(None, 8)
    with pytest.raises(ArgumentError, match="--torch_compile_mode reduce-overhead records CUDA graphs"):
        check_recording("reduce-overhead", 8)
