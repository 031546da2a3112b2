"""Updates are those of the optimisers' originals; rates by layer are google-research/electra's."""

import copy

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
from training.arguments import RunArguments, parse_arguments
from training.loop.optimizers import (
    AdamWithoutBiasCorrection,
    MuonWithAdamW,
    factors_of_part,
    layer_factors,
    make_muon,
    raise_first_scale,
    split_by_rate,
)
from training.objectives.base import Objective

GRADIENTS = (0.1, -0.2, 0.3)


def steps(make):
    parameter = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer, values = make(parameter), []
    for gradient in GRADIENTS:
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        values.append(parameter.item())
    return values


@pytest.mark.parametrize(
    "decay, expected",
    [(0.01, [0.6828722, 0.83774638, 0.66701058]), (0.0, [0.6838722, 0.83942925, 0.6695312])],
)
def test_updates_are_those_of_the_original(decay, expected):
    values = steps(lambda p: AdamWithoutBiasCorrection([p], lr=0.1, eps=1e-6, weight_decay=decay))
    assert values == pytest.approx(expected, abs=6e-9)


def test_torchs_adamw_is_the_corrected_one():
    values = steps(lambda p: torch.optim.AdamW([p], lr=0.1, eps=1e-6, weight_decay=0.01, fused=True))
    assert values == pytest.approx([0.899001, 0.93471212, 0.89945346], abs=6e-9)


def test_state_goes_through_a_checkpoint():
    def train(parameter, optimizer, numbers):
        for number in numbers:
            parameter.grad = torch.arange(3.0) - number
            optimizer.step()

    whole, first = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    train(whole, AdamWithoutBiasCorrection([whole], lr=0.1, weight_decay=0.01), range(4))
    optimizer = AdamWithoutBiasCorrection([first], lr=0.1, weight_decay=0.01)
    train(first, optimizer, range(2))
    second = torch.nn.Parameter(first.detach().clone())
    restored = AdamWithoutBiasCorrection([second], lr=0.1, weight_decay=0.01)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, restored, range(2, 4))
    assert torch.equal(whole, second) and not torch.equal(whole, first)


def test_parameters_without_gradients_stay():
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = AdamWithoutBiasCorrection(parameters, lr=0.1, weight_decay=0.5)
    parameters[0].grad = torch.ones(2)
    optimizer.step()
    assert (parameters[0] < 1).all() and (parameters[1] == 1).all()


class TestMuonUnderAScaler:
    """Of a matrix under Muon and a vector under AdamW, after one step that was like any other."""

    def trained(self):
        torch.manual_seed(0)
        matrix, vector = torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))
        optimizer = MuonWithAdamW(
            [{"params": [vector], "lr": 0.1, "weight_decay": 0.1}],
            [{"params": [matrix], "lr": 0.1, "weight_decay": 0.1}],
        )
        self.give_gradients(optimizer)
        optimizer.step()
        return optimizer

    @staticmethod
    def give_gradients(optimizer, factor=1.0):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = factor * torch.arange(1.0, parameter.numel() + 1).view_as(parameter)

    @staticmethod
    def tensors(optimizer):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return [*(p.detach() for p in parameters), *(t for p in parameters for t in optimizer.state[p].values())]

    def test_a_step_that_found_infinity_changes_nothing(self):
        trained = self.trained()
        before = [tensor.clone() for tensor in self.tensors(trained)]
        self.give_gradients(trained, torch.inf)
        trained.found_inf = torch.tensor(1.0)
        trained.step()
        assert all(map(torch.equal, self.tensors(trained), before))

    @pytest.mark.parametrize("unscaled", [True, False], ids=["clipped", "not clipped"])
    def test_any_other_is_the_step_without_a_scaler(self, unscaled):
        plain, trained = self.trained(), self.trained()
        self.give_gradients(plain)
        plain.step()
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        self.give_gradients(trained, scaler.scale(torch.tensor(1.0)).item())
        if unscaled:
            scaler.unscale_(trained)
        scaler.step(trained)
        assert all(map(torch.equal, self.tensors(trained), self.tensors(plain)))


def parse(tmp_path, *flags):
    return parse_arguments([RunArguments], ["--output_dir", str(tmp_path), *flags])[0]


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 8)
        self.table = nn.Parameter(torch.ones(4, 8))
        self.decoder = nn.Linear(8, 11)
        self.decoder.weight = self.words.weight

    def get_output_embeddings(self):
        return self.decoder

    def forward(self, ids):
        return self.decoder(self.hidden(self.words(ids)) * self.table[0]).square().mean()


def make_optimizer(model, tmp_path):
    args = parse(tmp_path, "--optimizer", "muon", "--learning_rate", "0.01", "--weight_decay", "0.1")
    optimizer = make_muon(model, ["words.weight", "hidden.weight"], args)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def train(model, optimizer, scheduler, steps):
    for _ in range(steps):
        model(torch.arange(11)).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def test_muon_trains_hidden_matrices_and_adamw_the_rest(tmp_path):
    model = Tiny()
    optimizer, _ = make_optimizer(model, tmp_path)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [([names[p] for p in group["params"]], group["weight_decay"]) for group in optimizer.param_groups]
    plain = ["table", "hidden.bias", "decoder.bias"]
    assert groups == [(["words.weight"], 0.1), (plain, 0.0), (["hidden.weight"], 0.1)]


def test_muon_with_adamw_goes_on_exactly_from_its_state(tmp_path):
    torch.manual_seed(0)
    model = Tiny()
    optimizer, scheduler = make_optimizer(model, tmp_path)
    train(model, optimizer, scheduler, 3)
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state.pt")
    train(model, optimizer, scheduler, 3)
    other = Tiny()
    again, schedule = make_optimizer(other, tmp_path)
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    for part, state in zip((other, again, schedule), states, strict=True):
        part.load_state_dict(state)
    train(other, again, schedule, 3)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


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


class Labelled(Objective):
    """As many targets as there are tokens."""

    weights = {"labelled": 1.0}  # noqa: RUF012

    def counts(self, inputs):
        return {"labelled": inputs["labels"].sum()}


@pytest.mark.parametrize(("rows", "scale"), [(0, 2**16), (8, 2**16), (128, 2**19), (1024, 2**22), (2**20, 2**24)])
def test_fp16s_first_scale_grows_with_the_tokens_of_a_step(rows, scale):
    scaler = torch.amp.GradScaler("cpu")
    raise_first_scale(scaler, Labelled(512), rows)
    assert scaler.get_scale() == scale
    raise_first_scale(None, Labelled(512), rows)


FP16 = {"vocab_size": 300, "hidden_size": 768, "num_hidden_layers": 2}
FP16_CASES = {
    "GAUAlpha": {"intermediate_size": 1536, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "FLASHQuad": {},
    "FLASH": {},
}
QUERIES_AND_KEYS = ("scaleoffset.weight", "qk_offset_scale.weight", "to_qk.0.weight", ".layer.0.weight")


@pytest.mark.parametrize("family", FP16_CASES)
def test_queries_and_keys_have_their_gradients_in_fp16_at_a_recipes_batch(family):
    """What one row adds to the gradient of a step of 1,024 rows, 80,000 labelled tokens, against fp32."""
    torch.manual_seed(0)
    config = getattr(models, f"{family}Config")(**FP16 | FP16_CASES[family])
    model = getattr(models, f"{family}ForMaskedLM")(config).train()
    ids, positions = torch.randint(5, 300, (1, 512)), torch.arange(0, 512, 7).unsqueeze(0)
    labels = torch.full_like(ids, -100).scatter(1, positions, ids.gather(1, positions))
    scaler = torch.amp.GradScaler("cpu")
    raise_first_scale(scaler, Labelled(512), 1024)

    def gradients(half):
        with torch.autocast("cpu", torch.float16, enabled=half):
            loss = model(ids, labels=labels, masked_positions=positions).loss * positions.numel() / 80_000
        loss = scaler.scale(loss) if half else loss
        factor = scaler.get_scale() if half else 1
        return [gradient / factor for gradient in torch.autograd.grad(loss, list(model.parameters()))]

    for (name, _), half, full in zip(model.named_parameters(), gradients(True), gradients(False), strict=True):
        if name.endswith(QUERIES_AND_KEYS):
            assert (half - full).norm() <= 0.01 * full.norm(), name
