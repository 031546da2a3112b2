"""Logs of a run: lines that a reader follows, a file that rewinds, how fast the hardware is used."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import TrainerState

from training.loop import logs
from training.loop.logs import ConsoleAndFile, clock, measured_peak, progress, rewind, training_flops


def test_a_log_rewinds_to_a_step_and_drops_a_cut_line(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 3}) for step in (2, 4, 6)]
    log.write_text("\n".join(lines) + '\n{"step": 7, "lo')
    rewind(log, 4)
    assert log.read_text().splitlines() == lines[:2]
    rewind(tmp_path / "none.jsonl", 4)


@pytest.mark.parametrize("large", [False, True])
def test_flops_of_a_row_are_those_of_its_matrix_products(monkeypatch, large):
    """Those of a large model on a CPU are counted without a number being computed."""
    runs = []

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 32)

        def forward(self, x):
            h = self.layer(x)
            runs.append(isinstance(h, FakeTensor))
            return (h @ h.transpose(1, 2) @ h).sum()

    monkeypatch.setattr(logs, "_MOST_PRODUCTS", 0 if large else 10**9)
    model = Attention()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    linear, square = training_flops(model, lambda model, length: model(torch.ones(1, length, 16)), (8, 16))
    # Two per weight and token, and two products of T x T x 32; each three times, once forward and twice backward.
    assert (linear, square) == (6 * 16 * 32, 3 * 2 * 2 * 32)
    assert runs == [large, large]
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert measured_peak(torch.device("cpu"), torch.float32) > 1e8


@pytest.mark.parametrize(
    ("step", "first", "seconds", "minutes", "words"),
    [
        (50, 0, 100, None, ["5.0%", "31:40 left"]),
        (500, 400, 100, None, ["50.0%", "8:20 left"]),  # 100 steps of this call
        (500, 400, 100, 3, ["86.2%", "1:20 left"]),  # it ends after three minutes, at step 580
        (1000, 0, 100, None, ["100.0%"]),
        (400, 400, 100, None, ["40.0%"]),
        (0, 0, 0, None, []),
    ],
)
def test_share_done_and_time_left(step, first, seconds, minutes, words):
    state = TrainerState(global_step=step, max_steps=1000)
    assert progress(state, first, seconds, minutes) == words


def test_times_are_told_as_clocks_do():
    assert [clock(seconds) for seconds in (None, 0, 59.9, 61, 3725)] == ["", "0:00", "0:59", "1:01", "1:02:05"]


def test_every_line_says_how_far_it_is_and_shares_are_percents(tmp_path, caplog):
    log = ConsoleAndFile(tmp_path / "log.jsonl")
    args, state = SimpleNamespace(max_train_minutes=None), TrainerState(global_step=5, max_steps=10)
    log.on_train_begin(args, state, None)
    state.global_step = 10
    with caplog.at_level(logging.INFO):
        log.on_log(args, state, None, logs={"loss": 1.5, "discriminator_accuracy": 0.46, "tokens_seen": 30})
        log.on_log(args, state, None, logs={"epoch": 1.0})
    assert caplog.messages == ["step 10/10  100.0%  loss 1.5000  30 tokens seen  discriminator accuracy 46.00%"]
    record = {"step": 10, "max_steps": 10, "loss": 1.5, "discriminator_accuracy": 0.46, "tokens_seen": 30}
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [record]
