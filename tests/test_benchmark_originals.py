"""The benchmark's opponents compute what the original programs computed, case by case."""

import pytest
import torch
from transformers import AutoConfig

from benchmarks.originals.flash import OriginalFLASH
from benchmarks.originals.flashquad import OriginalFLASHQuad
from benchmarks.originals.gau_alpha import OriginalGAUAlpha
from benchmarks.originals.transformer_xl import OriginalTransformerXL
from models import TransformerXLConfig

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
            outputs = model(*inputs, output_hidden_states=True, output_attentions=True)
        fields = {
            "logits": outputs["logits"],
            "embedding_output": outputs["hidden_states"][0],
            "hidden_after_layer0": outputs["hidden_states"][1],
            "last_hidden_state": outputs["hidden_states"][-1],
            "attn_layer0": outputs["attentions"][0],
        }
        for field, actual in fields.items():
            if case[field] is not None:
                torch.testing.assert_close(actual, case[field], atol=1e-4, rtol=0, msg=lambda m, c=case: c["name"] + m)
        if case["loss"] is not None:
            assert abs(outputs["loss"].item() - case["loss"]) < 1e-4


@torch.no_grad()
def test_the_original_way_of_transformer_xl_is_the_originals(xl_state, xl_tensors):
    fields = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    for path, mem_len, full in (("", 8, 14), ("seg8_mem4/", 4, 12)):
        model = OriginalTransformerXL(TransformerXLConfig(**fields, mem_len=mem_len, eos_token_id=63)).eval()
        model.load_state_dict(xl_state())
        mask, memories, every = xl_tensors[f"{path}attention_mask_full"][0, 0], (), "" if path else "_all"
        assert mask.shape[1] == full
        for number in range(3):
            logits, memories = model(xl_tensors[f"{path}input_ids{every}/{number}"], memories, mask)
            torch.testing.assert_close(logits, xl_tensors[f"{path}logits{every}/{number}"], atol=1e-5, rtol=0)
            for layer, memory in enumerate(memories):
                expected = xl_tensors[f"{path}mems{every}/{number}/{layer}"]
                torch.testing.assert_close(memory, expected, atol=1e-5, rtol=0)
    model.config.mem_len, memories, start = 13, (), 0
    for step in range(20):
        logits, memories = model(xl_tensors["gen/tokens"][:, start : 5 + step], memories)
        torch.testing.assert_close(logits[:, -1], xl_tensors["gen/step_logits"][:, step], atol=1e-5, rtol=0)
        start = 5 + step
