"""The state dict of another code base that tests of conversion share."""

import pytest
import torch


@pytest.fixture
def lucidrains(parity):
    """The state dict of a FLASHTransformer whose weights are those of the FLASH fixture."""

    def make(tied=True):
        _, state, cases = parity("flash")
        result = {
            "token_emb.weight": state["flash.embeddings.word_embeddings.weight"],
            "abs_pos_emb.scale": state["flash.embeddings.scale"],
            "abs_pos_emb.inv_freq": 1.0 / (10000 ** (torch.arange(0, 32, 2).float() / 32)),
            "to_logits.0.weight": state["cls.predictions.LayerNorm.weight"],
            "to_logits.0.bias": state["cls.predictions.LayerNorm.bias"],
            "to_logits.1.weight": state["cls.predictions.decoder.weight"] + (0 if tied else 1),
            "to_logits.1.bias": state["cls.predictions.decoder.bias"],
        }
        offset_scale = {
            "qk_offset_scale.weight": "qk_offset_scale.gamma",
            "qk_offset_scale.bias": "qk_offset_scale.beta",
        }
        for name, tensor in state.items():
            if name.startswith("flash.encoder."):
                _, _, layer, i, rest = name.split(".", 4)
                result[f"{layer}.{i}.{offset_scale.get(rest, rest)}"] = tensor
        return result, {case["name"]: case for case in cases}

    return make
