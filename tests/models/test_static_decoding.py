"""Decoding in steps of one shape: the ordinary decoding's logits and tokens, by operations and replayed as a graph."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from models import static_decoding
from models.relative import _mix, attend, make_band, named_cache
from models.static_decoding import StaticStep, captured_step, decode
from tests.models.small_models import close, make_xl

NEW = 25  # more than two windows of tokens after the prompt


class Graph:
    """Stands for torch.cuda.CUDAGraph on a CPU: the same operations again, on the memory that they had."""

    def replay(self):
        for func, args, kwargs, results in self.tape:
            for old, new in zip(tree_leaves(results), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recording(TorchDispatchMode):
    """Stands for torch.cuda.graph."""

    def __init__(self, graph):
        super().__init__()
        self.tape = graph.tape = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a captured step must read no number"
        results = func(*args, **(kwargs or {}))
        self.tape.append((func, args, kwargs or {}, results))
        return results


@pytest.fixture
def graphs(monkeypatch):
    """torch.cuda's graphs, of a CPU."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {"Stream": lambda: stream, "current_stream": lambda: stream}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)


def left_padded(*lengths, total):
    torch.manual_seed(1)
    real = torch.arange(total) >= total - torch.tensor(lengths).unsqueeze(1)
    return torch.randint(0, 49, real.shape) * real, real.long()


@pytest.mark.parametrize("fields", [{}, {"relative_encoding": False, "max_position_embeddings": 64}])
@torch.no_grad()
def test_logits_are_those_of_the_growing_cache(graphs, fields):
    """One object for prompts shorter and longer than the window, one after the other."""
    model = make_xl(**fields)
    plain, captured = StaticStep(model, 3), captured_step(model, 3)
    for lengths in ((5, 5, 5), (9, 3, 1), (30, 17, 4)):
        ids, mask = left_padded(*lengths, total=max(lengths))
        cache = DynamicCache()
        wanted = model(ids, attention_mask=mask, **named_cache(cache)).logits[:, -1]
        ours = [step.begin(ids, mask) for step in (plain, captured)]
        for token in torch.randint(0, 49, (NEW, 3, 1)):
            for logits in ours:
                close(logits, wanted)
            mask = torch.cat((mask, torch.ones_like(token)), dim=1)
            wanted = model(token, attention_mask=mask, **named_cache(cache)).logits[:, -1]
            ours = [step(token) for step in (plain, captured)]


@torch.no_grad()
def test_compiled_layers_are_one_program_and_give_the_same_logits(monkeypatch):
    model, graphs = make_xl(num_hidden_layers=3), []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    ids, mask = left_padded(5, 2, total=5)
    steps = StaticStep(model, 2), StaticStep(model, 2, compiled=True)
    logits = [step.begin(ids, mask) for step in steps]
    for token in torch.randint(0, 49, (NEW, 2, 1)):
        close(*logits)
        logits = [step(token) for step in steps]
    assert len(graphs) == 1


@torch.no_grad()
def test_one_query_by_plain_products_gives_what_fused_attention_does(monkeypatch):
    """As a GPU computes it: rows share the product with the keys of distances."""
    model, (ids, mask) = make_xl(), left_padded(7, 2, total=7)
    cache = DynamicCache()
    model(ids, attention_mask=mask, **named_cache(cache))
    band, layer, biases = make_band(1, 7, 12, None, ids.device), cache.layers[0], model.model.biases()
    query = torch.randn_like(layer.keys[:, :, :1])
    keys, values = (F.pad(part, (0, 0, 0, 1), value=0.5) for part in (layer.keys, layer.values))
    arguments = (query, keys, values, layer.relative, biases, band, 0.0)
    wanted = attend(*arguments)
    monkeypatch.setattr(F, "scaled_dot_product_attention", _mix)
    close(attend(*arguments), wanted)


def test_every_step_works_on_the_same_memory(graphs):
    model = make_xl()
    step = captured_step(model, 2)
    tensors = [tensor for layer in step.layers for tensor in (layer.keys, layer.values)]
    before = [tensor.data_ptr() for tensor in tensors]
    ids, mask = left_padded(4, 2, total=4)
    step.begin(ids, mask)
    assert len({step(ids[:, :1]).data_ptr() for _ in range(3)}) == 1
    assert [layer.keys.data_ptr() for layer in step.layers] == before[::2]
    assert all(tensor.count_nonzero() for tensor in tensors)


SETTINGS = {
    "greedy": {"do_sample": False, "repetition_penalty": 1.3},
    "sampled": {"do_sample": True, "temperature": 1.5, "top_k": 20, "top_p": 0.9, "suppress_tokens": [3, 4]},
    "of all tokens": {"do_sample": True, "top_k": 0},
}


class Heard:
    """A streamer that keeps what it is told."""

    def __init__(self):
        self.tokens, self.ended = [], 0

    def put(self, value):
        self.tokens += [value.clone()]

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("case", SETTINGS)
def test_generate_draws_the_same_tokens_by_it(graphs, case):
    """Until the end token in each row, and to the last token of the length."""
    model, (ids, mask) = make_xl(), left_padded(6, 3, 1, total=6)
    settings = SETTINGS[case] | {"max_new_tokens": NEW, "pad_token_id": 0}
    for end in (49, None):
        torch.manual_seed(2)
        wanted = model.generate(ids, attention_mask=mask, eos_token_id=end, **settings)
        heard, step = Heard(), captured_step(model, 3)
        torch.manual_seed(2)
        one_by_one = partial(decode, step, heard)
        tokens = model.generate(ids, attention_mask=mask, eos_token_id=end, custom_generate=one_by_one, **settings)
        assert torch.equal(tokens, wanted)
        assert torch.equal(torch.stack(heard.tokens, dim=1), wanted[:, 6:]) and heard.ended == 1


def test_a_capture_that_fails_is_one_line(graphs, monkeypatch, caplog):
    def fail(graph):
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be ...")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    assert captured_step(make_xl(), 1) is None
    why = "operation not permitted when stream is capturing"
    assert caplog.messages == [f"no CUDA graph of a step ({why}): each operation is launched"]


def test_graphs_are_for_transformer_xl_on_cuda(monkeypatch):
    assert not static_decoding.can_capture(make_xl()) and not static_decoding.can_capture(torch.nn.Linear(1, 1))
    monkeypatch.setattr(static_decoding.TransformerXLForCausalLM, "device", torch.device("cuda"))
    assert static_decoding.can_capture(make_xl())
