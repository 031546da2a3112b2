"""What a flag of a job is when it is left out, and which jobs are known as the same."""

import dataclasses

import numpy as np
import pytest
import torch

from common.errors import ArgumentError
from data.tasks.table import TASKS
from training.arguments import parse_arguments
from training.finetune.arguments import RECIPES, JobArguments, SweepArguments, flag_names, grid_of_flags
from training.finetune.steps import class_weights, run_arguments
from training.sweep.grid import parse_grid, plan_jobs


def parse(*words):
    return parse_arguments([JobArguments, SweepArguments], list(words))


def test_what_is_typed_goes_before_recipe_task_and_default():
    defaults = {"lr": 5e-5, "epochs": 7}
    plain = JobArguments().settle("cola", defaults)
    assert (plain.lr, plain.epochs, plain.batch_size, plain.head, plain.lwlrd) == (5e-5, 7, 32, "auto", None)
    electra = JobArguments(recipe="electra", epochs=2.0).settle("cola", defaults)
    assert (electra.lr, electra.epochs, electra.head, electra.lwlrd_offset) == (1e-4, 2.0, "linear", 2)
    assert (electra.optimizer, electra.schedule, electra.eps) == ("adamw_nobc", "original_linear", 1e-6)


def test_electras_recipe_has_more_epochs_and_pairs_for_small_tasks():
    for name, epochs, swaps in (("rte", 10, None), ("stsb", 10, True), ("mrpc", 3, True), ("cola", 3, None)):
        settled = JobArguments(recipe="electra").settle(name, TASKS[name].defaults)
        assert (settled.epochs, settled.swap_augment) == (epochs, swaps)
    assert parse("--recipe", "electra", "--swap_augment", "false")[0].settle("mrpc", {}).swap_augment is False


def test_defaults_of_all_tasks_and_recipes_are_flags():
    for task in TASKS.values():
        for recipe in (None, *RECIPES):
            JobArguments(recipe=recipe).settle(task.name, task.defaults)
    with pytest.raises(ArgumentError, match="must hold flags of a job, got speed"):
        JobArguments().settle("new", {"speed": 3})


def test_a_job_is_known_by_the_flags_that_were_changed():
    assert JobArguments().changed() == {}
    assert parse("--model", "m", "--learning_rate", "1e-4", "--do_predict")[0].changed() == {
        "model": "m",
        "lr": 1e-4,
        "do_predict": True,
    }
    again = JobArguments(**JobArguments(model="m", lr=1e-4).changed())
    assert again == JobArguments(model="m", lr=1e-4)


def test_old_names_are_flags_too():
    old = "--model_type roberta --model_name_or_path a --tokenizer_name_or_path b --max_seq_length 64 --batch_size 8"
    old += " --learning_rate 3e-5 --num_train_epochs 3 --logging_steps 1 --save_steps 100 --task_name SST-2"
    job, sweep = parse(*old.split(), "--output_dir", "o", "--device", "gpu")
    assert (job.arch, job.model, job.tokenizer, job.max_length, job.lr, job.epochs) == (
        "roberta",
        "a",
        "b",
        64,
        3e-5,
        3,
    )
    assert (sweep.tasks, sweep.output_dir, sweep.device) == ("SST-2", "o", "gpu")
    names = flag_names()
    assert names["muon_learning_rate"] == "muon_lr" and names["layer_decay"] == "lwlrd"
    assert names["learning_rate"] == names["lr"] == "lr" and names["max_seq_length"] == "max_length"
    assert set(names.values()) == {field.name for field in dataclasses.fields(JobArguments)}


@pytest.mark.parametrize(
    "words, trains",
    [((), True), (("--do_eval",), False), (("--do_train", "--do_eval"), True), (("--do_predict",), True)],
)
def test_it_trains_unless_only_evaluation_is_asked(words, trains):
    assert parse(*words)[0].trains is trains


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


def test_a_grid_takes_every_word_for_a_flag():
    """All lead to the attributes under which job.json keeps them, and so to the same folders."""
    by_name = "learning_rate=1e-5,2e-5;per_device_train_batch_size=8;layer_decay=0.8;bf16=true,false"
    by_alias = "lr=1e-5,2e-5;batch_size=8;lwlrd=0.8;dtype=bf16,fp32"
    grids = [parse_grid(grid_of_flags(text), flag_names()) for text in (by_name, by_alias)]
    assert grids[0] == grids[1] == {"lr": [1e-5, 2e-5], "batch_size": [8], "lwlrd": [0.8], "dtype": ["bf16", "fp32"]}
    assert grid_of_flags(None) is None and grid_of_flags("") == ""
    with pytest.raises(ArgumentError, match="--grid must give fp16 the values true and false, got 'fp16=yes'"):
        grid_of_flags("fp16=yes")


def test_folders_of_earlier_sweeps_are_found_again(tmp_path):
    """Hashes as they were when `lr` was the name and --learning_rate the alias."""
    job, _ = parse(
        *["--model", "m", "--learning_rate", "1e-4", "--per_device_train_batch_size", "8", "--layer_decay", "0.9"]
    )
    assert job.changed() == {"model": "m", "lr": 1e-4, "batch_size": 8, "lwlrd": 0.9}
    (planned,) = plan_jobs(["cola"], job.changed(), {"muon_lr": [0.01]}, [3], tmp_path)
    assert planned.folder == tmp_path / "cola" / "0e136cc4e7" / "seed3"
    assert JobArguments(**planned.settings) == dataclasses.replace(job, muon_lr=0.01)
