"""Numbers of the original programs, case by case."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

import models  # noqa: F401  (registers the Auto classes)

TOLERANCE = 1e-4
GAU_ALPHA = """padded_batch padded_batch_no_mask_given token_types_and_labels full_length_64 mask3d_causal_times_pad
    normalization_softmax normalization_squared_relu attention_scale_false"""
FLASH_QUAD = "padded_batch padded_batch_no_mask_given token_types_and_labels full_length_64"
FLASH = """padded_batch_n40_g16 no_mask_given_n40 labels_n40 full_length_64_no_group_padding full_length_64_no_mask
    short_n9_lt_group lucidrains_causal lucidrains_shift_tokens lucidrains_causal_shift_tokens
    lucidrains_reduce_group_non_causal_attn lucidrains_laplace_attn_fn"""
NAMES = {"gau_alpha": GAU_ALPHA.split(), "flash_quad": FLASH_QUAD.split(), "flash": FLASH.split()}


def build(config, state, overrides):
    fields = {key: value for key, value in (config | overrides).items() if key != "model_type"}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(config["model_type"], **fields)).eval()
    own = model.state_dict()
    model.load_state_dict({name: state[name] for name in own})
    return model


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in NAMES for case in NAMES[name]])
def test_agrees_with_the_original(parity, name, case):
    config, state, cases = parity(name)
    expected = next(item for item in cases if item["name"] == case)
    model = build(config, state, expected["config_overrides"])
    with torch.no_grad():
        outputs = model(
            expected["input_ids"],
            attention_mask=expected["attention_mask"],
            token_type_ids=expected["token_type_ids"],
            labels=expected["labels"],
            output_hidden_states=True,
            output_attentions=True,
        )
    close(outputs.logits, expected["logits"])
    if expected["loss"] is not None:
        assert abs(outputs.loss.item() - expected["loss"]) < TOLERANCE
    if expected["last_hidden_state"] is not None:
        close(outputs.hidden_states[-1], expected["last_hidden_state"])
        close(outputs.hidden_states[0], expected["embedding_output"])
        close(outputs.hidden_states[1], expected["hidden_after_layer0"])
    if expected["attn_layer0"] is not None:
        close(outputs.attentions[0], expected["attn_layer0"])


@pytest.mark.parametrize("name", NAMES)
def test_every_case_of_the_fixture_is_run(parity, name):
    assert [case["name"] for case in parity(name)[2]] == NAMES[name]
