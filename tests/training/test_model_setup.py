"""Models of a run: what follows for a new one from what is given; what cannot work is told in a line before a run."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    BertTokenizer,
    GPT2Config,
)

from common.errors import ArgumentError
from models import GAUAlphaConfig
from models.base import AUTO_CLASSES
from models.stock import accept_our_inputs
from tests.models.families import EVERY_CASE, make
from training.arguments import ModelArguments
from training.config_derivation import check_first_pass
from training.model_setup import make_model, read_model, set_embeddings, shard_by_layers
from training.objectives.causal_lm import CausalLanguageModelling
from training.objectives.masked_lm import MaskedLanguageModelling
from training.pretrained import load_config

TINY = "hidden_size=64,num_attention_heads=4,num_hidden_layers=2,intermediate_size=64"


@pytest.fixture(scope="module")
def tokenizer(bert_folder):
    return BertTokenizer.from_pretrained(bert_folder())


def arguments(kind, overrides, **more):
    return ModelArguments(tokenizer_name="", model_type=kind, config_overrides=overrides, **more)


@pytest.mark.parametrize("kind", ["modernbert", "roformer", "deberta-v2", "convbert", "mpnet"])
def test_a_small_masked_lm_of_any_type_takes_a_first_step(tokenizer, kind):
    model = accept_our_inputs(make_model(AutoModelForMaskedLM, arguments(kind, TINY), tokenizer)).train()
    state = torch.get_rng_state()
    check_first_pass(model, MaskedLanguageModelling(model, 12, 0.15), TINY)
    assert model.training and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("gptj", "n_embd=64,n_head=4,n_layer=1", "must give a gptj model that can be built and run.*rotary_dim=64"),
        ("cwm", TINY, "among num_key_value_heads=8,"),
        ("ministral", TINY, "must give a ministral model that can be built and run.*among head_dim=null"),
        ("gpt_neo", "num_layers=2,hidden_size=32", "attention_types"),
        ("mamba2", "hidden_size=64", r"num_heads \* head_dim"),
        ("gemma4_assistant", "hidden_size=32", "--model_type gemma4_assistant must have a config of its own"),
        ("llama", "hidden_size=x", "key hidden_size must be like 4096, got 'x'"),
        ("llama", "hidden_size", "hidden_size must be key=value"),
        ("llama", "tie_word_embeddings=maybe", "key tie_word_embeddings must be like False, got 'maybe'"),
        ("gpt2", "n_embd=32,n_layer=1", "hidden_size must be a multiple of num_attention_heads, got 32, 12"),
    ],
)
def test_what_cannot_be_built_or_run_names_the_fields_in_one_line(tokenizer, kind, overrides, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        model = make_model(AutoModelForCausalLM, arguments(kind, overrides), tokenizer)
        CausalLanguageModelling(model, 12).check(model, packed=True, overrides=overrides)
    assert str(caught.value).startswith((f"--config_overrides {overrides}", "--model_type"))
    assert "\n" not in str(caught.value)


def test_a_masked_lm_that_cannot_take_a_step_is_told_before_the_run(tokenizer):
    overrides = "d_model=32,encoder_layers=1,decoder_layers=1,encoder_attention_heads=2,decoder_attention_heads=2"
    model = accept_our_inputs(make_model(AutoModelForMaskedLM, arguments("bart", overrides), tokenizer))
    with pytest.raises(ArgumentError, match="--model_type must be that of an encoder, got bart"):
        check_first_pass(model, MaskedLanguageModelling(model, 12, 0.15), overrides)


def test_an_encoder_alone_gets_a_new_head_to_train_and_no_other(tokenizer, tmp_path, caplog):
    shape = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    encoder = BertModel(BertConfig(vocab_size=len(tokenizer), **shape))
    encoder.save_pretrained(tmp_path)
    args = ModelArguments(tokenizer_name="", model_name_or_path=str(tmp_path))
    model = make_model(AutoModelForMaskedLM, args, tokenizer, new_head=True)
    assert "is a BertModel: its head is new, cls.predictions.bias" in caplog.text
    kept = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("pooler")}
    assert all(torch.equal(tensor, model.bert.state_dict()[name]) for name, tensor in kept.items())
    with pytest.raises(ArgumentError, match=r"all tensors of BertForMaskedLM .* cls\.predictions\.bias first"):
        make_model(AutoModelForMaskedLM, args, tokenizer)
    lacking = {name: tensor for name, tensor in load_file(tmp_path / "model.safetensors").items() if "key" not in name}
    save_file(lacking, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArgumentError, match=r"got 2 of them missing, bert\.encoder\.layer\.0"):
        make_model(AutoModelForMaskedLM, args, tokenizer, new_head=True)


@EVERY_CASE
def test_an_export_that_lost_its_head_is_one_line(family, ending, tmp_path):
    model = make(family, ending)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{model.base_model_prefix}.")}
    assert 0 < len(encoder) < len(tensors)
    save_file(encoder, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = load_config(str(tmp_path), "MODEL")
    auto_class = getattr(transformers, next(auto for auto, name in AUTO_CLASSES.items() if name == ending))
    with pytest.raises(ArgumentError, match=f"MODEL {tmp_path} must hold .* missing") as error:
        read_model(auto_class, config, str(tmp_path), "MODEL", new_head=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config, groups", [(BertConfig, {"BertLayer"}), (GAUAlphaConfig, {"GAUAlphaLayer"}), (GPT2Config, {"GPT2Block"})]
)
def test_shards_are_layers_and_all_else(config, groups):
    """Embeddings and head, which share weights, are no groups of their own, whatever else the class names."""
    auto_class = AutoModelForCausalLM if config is GPT2Config else AutoModelForMaskedLM
    with torch.device("meta"):
        model = auto_class.from_config(config(vocab_size=64, num_hidden_layers=1))
    shard_by_layers(model)
    assert model._no_split_modules == groups
    assert model.get_input_embeddings() is None and model.get_output_embeddings() is None


def test_embeddings_begin_as_large_as_those_that_they_replace(tokenizer):
    model = make_model(
        AutoModelForMaskedLM, arguments("flash_quad", "hidden_size=32,num_hidden_layers=1,s=16"), tokenizer
    )
    weight = model.get_input_embeddings().weight
    before, rng = weight.detach().clone(), np.random.default_rng(0)
    known = np.arange(len(weight)) % 3 == 0
    vectors = rng.standard_normal(weight.shape).astype(np.float32) * known[:, None]
    set_embeddings(model, vectors, known)
    after = model.get_output_embeddings().weight.detach()  # tied
    assert torch.equal(after[~known], before[~known])
    ratio = after[known] / torch.from_numpy(vectors[known])
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(before[known].square().mean().sqrt())))
