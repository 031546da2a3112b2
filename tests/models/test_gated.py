"""Backward passes written by hand: against finite differences, the plain formula, and the original's way."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import models
from benchmarks.originals.flash import OriginalFLASH
from benchmarks.originals.flashquad import OriginalFLASHQuad
from benchmarks.originals.gau_alpha import OriginalGAUAlpha
from models import gated
from models.gated import Attention, ChunkAttention, GatedAttention, MixedChunkAttention
from models.layers import rotary_table
from tests.models.small_models import EVERY, VARIANTS, batch, doubles, make

E, D, H, T = 3, 6, 2, 5


def seeded(function, *arguments):
    """The same dropout in every call."""
    torch.manual_seed(3)
    return function.apply(*arguments)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("kind", ["softmax", "squared_relu", "biased_squared_relu"])
def test_gated_attention_has_the_gradient_of_its_output(kind, offset, dropout):
    projected, weight, bias, scale, shift, distances = doubles(
        (2, T, 2 * E + D), (H, E), (H,), (2, D), (2, D), (2 * T - 1,)
    )
    valid = torch.tensor([[1] * T, [1] * 4 + [0] * (T - 4)]).bool()
    attention = Attention(
        table=rotary_table(torch.arange(T), D).double(),
        interleaved=kind == "softmax",
        query_scale=0.7,
        key_scale=0.5 if kind == "biased_squared_relu" else None,
        unseen=~valid.unsqueeze(1),
        softmax=kind == "softmax",
        divisor=valid.sum(-1)[:, None, None].double() if kind == "squared_relu" else None,
        dropout=dropout,
    )
    shift, bias = (shift, bias) if offset else (None, None)
    distances = distances if kind == "biased_squared_relu" else None
    arguments = (projected, None, weight, bias, scale, shift, distances, attention)
    assert gradcheck(lambda *inputs: seeded(GatedAttention, *inputs), arguments, fast_mode=True)
    gate, positions = *doubles((2, 3, E)), torch.tensor([[1, 3, 4], [2, 0, 0]])
    some = attention.at(positions)
    arguments = (projected[..., E:], gate, weight, bias, scale, shift, distances, some)
    assert gradcheck(lambda *inputs: seeded(GatedAttention, *inputs), arguments, fast_mode=True)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("option", ["plain", "causal", "per_group", "laplace", "dropout"])
def test_mixed_chunk_attention_has_the_gradient_of_its_output(option, masked):
    group = 3
    hidden, base, weight, bias, scale, shift, distances = doubles(
        (2, T, 2 * E), (2, T, D), (H, E), (H,), (4, D), (4, D), (2 * group - 1,)
    )
    valid = torch.tensor([[1] * T, [1] * 4 + [0] * (T - 4)]).bool() if masked else None
    attention = ChunkAttention(
        table=rotary_table(torch.arange(T), 4, D).double(),
        group=group,
        groups=-(-T // group),
        scales=torch.tensor([[0.7], [0.25], [0.5], [1.0]]),
        key_scale=torch.full((1, 1, 1), 0.5) if valid is None else valid.unsqueeze(-1) / 2,
        unseen=None if valid is None else ~valid,
        causal=option == "causal",
        per_group=option == "per_group",
        laplace=option == "laplace",
        dropout=0.4 if option == "dropout" else 0.0,
    )
    narrow = (base, weight, bias, scale, shift, distances)
    assert gradcheck(lambda *inputs: seeded(MixedChunkAttention, *inputs), (hidden, None, *narrow, None, attention))
    gate, positions = *doubles((2, 3, E)), torch.tensor([[1, 3, 4], [2, 0, 0]])
    arguments = (hidden[..., :E], gate, *narrow, positions, attention)
    assert gradcheck(lambda *inputs: seeded(MixedChunkAttention, *inputs), arguments, fast_mode=True)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["softmax", "squared_relu"])
def test_a_long_row_in_parts_is_the_row_as_a_whole(kind, dropout, monkeypatch):
    projected, weight, bias, scale, shift = doubles((2, T, 2 * E + D), (H, E), (H,), (2, D), (2, D))
    valid = torch.tensor([[1] * T, [1] * 4 + [0] * (T - 4)]).bool()
    attention = Attention(
        table=rotary_table(torch.arange(T), D).double(),
        interleaved=True,
        query_scale=0.7,
        unseen=~(valid.unsqueeze(1) & torch.ones(T, T).tril().bool()),
        softmax=kind == "softmax",
        divisor=torch.arange(1.0, T + 1).expand(2, T).unsqueeze(-1).double() if kind == "squared_relu" else None,
        dropout=dropout,
    )
    arguments = (projected, None, weight, bias, scale, shift, None, attention)
    whole = GatedAttention.apply(*arguments)
    monkeypatch.setattr(gated, "LONG", 2)
    monkeypatch.setattr(gated, "QUERIES", 2)
    assert [run for run, _ in attention.parts(T, None)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    if not dropout:
        torch.testing.assert_close(GatedAttention.apply(*arguments), whole)
    assert gradcheck(lambda *inputs: seeded(GatedAttention, *inputs), arguments, fast_mode=True)


class Largest(TorchDispatchMode):
    """Most numbers of a tensor that some operation made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            expanded = not isinstance(tensor, torch.Tensor) or 0 in tensor.stride()
            self.numbers = max(self.numbers, 0 if expanded else tensor.numel())
        return result


@pytest.mark.parametrize("training", [True, False])
def test_gau_alpha_at_4096_tokens_never_has_all_scores_at_once(training, monkeypatch):
    length = 4096
    fields = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 16, "attention_key_size": 8}
    config = models.GAUAlphaConfig(**fields | NO_DROPOUT, num_hidden_layers=1)
    torch.manual_seed(0)
    model = models.GAUAlphaForMaskedLM(config).train(training)
    ids = torch.randint(1, 50, (1, length))

    def logits_and_gradients():
        with Largest() as largest, torch.set_grad_enabled(training):
            logits = model(ids).logits
            loss = logits.float().square().sum()
            gradients = torch.autograd.grad(loss, list(model.parameters())) if training else ()
        return largest.numbers, logits.detach(), gradients

    numbers, logits, gradients = logits_and_gradients()
    assert numbers == length * gated.QUERIES == length**2 / 4
    monkeypatch.setattr(gated, "LONG", length)
    whole, expected, expected_gradients = logits_and_gradients()
    assert whole == length**2
    torch.testing.assert_close(logits, expected)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


def kept_bytes(layer, hidden, attention, dtype):
    """Bytes that autograd keeps of a layer for its backward pass, weights, input and mask not counted."""
    others = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), hidden, attention.table)}
    kept = {}  # by their address; the tensors are held, so that none is used twice

    def pack(tensor):
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        layer(hidden, attention, False)
    return sum(
        tensor.untyped_storage().nbytes()
        for address, tensor in kept.items()
        if address not in others and tensor.dtype is not torch.bool
    )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gau_alpha_keeps_less_than_a_quarter_of_a_long_row(dtype, dropout, monkeypatch):
    """Everything an eighth of 4,096 tokens in the base model's layer."""
    monkeypatch.setattr(gated, "LONG", 256)
    monkeypatch.setattr(gated, "QUERIES", 128)
    sizes = {"vocab_size": 9, "hidden_size": 96, "intermediate_size": 192, "attention_key_size": 16}
    config = models.GAUAlphaConfig(**sizes, **dict.fromkeys(NO_DROPOUT, dropout), num_hidden_layers=1)
    model = models.GAUAlphaModel(config).train()
    hidden, (attention,) = model.prepare(torch.randn(1, 512, 96), None, None, None, None)
    hidden = hidden.detach().requires_grad_()
    fast = kept_bytes(model.layers[0], hidden, attention, dtype)
    model.set_attn_implementation("eager")
    assert fast < 0.22 * kept_bytes(model.layers[0], hidden, attention, dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", [name for name, (family, _) in VARIANTS.items() if family != "FLASH"])
def test_numbers_of_documents_are_the_mask_of_pairs_that_they_stand_for(variant, training):
    model = make(variant, "Model").train(training)
    ids, _ = batch((21, 17, 4), 21)
    first, second = torch.tensor([[9], [4], [21]]), torch.tensor([[21], [17], [21]])
    places = torch.arange(21)
    numbers = torch.where(places < first, 1, 2).where(places < second, 0)  # the rest of the second row is padding
    pairs = numbers.unsqueeze(2) == numbers.unsqueeze(1)
    for some in ({}, {"output_positions": torch.tensor([[3, 0, 11], [6, 5, 20], [1, 2, 0]])}):
        inputs = {"input_ids": ids, "position_ids": places - (numbers == 2) * first} | some
        results = [
            outputs_and_gradients(model, inputs | {"attention_mask": mask}, torch.float32)
            for mask in (numbers.unsqueeze(1), pairs)
        ]
        for result, expected in zip(*results, strict=True):
            assert torch.equal(result, expected)


def test_documents_of_a_long_row_are_kept_apart_without_a_mask_of_all_pairs(monkeypatch):
    monkeypatch.setattr(gated, "LONG", 256)
    monkeypatch.setattr(gated, "QUERIES", 64)
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 16, "attention_key_size": 8}
    model = models.GAUAlphaModel(models.GAUAlphaConfig(**sizes, **NO_DROPOUT, num_hidden_layers=2)).train()
    numbers = (1 + torch.arange(512) // 100).view(1, 1, 512)
    for mask, largest in ((numbers, 512 * 64), (numbers.mT == numbers, 512 * 512)):
        with Largest() as mode:
            model(torch.ones(1, 512, dtype=torch.int64), mask).last_hidden_state.square().sum().backward()
        assert mode.numbers == largest


SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "max_position_embeddings": 40}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GAU = SIZES | NO_DROPOUT | {"intermediate_size": 48, "attention_key_size": 16}
CASES = {
    "gau_alpha": ("GAUAlpha", OriginalGAUAlpha, GAU),
    "gau_alpha_squared_relu": ("GAUAlpha", OriginalGAUAlpha, GAU | {"normalization": "squared_relu"}),
    "gau_alpha_softmax": ("GAUAlpha", OriginalGAUAlpha, GAU | {"normalization": "softmax"}),
    "flash_quad": ("FLASHQuad", OriginalFLASHQuad, SIZES | {"s": 16}),
}
for option in ("", "causal", "shift_tokens", "laplace_attn_fn", "reduce_group_non_causal_attn"):
    fields = SIZES | {"query_key_dim": 40, "group_size": 8}
    CASES[f"flash_{option}"] = ("FLASH", OriginalFLASH, fields | ({option: option[:6] != "reduce"} if option else {}))


# Parameters of the originals that ours lack: FLASHQuad's vectors a and b enter nothing, the frequencies are constants.
NOT_OURS = {
    "GAUAlpha": (),
    "FLASHQuad": ("flash_quad.encoder.layer.{}.a", "flash_quad.encoder.layer.{}.b"),
    "FLASH": ("flash.encoder.layers.{}.rotary_pos_emb.freqs",),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_autograd_through_the_originals_way(case):
    family, original_class, config_fields = CASES[case]
    config = getattr(models, f"{family}Config")(**config_fields)
    torch.manual_seed(0)
    ours = getattr(models, f"{family}ForMaskedLM")(config).train()
    original = original_class(config).train()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    mine, theirs = dict(ours.named_parameters()), dict(original.named_parameters())
    assert theirs.keys() - mine.keys() == {name.format(layer) for name in NOT_OURS[family] for layer in range(3)}
    with torch.no_grad():
        for name, parameter in mine.items():
            theirs[name].copy_(parameter)
    ids = torch.randint(1, 60, (3, 21))
    mask = (torch.arange(21) < torch.tensor([[21], [17], [4]])).long()
    labels = torch.where((torch.arange(21) % 4 == 1) & mask.bool(), ids, -100)
    loss, expected = ours(ids, mask, labels=labels).loss, original(ids, mask, labels=labels)["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-3, msg=name)
    ours.zero_grad()
    positions = (labels != -100).long().argsort(dim=1, descending=True, stable=True)[:, :6]
    positions = positions.where(labels.gather(1, positions) != -100, 0)
    ours(ids, mask, labels=labels, masked_positions=positions).loss.backward()
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-3, msg=f"{name}, positions")


def dropped(variant):
    """Config fields that switch every dropout on."""
    return {"dropout": 0.2} if variant.startswith("flash") else dict.fromkeys(DROPOUTS, 0.2)


DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
# Distance of outputs and of gradients, relative to their own length: sums in another order, and roundings elsewhere.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture
def calls(monkeypatch):
    """Names of the functions with a backward pass written by hand, as they are called."""
    calls = []
    for function in (GatedAttention, MixedChunkAttention):

        def record(*inputs, apply=function.apply):
            calls.append(apply)
            return apply(*inputs)

        monkeypatch.setattr(function, "apply", record)
    return calls


def outputs_and_gradients(model, inputs, dtype):
    """Hidden states and all gradients of a weighted sum of them, each in one vector, under always the same dropout."""
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        hidden = model(**inputs).last_hidden_state.float().flatten()
    gradients = torch.autograd.grad(hidden @ torch.linspace(-1, 1, len(hidden)), list(model.parameters()))
    return hidden, torch.cat([gradient.flatten() for gradient in gradients])


@EVERY
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_training_is_what_the_plain_formula_gives(variant, dtype, calls):
    model = make(variant, "Model", **dropped(variant)).train()
    ids, mask = batch((21, 17, 4), 21)
    pairs = mask.unsqueeze(1) * torch.ones(21, 21).tril()
    every = {"input_ids": ids, "attention_mask": pairs if model.takes_pair_masks else mask}
    some = every | {"output_positions": torch.tensor([[3, 0, 11, 3], [6, 5, 0, 0], [1, 2, 0, 0]])}
    for inputs in (every, some):
        calls.clear()
        model.set_attn_implementation("sdpa")
        fast = outputs_and_gradients(model, inputs, dtype)
        assert len(calls) == 2
        model.set_attn_implementation("eager")
        plain = outputs_and_gradients(model, inputs, dtype)
        assert len(calls) == 2, "eager is the plain formula"
        for result, expected in zip(fast, plain, strict=True):
            assert (result - expected).norm() <= TOLERANCES[dtype] * expected.norm()


@EVERY
def test_the_plain_formula_is_what_evaluation_export_attentions_and_wrapped_layers_run(variant, calls):
    model = make(variant, "Model")
    ids, mask = batch()
    with torch.no_grad():
        expected = model(ids, mask).last_hidden_state
        exported = torch.export.export(model, (ids, mask), strict=False).module()
        torch.testing.assert_close(exported(ids, mask).last_hidden_state, expected)
    torch.testing.assert_close(model(ids, mask).last_hidden_state, expected)
    model.train()
    torch.testing.assert_close(model(ids, mask, output_attentions=True).last_hidden_state, expected)
    layer = model.layers[0]
    linears = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]
    for linear in linears:
        shapes = []
        handle = linear.register_forward_hook(
            lambda module, inputs, output, shapes=shapes: shapes.append(output.shape)
        )
        before = len(calls)
        torch.testing.assert_close(model(ids, mask).last_hidden_state, expected, atol=1e-5, rtol=1e-4)
        assert shapes and len(calls) == before + 1, "the other layer alone is fast"
        handle.remove()
    assert len(calls) == len(linears) and len(linears) in (2, 3)


@pytest.mark.parametrize("case", ["gau_alpha", "flash_quad", "flash_"])
def test_a_layer_keeps_little_for_the_backward_pass(case):
    """Per token and layer: the projection, A v, A and three of width H; no second copy of anything wide."""
    family, _, _ = CASES[case]
    width, length = 64, 32
    fields = {"vocab_size": 20, "hidden_size": width, "num_hidden_layers": 4, "max_position_embeddings": length}
    fields |= {"group_size": length} if family == "FLASH" else NO_DROPOUT if family == "GAUAlpha" else {}
    fields |= {"GAUAlpha": {"intermediate_size": 2 * width, "attention_key_size": 16}, "FLASHQuad": {"s": 16}}.get(
        family, {"query_key_dim": 16}
    )
    model = getattr(models, f"{family}Model")(getattr(models, f"{family}Config")(**fields)).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def remember(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(1, 20, (4, length))
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = model(ids, torch.ones_like(ids))[0]
    floats = sum(kept.values()) / 4 / (4 * length) / 4
    allowed = (4 * width + 16) + 2 * width + length + 3 * width
    assert floats < allowed, (floats, allowed)
    assert F.mse_loss(output, output) == 0
