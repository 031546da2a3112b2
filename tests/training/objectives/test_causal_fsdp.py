"""Transformer-XL under FSDP2: really sharded on two processes, with the weights of one process after two steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]

TRAIN = """
import sys
import numpy as np
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from data.batches.sampling import TrainBatches
from models import TransformerXLConfig, TransformerXLForCausalLM
from training.objectives.causal_lm import CausalLanguageModelling

rank, world = 0, int(sys.argv[2])
torch.manual_seed(0)
fields = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, attention_window=12)
fields |= dict(mem_len=8, hidden_dropout=0, attention_dropout=0, initializer_range=0.2)
model = TransformerXLForCausalLM(TransformerXLConfig(**fields))
if world > 1:
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    mesh = distributed.init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    weight = model.model.layers[0].mlp.fc_in.weight
    assert isinstance(weight, DTensor) and weight.to_local().numel() * 2 == weight.numel()
batches = TrainBatches(4, 4 // world, 1, world, rank, steps=2, seed=0)
objective = CausalLanguageModelling(model, 8, batches, mem_len=8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
ids = torch.randint(0, 64, (2, 4, 9), generator=torch.Generator().manual_seed(1))
ids[0, 2, 4:] = -100  # targets that the two processes have different numbers of
for step in range(2):
    rows = ids[step].chunk(world)[rank]
    places = torch.arange(8).expand(len(rows), 8) + 8 * step
    batch = {"input_ids": rows[:, :8].clamp(min=0), "labels": rows[:, 1:], "position_ids": places}
    sums, _ = objective(model.train(), batch)
    (world * sums["clm"] / (ids[step][:, 1:] >= 0).sum()).backward()
    optimizer.step()
    optimizer.zero_grad()
state = model.state_dict()
state = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in state.items()}
if rank == 0:
    torch.save(state, sys.argv[1])
if world > 1:
    distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_sharded_processes_train_as_one(tmp_path):
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for world in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if world == 2 else []
        command = [sys.executable, *launch, tmp_path / "train.py", tmp_path / f"{world}.pt", str(world)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
