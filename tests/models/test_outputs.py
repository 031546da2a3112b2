"""What a config says of outputs holds where a call says nothing, as in transformers' own models; in every family."""

import inspect

import pytest
import torch
from transformers import AutoModel, BertConfig

import models
from models.base import AUTO_CLASSES
from models.task_heads import LinearHeadConfig

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 16}
CONFIGS = {
    "GAUAlpha": models.GAUAlphaConfig(intermediate_size=24, attention_key_size=8, **SMALL),
    "FLASHQuad": models.FLASHQuadConfig(s=8, **SMALL),
    "FLASH": models.FLASHConfig(group_size=8, query_key_dim=8, **SMALL),
    "TransformerXL": models.TransformerXLConfig(num_attention_heads=2, eos_token_id=0, pad_token_id=0, **SMALL),
    "LinearHead": LinearHeadConfig(
        encoder=BertConfig(num_attention_heads=2, intermediate_size=24, attn_implementation="eager", **SMALL)
    ),
}
CLASSES = [
    (family, ending)
    for family, config in CONFIGS.items()
    for ending in AUTO_CLASSES.values()
    if ending != "Config" and hasattr(inspect.getmodule(type(config)), family + ending)
]
IDS = torch.arange(2, 26).view(2, 12)


def make(family, ending, folder, **changes):
    """A saved model, loaded with changes of its config."""
    config = CONFIGS[family]
    kind = getattr(inspect.getmodule(type(config)), family + ending)
    kind(config).save_pretrained(folder)
    return kind.from_pretrained(folder, **changes)


def labels(model, ids):
    """Arguments that make the model give a loss, if it has any."""
    names = {name for name in inspect.signature(model.forward).parameters if name.endswith(("labels", "_positions"))}
    if "start_positions" in names:
        return {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 30])}
    name = type(model).__name__
    if "labels" not in names:
        return {}
    whole = name.endswith(("MaskedLM", "CausalLM"))
    return {"labels": ids if whole else ids % 2 if "Token" in name or "PreTraining" in name else torch.tensor([1, 0])}


@pytest.mark.parametrize(("family", "ending"), CLASSES)
def test_outputs_that_the_config_asks_for_are_given(family, ending, tmp_path):
    ids = IDS.unsqueeze(1).expand(2, 3, 12) if ending == "ForMultipleChoice" else IDS
    asked = {"output_hidden_states": True} | ({} if family == "TransformerXL" else {"output_attentions": True})
    model = make(family, ending, tmp_path, **asked).eval()
    outputs = model(ids, **labels(model, ids))
    assert len(outputs.hidden_states) == 3
    assert family == "TransformerXL" or len(outputs.attentions) == 2
    assert ending == "Model" or torch.isfinite(outputs.loss)
    plain = model(ids, **dict.fromkeys(asked, False))
    assert plain.hidden_states is None
    assert getattr(plain, "attentions", None) is None
    as_tuple = model(ids, return_dict=False, **labels(model, ids))
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], outputs[0])
    model.config.return_dict = False
    assert isinstance(model(ids), tuple)


def test_attentions_of_transformer_xl_are_refused(tmp_path):
    model = make("TransformerXL", "ForCausalLM", tmp_path)
    with pytest.raises(ValueError, match="output_attentions must be false"):
        model(IDS, output_attentions=True)
    with pytest.raises(ValueError, match="output_attentions must be false"):
        AutoModel.from_pretrained(tmp_path, output_attentions=True)(IDS)
