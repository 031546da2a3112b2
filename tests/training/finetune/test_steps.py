"""Steps of a job: the Trainer's arguments for its flags, weights of classes, what a result ends with."""

import json
import shutil

import numpy as np
import pytest
import torch

from common.errors import ArgumentError
from tests.runs import Killed, checkpoints
from training.finetune import steps
from training.finetune.arguments import JobArguments
from training.finetune.job import Job
from training.finetune.steps import class_weights, finish, job_arguments, run_arguments


@pytest.mark.parametrize(
    "flags, steps",
    [
        ({}, ("epoch", None)),
        ({"save_steps": 100}, ("steps", 100)),
        ({"save_steps": 100, "eval_steps": 20}, ("steps", 20)),
    ],
)
def test_evaluation_follows_checkpoints_unless_told(tmp_path, flags, steps):
    job = JobArguments(**flags).settle("cola", {})
    args = run_arguments(job, tmp_path, 3, "mcc", use_cpu=True)
    assert (str(args.eval_strategy.value), args.eval_steps) == steps
    assert args.seed == 3 and args.save_steps == flags.get("save_steps", args.save_steps)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "poly", "original_linear"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_nobc", "adafactor", "muon"])
def test_every_schedule_and_optimizer_makes_arguments(tmp_path, schedule, optimizer):
    job = JobArguments(schedule=schedule, optimizer=optimizer, betas="0.8,0.98").settle("cola", {})
    args = run_arguments(job, tmp_path, 1, None, use_cpu=True)
    assert (args.adam_beta1, args.adam_beta2) == (0.8, 0.98) and args.eval_strategy.value == "no"
    assert args.adam_bias_correction is (optimizer != "adamw_nobc")
    assert args.optimizer == ("muon" if optimizer == "muon" else "adamw") and args.muon_learning_rate == 5e-3


def test_class_weights():
    labels = np.array([0, 0, 0, 1, 2, 2])
    weights = class_weights("balanced", labels, 4)
    assert torch.allclose(weights, torch.tensor([6 / 12, 6 / 4, 6 / 8, 6 / 4]) * 7 / 6)  # the absent one as the rarest
    assert torch.equal(class_weights("1,2,3,4", labels, 4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert class_weights(None, labels, 4) is None
    for text, count in (("1,2", 4), ("a,b,c,d", 4), ("1,0,1,1", 4), ("balanced", 0)):
        with pytest.raises(ArgumentError, match="--class_weights"):
            class_weights(text, labels, count)


def test_flags_that_no_job_has_are_refused_with_the_folder(tmp_path):
    assert job_arguments(Job("cola", {"lr": 1e-5}, 1, tmp_path)).lr == 1e-5
    with pytest.raises(ArgumentError, match=r"--job .* must hold known flags of the right types: .*speed"):
        job_arguments(Job("cola", {"speed": 3}, 1, tmp_path))


@pytest.mark.parametrize("kept", [True, False])
def test_a_finished_job_holds_no_checkpoints_and_its_model_only_if_asked(tmp_path, kept):
    for name in ("checkpoint-3", "best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    (tmp_path / "best" / "complete.json").touch()
    finish(tmp_path, {"metrics": {"accuracy": 50.0}}, keep_best=kept)
    assert json.loads((tmp_path / "result.json").read_text()) == {"metrics": {"accuracy": 50.0}}
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"result.json"} | ({"best", "best/model.safetensors"} if kept else set())


def test_a_job_killed_while_it_tidies_up_leaves_no_part_of_a_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3/optimizer.pt").touch()

    def killed(*words, **options):
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Killed):
        steps.finish(tmp_path, {}, keep_best=True)
    assert not checkpoints(tmp_path) and not (tmp_path / "result.json").exists()
