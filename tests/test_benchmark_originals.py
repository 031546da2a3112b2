"""The benchmark's opponents compute what the original programs computed, case by case."""

import pytest
import torch
from transformers import AutoConfig

import models  # noqa: F401  (registers the Auto classes)
from benchmarks.originals.flash import OriginalFLASH
from benchmarks.originals.flashquad import OriginalFLASHQuad
from benchmarks.originals.gau_alpha import OriginalGAUAlpha

ORIGINALS = {"gau_alpha": OriginalGAUAlpha, "flash_quad": OriginalFLASHQuad, "flash": OriginalFLASH}


@pytest.mark.parametrize("name", ORIGINALS)
def test_agrees_with_the_original_programs(parity, name):
    config, state, cases = parity(name)
    assert cases
    for case in cases:
        fields = {key: value for key, value in (config | case["config_overrides"]).items() if key != "model_type"}
        model = ORIGINALS[name](AutoConfig.for_model(name, **fields)).eval()
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and all("decoder" in key for key in missing), case["name"]  # tied to the embeddings
        inputs = [case[field] for field in ("input_ids", "attention_mask", "token_type_ids", "labels")]
        with torch.no_grad():
            outputs = model(*inputs, output_all=True)
        found = {
            "logits": outputs["logits"],
            "embedding_output": outputs["hidden_states"][0],
            "hidden_after_layer0": outputs["hidden_states"][1],
            "last_hidden_state": outputs["hidden_states"][-1],
            "attn_layer0": outputs["attentions"][0],
        }
        for field, actual in found.items():
            if case[field] is not None:
                torch.testing.assert_close(actual, case[field], atol=1e-4, rtol=0, msg=lambda m, c=case: c["name"] + m)
        if case["loss"] is not None:
            assert abs(outputs["loss"].item() - case["loss"]) < 1e-4
