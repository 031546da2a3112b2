"""Runs of the training scripts: what they leave behind, whether two left the same, and runs that die in the middle."""

import json
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from training.loop.trainer import Trainer


def read_log(folder, name="log.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def curve(folder, name="log.jsonl"):
    """The log without what depends on the clock."""
    timed = ("tokens_per_second", "mfu")
    records = read_log(folder, name)
    return [{key: value for key, value in record.items() if key not in timed} for record in records]


def weights(folder):
    """Tensors of the saved model by name; of several models with the folder's name in front."""
    files = [folder / "model.safetensors"] if (folder / "model.safetensors").is_file() else []
    files += sorted(folder.glob("[!c]*/model.safetensors"))  # not of checkpoints
    tensors = {}
    for file in files:
        part = "" if file.parent == folder else f"{file.parent.name}/"
        tensors |= {part + name: tensor for name, tensor in load_file(file).items()}
    assert tensors
    return tensors


def assert_same_run(one, other):
    """Bit for bit."""
    assert curve(one) == curve(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def assert_close_runs(one, other, rel=1e-5, atol=2e-6):
    """rel: of the logged numbers and the weights; atol: of the weights."""
    for a, b in zip(curve(one), curve(other), strict=True):
        assert a == pytest.approx(b, rel=rel, abs=1e-6)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=rel, atol=atol, msg=name)


def as_before_checksums(checkpoint):
    """Make a checkpoint what it was when checkpoints had no checksums yet."""
    (checkpoint / "complete.json").unlink()
    progress = json.loads((checkpoint / "progress.json").read_text())
    del progress["processes"]
    (checkpoint / "progress.json").write_text(json.dumps(progress))


class Killed(BaseException):
    """As final as a kill: what catches errors does not catch it."""


@contextmanager
def killed_in(call: int, method: str = "training_step", owner: type = Trainer):
    """The run inside dies in this call of a method of the owner, and it must get so far."""
    real, calls = getattr(owner, method), []

    def fatal(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, fatal)
        with pytest.raises(Killed):
            yield


def checkpoints(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


@contextmanager
def acting_in(call, act):
    """The run inside calls act() at the beginning of this call of Trainer.training_step."""
    real, calls = Trainer.training_step, []

    def acting(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            act()
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", acting)
        yield
