"""Attention in a causal window: masks, memory and cache, through the model that uses them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import DynamicCache

from models.relative import ROWS, Shift, attend, make_band, relative_table
from tests.models.small_models import close, make_xl


def test_positions_in_float32_differ_from_those_in_float16():
    exact, rounded = (relative_table(768, 64, dtype, torch.device("cpu")) for dtype in ("float32", "float16"))
    assert 0.05 < (exact - rounded).abs().max() < 0.5


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 2 * ROWS), min_size=1, max_size=6), st.sampled_from([1, 2, 12, 300]), st.booleans())
@torch.no_grad()
def test_a_text_gives_the_same_however_it_is_cut(pieces, window, with_memory):
    model = make_xl(attention_window=window, mem_len=max(window - 1, 1))
    ids = torch.randint(0, 49, (1, sum(pieces)), generator=torch.Generator().manual_seed(len(pieces)))
    whole = model(ids, use_cache=False).logits
    parts, memory = [], None
    for piece in ids.split(pieces, dim=1):
        given_memory = {"mems": memory, "output_mems": True} if with_memory else {"cache": memory}
        outputs = model(piece, **given_memory)
        memory = outputs.mems if with_memory else outputs.past_key_values
        parts.append(outputs.logits)
    close(torch.cat(parts, dim=1), whole, 5e-5)


@torch.no_grad()
def test_memory_of_no_length_is_none():
    model = make_xl(mem_len=0)
    outputs = model(torch.arange(9).unsqueeze(0), output_mems=True)
    assert outputs.mems == ()
    close(model(torch.arange(9).unsqueeze(0), mems=outputs.mems).logits, outputs.logits)


@torch.no_grad()
def test_documents_of_one_row_stay_apart_under_a_mask_of_pairs():
    model = make_xl()
    ids = torch.randint(0, 49, (1, 30), generator=torch.Generator().manual_seed(3))
    document = torch.arange(30).unsqueeze(0) // 10
    mask = document.unsqueeze(-1) == document.unsqueeze(-2)
    packed = model(ids, attention_mask=mask).logits
    apart = torch.cat([model(piece).logits for piece in ids.split(10, dim=1)], dim=1)
    close(packed, apart)
    # With memory, columns in excess on the left are cut off: a first segment has no memory yet.
    wide = F.pad(mask, (5, 0))
    close(model(ids, attention_mask=wide).logits, packed)


@torch.no_grad()
def test_a_document_mask_hides_the_memory():
    model = make_xl(mem_len=11)
    ids = torch.randint(0, 49, (2, 20), generator=torch.Generator().manual_seed(4))
    memory = model(ids, output_mems=True).mems
    hidden = F.pad(torch.ones(2, 20, 20), (11, 0))
    close(model(ids, mems=memory, attention_mask=hidden).logits, model(ids).logits)
    assert (model(ids, mems=memory).logits - model(ids).logits).abs().max() > 1e-2


def test_no_token_sees_a_later_one_or_one_beyond_the_window():
    model = make_xl(num_hidden_layers=1)
    embeds = torch.randn(1, 40, 24, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(inputs_embeds=embeds).logits[0, 25].sum(), embeds)
    seen = gradient[0].abs().sum(-1) > 0
    assert seen.nonzero().flatten().tolist() == list(range(14, 26))


@pytest.mark.parametrize("distances", [5, 6, 8, 9])
def test_shift_has_the_gradient_of_its_definition(distances):
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 5, distances, dtype=torch.float64, requires_grad=True)
    apart = torch.arange(5).unsqueeze(-1) + 4 - torch.arange(9)
    visible = (apart >= 0) & (apart < distances)

    def masked(x):
        return torch.where(visible, Shift.apply(x, 9), 0.0)

    columns = (distances - 1 - apart).clamp(0, distances - 1)
    expected = torch.where(visible, scores.gather(-1, columns.expand(2, 3, 5, 9)), 0.0)
    assert torch.equal(masked(scores), expected)
    torch.autograd.gradcheck(masked, scores)


@pytest.mark.parametrize("remembered", [0, 256, 300, 511])
@pytest.mark.parametrize("length", [1, 7, 512, 600])
def test_scores_have_aligned_columns(length, remembered):
    band = make_band(length, remembered, 512, None, torch.device("cpu"))
    for block in band.blocks:
        columns, first = block.keys.stop - block.keys.start, remembered + block.queries.start
        seen = min(512, first + 1)
        assert block.keys.start <= first + 1 - seen, "no key that is seen is left out"
        assert block.keys.start > first - 512 - 8 or not block.keys.start, "no more than an alignment too many"
        assert first - block.keys.start < block.distances <= min(columns, band.longest)
        assert block.distances >= min(512, columns)
        if block.keys.start and length > 1:
            assert columns % 8 == 0 and (block.distances % 8 == 0 or block.distances == columns)
    if (length, remembered) == (512, 256):
        assert [(block.keys, block.distances) for block in band.blocks] == [
            (slice(0, 512), 512),
            (slice(0, 768), 520),
        ]


def one_by_one(queries, keys, values, relative, biases, band, rate):
    """`attend` as the paper writes it: the score of each distance at each key, in one matrix of all keys."""
    (u, v), length, total = (bias.unsqueeze(1) for bias in biases), queries.shape[2], keys.shape[2]
    apart = torch.arange(length).unsqueeze(-1) + total - length - torch.arange(total)
    by_distance = (queries + v) @ relative.flip(2).transpose(-1, -2)
    scores = (queries + u) @ keys.transpose(-1, -2)
    columns = apart.clamp(0, relative.shape[2] - 1).expand(*scores.shape)
    scores = (scores + by_distance.gather(-1, columns)) * queries.shape[-1] ** -0.5
    return scores.masked_fill((apart < 0) | (apart >= 512), -torch.inf).softmax(-1) @ values


def test_blocks_of_aligned_columns_are_the_formula():
    torch.manual_seed(0)
    shapes = {"queries": 512, "keys": 768, "values": 768}
    tensors = [torch.randn(2, 2, rows, 8, requires_grad=True) for rows in shapes.values()]
    tensors += [torch.randn(1, 2, 767, 8, requires_grad=True), torch.randn(2, 2, 8, requires_grad=True)]
    band = make_band(512, 256, 512, None, torch.device("cpu"))
    results = []
    for function in (attend, one_by_one):
        output = function(*tensors, band, 0.0)
        weight = torch.linspace(-1, 1, output.numel()).view_as(output)
        results.append((output, *torch.autograd.grad((output * weight).sum(), tensors)))
    for result, expected in zip(*results, strict=True):
        assert (result - expected).norm() <= 1e-6 * expected.norm()


def test_a_cache_goes_by_its_two_names_and_not_through_a_checkpointed_layer():
    model, ids = make_xl(), torch.arange(9).unsqueeze(0)
    cache = DynamicCache()
    with torch.no_grad():
        model(ids[:, :5], cache=cache)
        logits = model(ids[:, 5:], past_key_values=cache).logits
        close(logits, model(ids, use_cache=False).logits[:, 5:], 5e-5)
    with pytest.raises(ValueError, match="two names of one argument"):
        model(ids, cache=cache, past_key_values=cache)
    model.train()
    model.activation_checkpointing_enable()
    model(ids, labels=ids, use_cache=True).loss.backward()  # the second forward of a layer must not fill it twice
    outputs = model(ids, use_cache=True)
    assert outputs.past_key_values.get_seq_length() == 0


@torch.no_grad()
def test_the_memory_is_projected_once_per_token():
    """In decoding each layer projects one token, whatever lies in the cache; relative keys are made once."""
    model, rows = make_xl(), []
    attention = model.model.layers[0].attn
    for name in ("k_proj", "r_proj"):
        layer = getattr(attention, name)
        layer.register_forward_hook(lambda _, inputs, out, name=name: rows.append((name, inputs[0].shape[1])))
    model.generate(torch.arange(30).unsqueeze(0), max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert [row for row in rows if row[0] == "k_proj"] == [("k_proj", 30)] + [("k_proj", 1)] * 4
    assert len([row for row in rows if row[0] == "r_proj"]) == 1


@torch.no_grad()
def test_a_cache_that_another_model_filled_is_refused():
    cache = DynamicCache()
    cache.update(torch.ones(1, 4, 3, 6), torch.ones(1, 4, 3, 6), 0)
    with pytest.raises(ValueError, match="cache must be an empty DynamicCache"):
        make_xl()(torch.ones(1, 1, dtype=int), past_key_values=cache)
