"""Attention in a causal window: masks, memory and cache, through the model that uses them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import DynamicCache

from models.relative import ROWS, Shift, relative_table
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


def test_shift_has_the_gradient_of_its_definition():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 5, 9, dtype=torch.float64, requires_grad=True)
    visible = torch.arange(9) <= torch.arange(5).unsqueeze(-1) + 4

    def masked(x):
        return torch.where(visible, Shift.apply(x), 0.0)

    columns = (torch.arange(9) + 4 - torch.arange(5).unsqueeze(-1)).clamp(max=8)
    expected = torch.where(visible, scores.gather(-1, columns.expand(2, 3, 5, 9)), 0.0)
    assert torch.equal(masked(scores), expected)
    torch.autograd.gradcheck(masked, scores)


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
