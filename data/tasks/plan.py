"""The data of finetuning jobs: which tasks there are, and of one its splits and what is done with them.

`flags` are those of training/finetune/arguments.py, read here by name.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.tasks.loading import Split, find_folder, load_task
from data.tasks.own_files import adhoc_task
from data.tasks.table import GROUPS, TASKS, find_task
from data.tasks.task import Task, TaskError

logger = logging.getLogger(__name__)

_DRY_ROWS = 64  # of each split under --dry_run
_BOARDS = {"glue": "glue8", "clue": "clue10"}  # board -> its tasks where no folder says which there are


def kind_of(name: str, flags) -> str:
    """Of the task of that name, or of the user's own."""
    return flags.kind or find_task(name).kind


def read_task(name: str, flags, training: bool, outputs: Sequence[str] | None = None) -> tuple[Task, dict[str, Split]]:
    """The task of that name, or that the user's files make, and its splits cut as the debugging flags say.

    training: whether the training split is wanted. outputs: names of those of a finetuned model that is not trained.
    TaskError as data/tasks/table.py.
    """
    files = {"train": flags.train_file, "validation": flags.validation_file, "test": flags.test_file}
    if flags.kind is not None:
        dataset = (flags.dataset_name, flags.dataset_config_name) if flags.dataset_name else None
        options = {"name": name, "outputs": outputs, "dataset": dataset}
        task, splits = adhoc_task(flags.kind, *files.values(), flags.text_columns, flags.label_column, **options)
        needed = {"do_train": {"train"}, "do_eval": {"validation", "test"}, "do_predict": {"test"}}
        for flag, some in needed.items():
            if getattr(flags, flag) and not (some & splits.keys() or flags.overfit):
                either = " or ".join(f"--{split}_file" for split in sorted(some, reverse=True))
                raise TaskError(f"--{flag} needs rows, got none of its own; add {either}")
    else:
        task = find_task(name)
        typed = {split: file for split, file in files.items() if file}
        options = {"files": typed or None, "csl_joiner": flags.csl_joiner}
        splits = load_task(task, flags.data_dir, flags.source, training=training, **options)
    if flags.overfit and task.train_split in splits:
        part = _first(splits[task.train_split], flags.overfit)
        splits = {task.train_split: part, task.eval_splits[0]: part}
    for name, split in splits.items():
        most = flags.max_train_samples if name == task.train_split else flags.max_eval_samples
        most = flags.max_predict_samples or most if name in task.test_splits else most
        count = min(most or len(split.records), _DRY_ROWS) if flags.dry_run else most
        splits[name] = _first(split, count or len(split.records))
    return task, splits


def choose_tasks(names: str | None, kind: str | None, data_dir, starts: Mapping[str, str] | None):
    """Names of the tasks to run, and the task that each of some starts from.

    names, kind: --tasks, and --kind, which makes names the name of the user's own task. starts: task -> task, as
    typed; None for those where it is usual. What has no training data of its own needs the model of another task.
    TaskError for unknown names.
    """
    if kind is not None:
        return [names or "adhoc"], {}
    if names is None:
        raise TaskError("--tasks must name tasks or groups, got none; add it, or --kind for files of your own")
    tasks = expand_tasks(names, data_dir)
    chosen = [task.name for task in tasks]
    if starts is None:
        sources = {task.name: task.init_from for task in tasks if task.init_from in chosen}
    else:
        sources = {find_task(target).name: find_task(source).name for target, source in starts.items()}
    return chosen, sources | {task.name: task.model_of for task in tasks if task.model_of in chosen}


def expand_tasks(names: str, data_dir: str | Path | None = None) -> list[Task]:
    """Return the tasks of a comma-separated list of names and groups, each once, in the order given.

    `glue` and `clue` stand for every task of that board whose folder is found in data_dir; where there is none, for
    glue8 and clue10. TaskError names what is unknown.
    """
    chosen: dict[str, Task] = {}
    for name in filter(None, map(str.strip, names.split(","))):
        tasks = [task for task in TASKS.values() if name in task.groups] or [find_task(name)]
        if name in _BOARDS:
            present = [task for task in tasks if data_dir is not None and find_folder(task, data_dir)]
            tasks = present or [task for task in TASKS.values() if _BOARDS[name] in task.groups]
        chosen |= {task.name: task for task in tasks}
    if not chosen:
        raise TaskError(f"--tasks must name a task or one of {', '.join(GROUPS)}, got {names!r}; name one")
    return list(chosen.values())


@dataclass(frozen=True)
class Plan:
    """What a job does with the splits. scored: those to select weights by; asked: those to predict besides."""

    training: bool
    scored: tuple[str, ...]
    asked: tuple[str, ...]

    @classmethod
    def of(cls, task: Task, splits: Mapping[str, Split], trains: bool, predicts: bool) -> "Plan":
        """trains, predicts: what is wanted; where nothing can be trained or scored, tests are predicted all the same.

        TaskError when there is nothing to do.
        """
        training = trains and task.train_split in splits
        scored = tuple(name for name in task.eval_splits if name in splits and splits[name].labelled)
        tests = tuple(name for name in task.test_splits if name in splits)
        plan = cls(training, scored, tests if predicts or not (training or scored) else ())
        if predicts and not plan.asked:
            logger.warning("%s has no test rows here: --do_predict predicts nothing", task.name)
        if not (training or scored or plan.asked):
            raise TaskError(f"--tasks {task.name} must have splits to train on or to judge, got {', '.join(splits)}")
        if trains and not training:
            logger.warning("%s has no training data here: evaluating only", task.name)
        return plan

    def wanted(self, task: Task) -> tuple[str, ...]:
        """Names of all splits that the job reads."""
        return (*((task.train_split,) if self.training else ()), *self.scored, *self.asked)


def _first(split: Split, count: int) -> Split:
    return replace(split, records=split.records[:count], parts={}) if count < len(split.records) else split
