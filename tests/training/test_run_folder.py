"""The parts of a run by themselves: optimisers, checkpoint folders, old flags."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from training.arguments import RunArguments, parse_arguments
from training.loop.checkpoints import all_checkpoints, publish, rotate
from training.loop.optimizers import make_muon
from training.objectives.masked_lm import MaskedLanguageModelling
from training.process import keep_freed_memory, tune_cpu


def parse(tmp_path, *flags):
    return parse_arguments([RunArguments], ["--output_dir", str(tmp_path), *flags])[0]


def test_freed_memory_is_kept_where_glibc_is():
    assert keep_freed_memory() in (True, False)


def test_a_cpu_run_flushes_denormals():
    try:
        tune_cpu()
        assert (torch.tensor([1e-30]) * torch.tensor([1e-10])).item() == 0
    finally:
        torch.set_flush_denormal(False)


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


def test_a_batch_without_labels_adds_nothing_to_the_loss_of_any_model():
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = BertForMaskedLM(config)
    inputs = MaskedLanguageModelling(model, 4, 0.5).example(4) | {"labels": torch.full((1, 4), -100)}
    objective = MaskedLanguageModelling(model, 4, 0.5)
    losses, metrics = objective(model, inputs)
    assert losses["mlm"].item() == 0 and objective.counts(inputs)["mlm"] == 0
    assert [value.item() for value in metrics["mlm_accuracy"]] == [0, 0]


def test_checkpoints_appear_whole_and_old_ones_go_but_the_best(tmp_path):
    for step in (5, 10, 20, 100):
        partial = tmp_path / f"incomplete-checkpoint-{step}"
        partial.mkdir()
        (partial / "file").write_text(str(step))
        (partial / "file").chmod(0o600)
        publish(partial, tmp_path / f"checkpoint-{step}")
    assert (tmp_path / "checkpoint-5" / "file").stat().st_mode & 0o044
    (tmp_path / "checkpoint-notes").mkdir()
    rotate(tmp_path, 2, str(tmp_path / "checkpoint-5"))
    assert [folder.name for folder in all_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-20", "checkpoint-100"]
    assert not list(tmp_path.glob("incomplete-*"))
    rotate(tmp_path, 1, None, newest=20)  # just written, where another course had come to step 100
    assert [folder.name for folder in all_checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-100"]


# The end of a script

SCRIPT = """
import atexit, os, sys
import torch
from common.errors import UserError
from common.script import run_script

class Last:
    def __del__(self, end=os._exit):
        end(7)

def main():
    sys.last = Last()  # goes when Python is taken down
    atexit.register(print, "at exit")
    print("done")
    if sys.argv[1] == "group":
        torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=0, world_size=1)
    if sys.argv[1] == "error":
        raise UserError("--flag must be right")

run_script(main)
"""


@pytest.mark.parametrize("way, code", [("group", 0), ("alone", 7), ("error", 7)])
def test_processes_of_a_group_end_with_python_still_up(tmp_path, way, code):
    """So that threads of gloo's that wait for Python's lock cannot abort them; alone a script ends as any other."""
    command = [sys.executable, "-c", SCRIPT, way, tmp_path / "store"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (code, "done\nat exit\n"), done.stderr
    assert done.stderr.endswith("-c: --flag must be right\n") == (way == "error")
