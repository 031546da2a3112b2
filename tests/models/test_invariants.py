"""What every encoder and every head keeps, whatever its options."""

import pytest
import torch
from torch.nn import functional as F

import models
from models.layers import toeplitz
from tests.models.small_encoders import EVERY, EVERY_HEAD, HEADS, VARIANTS, batch, head_inputs, make
from training.model_setup import own_memory


@EVERY
def test_padding_never_changes_real_positions(variant):
    model = make(variant, "Model")
    ids, mask = batch()
    with torch.no_grad():
        alone = [model(ids[i : i + 1, :n], mask[i : i + 1, :n])[0][0] for i, n in enumerate((12, 7, 3))]
        for more in (0, 1, 5, 23):
            padded = model(F.pad(ids, (0, more)), F.pad(mask, (0, more)))[0]
            other = model(F.pad(ids, (0, more), value=9).where(F.pad(mask, (0, more)) > 0, 9), F.pad(mask, (0, more)))[
                0
            ]
            for i, n in enumerate((12, 7, 3)):
                # Products of other shapes round otherwise, and by how much is the processor's affair.
                torch.testing.assert_close(padded[i, :n], alone[i], atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(other[i, :n], alone[i], atol=1e-4, rtol=1e-4)


def test_flash_length_divisor_counts_padding_as_the_original_does():
    model = make("flash", "Model", linear_divisor="length")
    ids, mask = batch()
    with torch.no_grad():
        short, long = model(ids, mask)[0], model(F.pad(ids, (0, 20)), F.pad(mask, (0, 20)))[0]
    assert (short[0] - long[0, :12]).abs().max() > 0.01


@pytest.mark.parametrize("variant", ["gau", "gau_squared_relu", "flash_quad"])
def test_pads_are_masked_when_no_mask_is_given(variant):
    model = make(variant, "Model")
    ids, mask = batch()
    with torch.no_grad():
        assert torch.equal(model(ids)[0], model(ids, mask)[0])


@EVERY
@pytest.mark.parametrize("length", [1, 2, 8, 9, 16, 17, 50])
def test_any_length(variant, length):
    """Beyond the table of 16 positions, and around multiples of FLASH's group of 8."""
    model = make(variant)
    ids, mask = batch((length,), length)
    with torch.no_grad():
        logits = model(ids, mask).logits
    assert logits.shape == (1, length, 50)
    assert torch.isfinite(logits).all()


def test_flash_quad_repeats_the_end_entries_of_its_bias_beyond_the_table():
    layer = make("flash_quad").flash_quad.encoder["layer"][0]
    bias = toeplitz(layer.distances(40))
    for i, j in ((0, 0), (0, 15), (15, 0), (20, 10), (0, 39), (39, 0), (5, 25)):
        assert bias[i, j] == layer.w[min(max(j - i, -15), 15) + 15]


def test_flash_quad_divides_by_the_table_length_at_any_length():
    model = make("flash_quad", "Model")
    ids, mask = batch((30,), 30)
    layer = model.encoder["layer"][0]
    with torch.no_grad():
        outputs = model(ids, mask, output_attentions=True, output_hidden_states=True)
        x = layer.LayerNorm(outputs.hidden_states[0])
        base = F.silu(layer.uv(x))[..., -8:]
        frequencies = 10000 ** (-torch.arange(4) / 4)
        turn = torch.polar(torch.ones(30, 4), torch.arange(30.0)[:, None] * frequencies)
        q, k = (
            torch.complex(*(base * w + b).chunk(2, -1)) * turn for w, b in zip(layer.weight, layer.bias, strict=True)
        )
        expected = F.relu((q @ k.mH).real / 16 + toeplitz(layer.distances(30))).square()
    torch.testing.assert_close(outputs.attentions[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["gau", "gau_squared_relu", "gau_softmax_bias", "flash_quad"])
def test_a_causal_3d_mask_hides_the_future(variant):
    model = make(variant, "Model")
    ids, mask = batch((12, 12, 12))
    causal = torch.ones(12, 12).tril().expand(3, -1, -1)
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 7) % 49 + 1
    with torch.no_grad():
        before, after = model(ids, causal)[0], model(changed, causal)[0]
        assert torch.equal(before[:, :6], after[:, :6])
        assert (before[:, 6:] - after[:, 6:]).abs().max() > 1e-3
        assert (model(ids, mask)[0] - before).abs().max() > 1e-3


@pytest.mark.parametrize("variant", ["gau", "gau_squared_relu", "flash_quad"])
def test_a_block_mask_with_restarting_positions_isolates_packed_rows(variant):
    model = make(variant, "Model")
    ids, _ = batch((5, 7))
    packed = torch.cat((ids[0, :5], ids[1, :7])).unsqueeze(0)
    block = torch.block_diag(torch.ones(5, 5), torch.ones(7, 7)).unsqueeze(0)
    positions = torch.cat((torch.arange(5), torch.arange(7))).unsqueeze(0)
    with torch.no_grad():
        together = model(packed, block, position_ids=positions)[0][0]
        for part, row, n in ((together[:5], 0, 5), (together[5:], 1, 7)):
            torch.testing.assert_close(part, model(ids[row : row + 1, :n])[0][0], atol=2e-5, rtol=2e-5)


def test_causal_flash_hides_the_future():
    model = make("flash_causal", "Model")
    ids, mask = batch((20, 20), 20)
    changed = ids.clone()
    changed[:, 11:] = (changed[:, 11:] + 7) % 49 + 1
    with torch.no_grad():
        before, after = model(ids, mask)[0], model(changed, mask)[0]
    assert torch.equal(before[:, :11], after[:, :11])
    assert (before[:, 11:] - after[:, 11:]).abs().max() > 1e-3


@EVERY
def test_masked_positions_give_the_full_loss_logits_and_gradients(variant):
    model = make(variant)
    ids, mask = batch()
    inputs = head_inputs("ForMaskedLM", ids, mask)
    counts = (inputs["labels"] != -100).sum(-1)
    positions = torch.zeros(3, int(counts.max()), dtype=torch.long)
    for row, count in enumerate(counts):
        positions[row, :count] = (inputs["labels"][row] != -100).nonzero().squeeze(-1)
    full = model(**inputs)
    gathered = model(**inputs, masked_positions=positions)
    assert full.logits.shape == (3, 12, 50)
    expected = full.logits.gather(1, positions.unsqueeze(-1).expand(-1, -1, 50))
    torch.testing.assert_close(gathered.logits, expected)
    torch.testing.assert_close(gathered.loss, full.loss)
    reference = F.cross_entropy(full.logits.flatten(0, 1), inputs["labels"].flatten())
    torch.testing.assert_close(full.loss, reference)
    trained = model.train()(**inputs)
    assert trained.logits.shape == (int(counts.sum()), 50)
    torch.testing.assert_close(trained.loss, full.loss)
    wanted = torch.autograd.grad(full.loss, list(model.parameters()))
    for loss in (gathered.loss, trained.loss):
        for result, gradient in zip(torch.autograd.grad(loss, list(model.parameters())), wanted, strict=True):
            torch.testing.assert_close(result, gradient, atol=1e-5, rtol=1e-4)


@EVERY
def test_the_last_layer_may_work_at_some_positions_only(variant):
    model = make(variant, "Model")
    ids, mask = batch()
    positions = torch.tensor([[3, 0, 11, 3], [6, 5, 0, 0], [1, 2, 0, 0]])
    causal = torch.ones(12, 12).tril().expand(3, -1, -1) * mask.unsqueeze(1)
    for seen in (mask,) if VARIANTS[variant][0] == "FLASH" else (mask, causal):
        whole, some = model(ids, seen)[0], model(ids, seen, output_positions=positions)[0]
        torch.testing.assert_close(some, whole.gather(1, positions.unsqueeze(-1).expand(-1, -1, 24)))
        outputs = model(ids, seen, output_positions=positions, output_hidden_states=True)
        torch.testing.assert_close(outputs[0], some)
        assert torch.equal(outputs.hidden_states[-1], whole)


@EVERY
def test_no_label_gives_loss_zero_and_no_nan(variant):
    model = make(variant).train()
    ids, mask = batch()
    nothing = torch.full_like(ids, -100)
    for extra in ({}, {"masked_positions": torch.zeros(3, 1, dtype=torch.long)}):
        loss = model(ids, mask, labels=nothing, **extra).loss
        loss.backward()
        assert loss.item() == 0
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@EVERY
@EVERY_HEAD
def test_every_head_trains_every_parameter(variant, ending):
    model = make(variant, ending).train()
    ids, mask = batch()
    outputs = model(**head_inputs(ending, ids, mask), token_type_ids=None)
    outputs.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@EVERY
@EVERY_HEAD
def test_every_head_survives_save_and_load(variant, ending, tmp_path):
    model = make(variant, ending)
    ids, mask = batch()
    inputs = head_inputs(ending, ids, mask)
    model.save_pretrained(tmp_path)
    again = own_memory(type(model).from_pretrained(tmp_path))
    with torch.no_grad():
        for result, expected in zip(again(**inputs).to_tuple(), model(**inputs).to_tuple(), strict=True):
            assert torch.equal(result, expected)
        assert isinstance(model(**inputs, return_dict=False), tuple)


@EVERY
def test_embeddings_are_tied_before_and_after_loading(variant, tmp_path):
    model = make(variant)
    model.save_pretrained(tmp_path)
    for tied in (model, type(model).from_pretrained(tmp_path)):
        assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    untied = make(variant, tie_word_embeddings=False)
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight
    untied.save_pretrained(tmp_path / "untied")
    again = type(untied).from_pretrained(tmp_path / "untied")
    ids, mask = batch()
    assert torch.equal(again(ids, mask).logits, untied(ids, mask).logits)


@EVERY
def test_resized_embeddings_keep_the_ties(variant, tmp_path):
    model = make(variant)
    model.resize_token_embeddings(60)
    ids, mask = batch()
    assert model(ids, mask).logits.shape[-1] == 60
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(ids, mask).logits, model(ids, mask).logits)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_half_precision_is_finite_and_near(variant, dtype, how):
    model = make(variant, strong=False).train()
    ids, mask = batch((60, 33, 1), 60)
    mask[2] = 0  # a row in which nothing may be seen
    inputs = head_inputs("ForMaskedLM", ids, mask)
    exact = model(**inputs).loss
    if how == "weights":
        model.to(dtype)
    with torch.autocast("cpu", dtype, enabled=how == "autocast"):
        outputs = model(**inputs)
        loss = outputs.loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(outputs.logits).all()
    assert abs(loss.item() - exact.item()) < 0.1
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("variant", ["gau", "flash_quad", "flash"])
def test_rotary_stays_exact_in_bfloat16(variant):
    """A whole model in bf16 differs from fp32 by rounding, not by wrong angles at far positions."""
    model = make(variant, "Model", strong=False)
    ids, mask = batch((512,), 512)
    with torch.no_grad():
        exact = model(ids, mask)[0]
        rounded = model.bfloat16()(ids, mask)[0].float()
    assert (exact - rounded).norm() / exact.norm() < 0.02


@EVERY
def test_gradient_checkpointing_gives_equal_gradients(variant):
    ids, mask = batch()
    inputs = head_inputs("ForMaskedLM", ids, mask)
    model = make(variant).train()
    gradients = {}
    for checkpointed in (False, True):
        if checkpointed:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients[checkpointed] = [parameter.grad.clone() for parameter in model.parameters()]
    for plain, recomputed in zip(gradients[False], gradients[True], strict=True):
        torch.testing.assert_close(plain, recomputed)


@EVERY
def test_hidden_states_and_attentions_are_returned_on_request(variant):
    model = make(variant, "Model")
    ids, mask = batch()
    outputs = model(ids, mask, output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == 3
    assert len(outputs.attentions) == 2
    assert outputs.hidden_states[-1] is outputs.last_hidden_state
    assert model(ids, mask).attentions is None
    embeds = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds, attention_mask=mask)[0], outputs.last_hidden_state)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(ids, mask, inputs_embeds=embeds)


@EVERY
def test_dropout_acts_in_training_only(variant):
    fields = {"gau": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}}
    model = make(variant, "Model", **fields["gau"] if variant.startswith("gau") else {"dropout": 0.3})
    ids, mask = batch()
    assert torch.equal(model(ids, mask)[0], model(ids, mask)[0])
    model.train()
    assert not torch.equal(model(ids, mask)[0], model(ids, mask)[0])


DECAYED_VECTORS = {
    # The originals decay these scalars and vectors too; `*norm*` and `*bias*` names are spared.
    "GAUAlpha": {"q_scaleoffset.weight", "k_scaleoffset.weight"},
    "FLASHQuad": {"scaledsin_scalar", "w", "weight"},
    "FLASH": {"embeddings.scale", "qk_offset_scale.weight"},
}


@EVERY
def test_trainer_decays_matrices_and_spares_norms_and_biases(variant):
    from transformers.trainer_pt_utils import get_parameter_names

    family, _ = VARIANTS[variant]
    model = make(variant)
    patterns = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]  # Trainer's own
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], patterns))
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() == 2 and "bias" not in name
        listed = any(name.endswith(f".{ending}") for ending in DECAYED_VECTORS[family] if ending != "weight")
        assert (name in decayed) == (matrix or listed), name


@pytest.mark.parametrize(
    ("family", "field"),
    [
        ("GAUAlpha", {"normalization": "sparsemax"}),
        ("GAUAlpha", {"embedding_size": 8}),
        ("FLASH", {"norm_type": "rms"}),
        ("FLASH", {"linear_divisor": "n"}),
    ],
)
def test_wrong_config_fields_are_named(family, field):
    with pytest.raises(ValueError, match=f"config field {next(iter(field))} must"):
        getattr(models, f"{family}Config")(**field)


def test_a_mask_of_wrong_shape_is_named():
    ids, mask = batch()
    with pytest.raises(ValueError, match="attention_mask must have shape"):
        make("gau")(ids, mask[:, None, None])


def test_forwards_take_no_keyword_dictionary():
    import inspect

    for family in ("GAUAlpha", "FLASHQuad", "FLASH"):
        for ending in ("Model", *HEADS):
            parameters = inspect.signature(getattr(models, family + ending).forward).parameters.values()
            assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters)


@pytest.mark.parametrize(
    ("labels", "num_labels", "kind"),
    [
        (torch.tensor([0, 2, 1]), 3, F.cross_entropy),
        (torch.tensor([0.5, -1.0, 2.0]), 1, lambda logits, labels: F.mse_loss(logits.squeeze(-1), labels)),
        (torch.tensor([[1.0, 0, 1]] * 3), 3, F.binary_cross_entropy_with_logits),
    ],
)
def test_sequence_classification_infers_its_loss(labels, num_labels, kind):
    model = make("gau", "ForSequenceClassification", num_labels=num_labels)
    ids, mask = batch()
    outputs = model(ids, mask, labels=labels)
    torch.testing.assert_close(outputs.loss, kind(outputs.logits, labels))
