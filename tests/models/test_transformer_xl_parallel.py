"""Two processes, by tensor parallelism and by FSDP2, compute what one does: logits, gradients, tokens, saved files."""

from pathlib import Path

import pytest

import change_mp
from tests.processes import run_together

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import sys
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from models.convert import transformer_xl

source, output = sys.argv[1:]
fields = {"eos_token_id": 63, "attention_window": 6, "hidden_dropout": 0.0, "attention_dropout": 0.0}
alone = transformer_xl.load(source, fields)
ids = torch.randint(0, 63, (2, 9), generator=torch.Generator().manual_seed(0))
expected = alone(ids, labels=ids)
expected.loss.backward()
gradients = {name: parameter.grad for name, parameter in alone.named_parameters()}
tokens = alone.generate(ids, max_length=24, do_sample=False)
for kind in ("tp", "fsdp"):
    model = transformer_xl.load(source, fields, distributed_config=DistributedConfig(**{f"{kind}_size": 2}))
    assert dist.get_world_size() == 2
    shard = model.model.layers[0].attn.q_proj.weight.to_local()
    assert shard.numel() * 2 == alone.model.layers[0].attn.q_proj.weight.numel()
    found = model(ids, labels=ids)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    found.loss.backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
        torch.testing.assert_close(gradient, gradients[name], atol=1e-6, rtol=0)
    assert torch.equal(model.generate(ids, max_length=24, do_sample=False), tokens)
    model.save_pretrained(f"{output}/{kind}")
    dist.barrier()
    if dist.get_rank() == 0:
        saved = AutoModelForCausalLM.from_pretrained(f"{output}/{kind}").state_dict()
        assert all(torch.equal(saved[name], tensor) for name, tensor in alone.state_dict().items())
        print(kind, "equals one process", flush=True)
    dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_are_one(xl_folder, tmp_path, parts):
    folder = xl_folder()
    if parts == 2:
        change_mp.main([str(folder), "2"])
        folder = folder.with_name("txl_MP2")
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    assert run_together(worker, [folder, tmp_path], tmp_path).count("equals one process") == 2
