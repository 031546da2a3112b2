"""lucidrains/FLASH-pytorch: its logits, and its state dict both ways."""

import json

import pytest
import torch

import models
from convert_checkpoint import main
from tests.checkpoints import assert_equal


@pytest.mark.parametrize("case", ["causal", "shift_tokens", "causal_shift_tokens", "laplace_attn_fn"])
def test_lucidrains_weights_give_lucidrains_logits(lucidrains, tmp_path, case):
    state, cases = lucidrains()
    expected = cases[f"lucidrains_{case}"]
    torch.save(state, tmp_path / "flash.pt")
    fields = {"group_size": 16, "shift_tokens": False} | expected["config_overrides"]
    main(["--config", json.dumps(fields), str(tmp_path / "flash.pt"), str(tmp_path / "ours")])
    model = models.FLASHForMaskedLM.from_pretrained(tmp_path / "ours")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        logits = model(expected["input_ids"], attention_mask=expected["attention_mask"]).logits
    torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_lucidrains_converts_both_ways_bit_for_bit(lucidrains, tmp_path, tied):
    state, _ = lucidrains(tied)
    torch.save(state, tmp_path / "flash.pt")
    (tmp_path / "fields.json").write_text('{"group_size": 16}', encoding="utf-8")
    main(["--config", str(tmp_path / "fields.json"), str(tmp_path / "flash.pt"), str(tmp_path / "ours")])
    model = models.FLASHForMaskedLM.from_pretrained(tmp_path / "ours")
    assert model.config.tie_word_embeddings is tied
    assert model.config.shift_tokens  # FLASHTransformer's default
    assert torch.equal(model.get_output_embeddings().weight, state["to_logits.1.weight"])
    main(["--reverse", "--source", "lucidrains_flash", str(tmp_path / "ours"), str(tmp_path / "back.pt")])
    assert_equal(torch.load(tmp_path / "back.pt", weights_only=True), state)
