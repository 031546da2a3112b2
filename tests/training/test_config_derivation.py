"""Configs of new models: what follows from what is given does so when that is changed."""

import pytest
from transformers import BertTokenizer, MistralConfig

from training.arguments import ModelArguments
from training.model_setup import make_config

TINY = "hidden_size=64,num_attention_heads=4,num_hidden_layers=2,intermediate_size=64"


@pytest.fixture(scope="module")
def tokenizer(bert_folder):
    return BertTokenizer.from_pretrained(bert_folder())


def arguments(kind, overrides, **more):
    return ModelArguments(tokenizer_name="", model_type=kind, config_overrides=overrides, **more)


@pytest.mark.parametrize(
    "kind, overrides, width",
    [
        ("transformer_xl", "hidden_size=32,num_attention_heads=4", 128),
        ("transformer_xl", "hidden_size=32,num_attention_heads=4,intermediate_size=48", 48),
        ("transformer_xl", "num_hidden_layers=2", 4 * 2560),
        ("bert", "hidden_size=36", 3072),
    ],
)
def test_a_width_that_follows_from_another_one_does_so_when_that_is_changed(tokenizer, kind, overrides, width):
    assert make_config(arguments(kind, overrides), tokenizer).intermediate_size == width


@pytest.mark.parametrize(
    ("kind", "overrides", "expected"),
    [
        ("llama", TINY, {"head_dim": 16, "num_key_value_heads": 4}),
        ("llama", TINY + ",head_dim=8,num_key_value_heads=2", {"head_dim": 8, "num_key_value_heads": 2}),
        ("mistral", TINY, {"head_dim": 16, "num_key_value_heads": 1}),
        ("qwen2", TINY, {"num_key_value_heads": 4, "layer_types": ["full_attention"] * 2}),
        ("modernbert", TINY, {"layer_types": ["full_attention", "sliding_attention"]}),
        ("gemma2", TINY, {"layer_types": ["sliding_attention", "full_attention"]}),
        (
            "gpt_neo",
            'num_layers=2,attention_types=[[["global","local"],1]]',
            {"attention_layers": ["global", "local"]},
        ),
    ],
)
def test_fields_that_follow_from_the_given_ones_do_so(tokenizer, kind, overrides, expected):
    config = make_config(arguments(kind, overrides), tokenizer)
    assert {name: getattr(config, name) for name in expected} == expected
    assert (config.vocab_size, config.pad_token_id) == (len(tokenizer), tokenizer.pad_token_id)


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("3", 3), ("2.0", 2.0)])
def test_a_field_with_a_whole_default_takes_the_fractions_that_it_declares(tokenizer, text, value):
    config = make_config(arguments("flash_quad", f"expansion_factor={text},hidden_size=32,s=8"), tokenizer)
    assert config.expansion_factor == value and type(config.expansion_factor) is type(value)


def test_fields_follow_in_a_config_of_a_file_too_and_others_stay(tokenizer, tmp_path):
    MistralConfig(hidden_size=96, num_attention_heads=6, num_key_value_heads=2, sliding_window=7).save_pretrained(
        tmp_path
    )
    config = make_config(arguments(None, "num_attention_heads=3", config_name=str(tmp_path)), tokenizer)
    assert (config.head_dim, config.num_key_value_heads, config.sliding_window) == (32, 1, 7)
    assert make_config(arguments(None, None, config_name=str(tmp_path)), tokenizer).head_dim == 16
