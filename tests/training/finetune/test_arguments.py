"""What a flag of a job is when it is left out, and which jobs are known as the same."""

import dataclasses

import pytest

from common.errors import ArgumentError
from data.tasks.table import TASKS
from training.arguments import parse_arguments
from training.finetune.arguments import (
    RECIPES,
    JobArguments,
    SweepArguments,
    flag_names,
    grid_of_flags,
    label_of_flags,
)
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


def test_a_grid_takes_every_word_for_a_flag():
    """All lead to the attributes under which job.json keeps them, and so to the same folders."""
    by_name = "learning_rate=1e-5,2e-5;per_device_train_batch_size=8;layer_decay=0.8;bf16=true,false"
    by_alias = "lr=1e-5,2e-5;batch_size=8;lwlrd=0.8;dtype=bf16,fp32"
    grids = [parse_grid(grid_of_flags(text), flag_names()) for text in (by_name, by_alias)]
    assert grids[0] == grids[1] == {"lr": [1e-5, 2e-5], "batch_size": [8], "lwlrd": [0.8], "dtype": ["bf16", "fp32"]}
    assert grid_of_flags(None) is None and grid_of_flags("") == ""
    with pytest.raises(ArgumentError, match="--grid must give fp16 the values true and false, got 'fp16=yes'"):
        grid_of_flags("fp16=yes")


def test_a_baseline_is_labelled_by_any_word():
    assert label_of_flags("learning_rate=2e-05,batch_size=16") == "lr=2e-05,batch_size=16"
    assert [label_of_flags(text) for text in (None, "0e136cc4e7", "out/lr=1")] == [None, "0e136cc4e7", "out/lr=1"]


def test_folders_of_earlier_sweeps_are_found_again(tmp_path):
    """Hashes as they were when `lr` was the name and --learning_rate the alias."""
    job, _ = parse(
        *["--model", "m", "--learning_rate", "1e-4", "--per_device_train_batch_size", "8", "--layer_decay", "0.9"]
    )
    assert job.changed() == {"model": "m", "lr": 1e-4, "batch_size": 8, "lwlrd": 0.9}
    (planned,) = plan_jobs(["cola"], job.changed(), {"muon_lr": [0.01]}, [3], tmp_path)
    assert planned.folder == tmp_path / "cola" / "0e136cc4e7" / "seed3"
    assert JobArguments(**planned.settings) == dataclasses.replace(job, muon_lr=0.01)
