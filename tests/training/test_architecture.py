"""Configs of new models."""

import pytest
from transformers import BertTokenizer

from training.architecture import make_config
from training.arguments import ModelArguments


@pytest.mark.parametrize(
    "kind, overrides, width",
    [
        ("transformer_xl", "hidden_size=32,num_attention_heads=4", 128),
        ("transformer_xl", "hidden_size=32,num_attention_heads=4,intermediate_size=48", 48),
        ("transformer_xl", "num_hidden_layers=2", 4 * 2560),
        ("bert", "hidden_size=36", 3072),
    ],
)
def test_a_width_that_follows_from_another_one_does_so_when_that_is_changed(bert_folder, kind, overrides, width):
    folder = bert_folder()
    arguments = ModelArguments(tokenizer_name=str(folder), model_type=kind, config_overrides=overrides)
    config = make_config(arguments, BertTokenizer.from_pretrained(folder))
    assert config.intermediate_size == width
