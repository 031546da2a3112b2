"""What every encoder keeps, whatever its options."""

import pytest
import torch
from torch.nn import functional as F

import models
from tests.models.small_models import EVERY, VARIANTS, batch, head_inputs, make


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
