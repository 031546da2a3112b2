"""Adam without bias correction takes google-research/electra's steps; Muon leaves out those that a scaler refuses."""

import copy

import pytest
import torch
from torch import nn

from training.arguments import RunArguments, parse_arguments
from training.loop.optimizers import AdamWithoutBiasCorrection, MuonWithAdamW, make_muon

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

    def test_any_other_is_the_step_without_a_scaler(self):
        plain, trained = self.trained(), self.trained()
        self.give_gradients(plain)
        plain.step()
        self.give_gradients(trained, 8.0)
        trained.found_inf, trained.grad_scale = torch.tensor(0.0), torch.tensor(8.0)
        trained.step()
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
