"""Parts of a model that somebody wrapped, hooked or parametrised act as in any other model, on every fast path."""

import copy

import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrize

import models
from models.electra.config import ElectraOptions, generator_config
from models.electra.joint_model import new_joint_model
from models.post_norm import use_fast_layers
from models.stock import accept_our_inputs

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 16}
STOCK = SMALL | {"num_attention_heads": 2, "intermediate_size": 24}
QUIET = {"tie_word_embeddings": False, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GAU = SMALL | QUIET | {"intermediate_size": 24, "attention_key_size": 8}
XL = SMALL | {"num_attention_heads": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0, "tie_word_embeddings": False}
FAMILIES = {
    "gau_alpha": (models.GAUAlphaForMaskedLM, GAU),
    "gau_alpha_bias": (models.GAUAlphaForMaskedLM, GAU | {"use_bias": True}),
    "flash_quad": (models.FLASHQuadForMaskedLM, SMALL | {"s": 8, "tie_word_embeddings": False}),
    "flash": (models.FLASHForMaskedLM, SMALL | {"group_size": 8, "query_key_dim": 8, "tie_word_embeddings": False}),
    "transformer_xl": (models.TransformerXLForCausalLM, XL | {"eos_token_id": 0, "pad_token_id": 0}),
    "bert": (transformers.BertForMaskedLM, STOCK | QUIET),
    "roberta": (transformers.RobertaForMaskedLM, STOCK | QUIET | {"pad_token_id": 0}),
    "electra": (transformers.ElectraForMaskedLM, STOCK | QUIET | {"embedding_size": 16}),
    "electra_joint": (None, None),
}
EVERY = pytest.mark.parametrize("family", FAMILIES)


class Adapter(nn.Module):
    """What parameter-efficient finetuning puts in a layer's place: the layer plus a product of two narrow matrices."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        rows, columns = base.weight.shape
        self.down, self.up = nn.Parameter(torch.randn(2, columns)), nn.Parameter(torch.randn(rows, 2) / 4)

    def __getattr__(self, name):  # as peft's layers show what they wrap
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base, name)

    def forward(self, inputs):
        if isinstance(self.base, nn.Embedding):
            return self.base(inputs) + nn.functional.embedding(inputs, self.up @ self.down)
        return self.base(inputs) + inputs @ self.down.T @ self.up.T

    def merged(self) -> nn.Module:
        base = copy.deepcopy(self.base)
        base.weight.data += self.up.detach() @ self.down.detach()
        return base


class Added(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, weight):
        return weight + self.matrix


def make(family):
    torch.manual_seed(0)
    kind, fields = FAMILIES[family]
    if kind is None:
        config = transformers.ElectraConfig(**STOCK | QUIET | {"embedding_size": 16})
        options = ElectraOptions(untied_generator_embeddings=True)
        model = new_joint_model(generator_config(config, 1), config, options).train()
    else:
        model = use_fast_layers(accept_our_inputs(kind(kind.config_class(**fields)))).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def runs(model):
    """What the model says, by each of its ways: at all positions, at some, and in the loss."""
    ids = torch.arange(24).view(2, 12) % 37 + 2
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    positions = torch.tensor([[1, 4], [2, 7]])
    if isinstance(model, models.TransformerXLForCausalLM):
        yield model(**inputs).logits
        return
    if getattr(model, "generator", None) is not None:
        labels = torch.full_like(ids, -100).scatter_(1, positions, 5)
        outputs = model(**inputs, labels=labels, masked_positions=positions, noise_seed=torch.tensor([1, 2]))
        yield torch.stack((outputs.generator_loss, outputs.discriminator_loss))
        return
    yield model(**inputs).logits
    yield model(**inputs, masked_positions=positions).logits


def leaves(model):
    """Names of the layers that an adapter, a parametrisation or a hook may be put on; not the unused poolers."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and not any(part in name for part in ("pooler", "position")):
            yield name


def put(model, name, module):
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


@EVERY
def test_an_adapter_on_any_layer_changes_what_the_model_says_and_learns(family):
    model = make(family)
    plain = [result.detach() for result in runs(model)]
    for name in list(leaves(model)):
        layer = model.get_submodule(name)
        adapter = Adapter(layer)
        put(model, name, adapter)
        adapted = list(runs(model))
        sum(part.square().mean() for part in adapted).backward()
        for parameter in (adapter.up, adapter.down):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        put(model, name, adapter.merged())
        for before, part, merged in zip(plain, adapted, runs(model), strict=True):
            assert (before - part).abs().max() > 1e-4, name
            torch.testing.assert_close(part, merged, atol=1e-5, rtol=1e-5)
        put(model, name, layer)


@EVERY
def test_hooks_and_parametrisations_of_any_layer_act(family):
    model = make(family)
    for name in list(leaves(model)):
        layer, calls = model.get_submodule(name), []
        handle = layer.register_forward_hook(lambda module, args, output, calls=calls: calls.append(output.shape))
        list(runs(model))
        handle.remove()
        assert calls, name
        expected = [result.detach() for result in runs(merged_by_hand(model, name))]
        change = torch.linspace(-0.3, 0.3, layer.weight.numel()).view_as(layer.weight)
        parametrize.register_parametrization(layer, "weight", Added(change))
        parametrized = list(runs(model))
        sum(part.square().mean() for part in parametrized).backward()
        assert layer.parametrizations.weight[0].matrix.grad.abs().max() > 0, name
        for part, merged in zip(parametrized, expected, strict=True):
            torch.testing.assert_close(part, merged, atol=1e-5, rtol=1e-5)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def merged_by_hand(model, name):
    model = copy.deepcopy(model)
    weight = model.get_submodule(name).weight
    weight.data += torch.linspace(-0.3, 0.3, weight.numel()).view_as(weight)
    return model


@pytest.mark.parametrize("family", ["gau_alpha", "flash_quad", "flash", "bert"])
def test_the_adapters_of_peft_learn_and_merge(family):
    peft = pytest.importorskip("peft")
    model = make(family)
    before = [result.detach() for result in runs(model)]
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    results = list(runs(adapted))
    sum(part.square().mean() for part in results).backward()
    for name, parameter in adapted.named_parameters():
        assert "lora_" not in name or parameter.grad is not None, name
    for part, first, merged in zip(results, before, runs(adapted.merge_and_unload()), strict=True):
        assert (part - first).abs().max() > 1e-4
        torch.testing.assert_close(part, merged, atol=1e-5, rtol=1e-5)
