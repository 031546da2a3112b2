"""Layer-wise learning rates are google-research/electra's, and those of any encoder with numbered layers."""

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    ElectraForSequenceClassification,
    ModernBertConfig,
)
from transformers import AutoModelForSequenceClassification as AutoClassifier

import models
from common.errors import ArgumentError
from training.loop.layer_decay import factors_of_part, layer_factors, split_by_rate

TINY = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.mark.parametrize(
    "layers, rate, decay, offset, embeddings, first, last",
    [
        (12, 3e-4, 0.8, 2, 1.3194e-5, 1.6493e-5, 1.9200e-4),  # ELECTRA-small
        (12, 3e-4, 0.8, 1, 1.6493e-5, None, 2.4e-4),
        (12, 1e-4, 0.8, 2, 4.3980e-6, 5.4976e-6, 6.4e-5),  # base
        (24, 5e-5, 0.9, 2, 3.2305e-6, 3.5895e-6, 4.05e-5),  # large
    ],
)
def test_rates_are_those_of_the_original(layers, rate, decay, offset, embeddings, first, last):
    model = ElectraForSequenceClassification(
        ElectraConfig(num_hidden_layers=layers, embedding_size=4, max_position_embeddings=8, **TINY)
    )
    factors = layer_factors(model, decay, offset)
    assert factors.keys() == {name for name, _ in model.named_parameters()}
    rates = {name: rate * factor for name, factor in factors.items()}
    for name in ("embeddings.word_embeddings.weight", "embeddings.LayerNorm.bias", "embeddings_project.weight"):
        assert rates[f"electra.{name}"] == pytest.approx(embeddings, rel=1e-4)
    if first is not None:
        assert rates["electra.encoder.layer.0.attention.self.query.weight"] == pytest.approx(first, rel=1e-4)
    assert rates[f"electra.encoder.layer.{layers - 1}.output.dense.weight"] == pytest.approx(last, rel=1e-4)
    assert rates["classifier.dense.weight"] == rates["classifier.out_proj.bias"] == rate


def depths(model):
    """Exponent of each distinct factor, and the names that have it."""
    names_by_depth = {}
    for name, factor in layer_factors(model, 0.5, 1).items():
        names_by_depth.setdefault(round(-torch.tensor(factor).log2().item()), set()).add(name)
    return names_by_depth


def test_every_family_has_layers():
    small = {"hidden_size": 8, "num_hidden_layers": 3, "vocab_size": 20}
    gau = models.GAUAlphaConfig(intermediate_size=8, attention_key_size=4, **small)
    flash = models.FLASHConfig(query_key_dim=32, **small)
    quad = models.FLASHQuadConfig(s=4, **small)
    modern = ModernBertConfig(num_hidden_layers=3, global_attn_every_n_layers=2, pad_token_id=0, **TINY)
    distil = DistilBertConfig(vocab_size=20, dim=8, n_layers=3, n_heads=2, hidden_dim=8)
    for config in (gau, flash, quad, modern, distil):
        model = AutoClassifier.from_config(config)
        names_by_depth = depths(model)
        assert names_by_depth.keys() == {0, 1, 2, 3, 4}, config.model_type
        assert all("embed" in name for name in names_by_depth[4]) and all(
            "classif" in name or "head" in name for name in names_by_depth[0]
        )
    assert any(name.endswith("final_norm.weight") for name in depths(AutoClassifier.from_config(modern))[1])


def test_shared_layers_have_a_single_multiplier_and_a_pooler_stands_above_them():
    model = AlbertForSequenceClassification(
        AlbertConfig(num_hidden_layers=6, embedding_size=4, max_position_embeddings=8, **TINY)
    )
    factors = layer_factors(model, 0.5, 2)
    assert {factor for name, factor in factors.items() if "albert_layer_groups" in name} == {0.25}
    assert factors["albert.embeddings.word_embeddings.weight"] == 0.125
    assert factors["albert.pooler.weight"] == 0.5 and factors["classifier.weight"] == 1


def test_an_encoder_without_layers_is_refused():
    model = nn.Linear(2, 2)
    model.base_model, model.base_model_prefix = nn.Linear(2, 2), "encoder"
    with pytest.raises(ArgumentError, match="--layer_decay"):
        layer_factors(model, 0.8, 1)


def test_groups_are_split_by_rate_and_the_highest_comes_first():
    parameters = [nn.Parameter(torch.ones(number + 1)) for number in range(4)]
    names = {id(parameter): str(number) for number, parameter in enumerate(parameters)}
    groups = [{"params": parameters[:2], "weight_decay": 0.1, "lr": 2.0}, {"params": parameters[2:], "lr": 2.0}]
    split = split_by_rate(groups, names, {"0": 0.25, "2": 0.25, "1": 0.5})
    assert [(group["lr"], len(group["params"])) for group in split] == [(2.0, 1), (1.0, 1), (0.5, 1), (0.5, 1)]
    assert [group.get("weight_decay") for group in split] == [None, 0.1, 0.1, None]


def test_a_part_of_a_joint_model_has_factors_by_the_names_of_the_whole():
    joint = nn.Module()
    config = ElectraConfig(num_hidden_layers=1, embedding_size=8, max_position_embeddings=8, **TINY)
    joint.first, joint.second = (ElectraForSequenceClassification(config) for _ in range(2))
    joint.second.electra.embeddings = joint.first.electra.embeddings
    factors = factors_of_part(joint, joint.second, 0.5, 2)
    assert factors["first.electra.embeddings.word_embeddings.weight"] == 0.125
    assert factors["second.electra.encoder.layer.0.output.dense.weight"] == 0.25
    assert not any("first.electra.encoder" in name for name in factors)
