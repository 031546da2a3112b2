"""The data of one finetuning job: records of its task, their features, and what is written about the predictions.

`flags` are those of training/finetune_arguments.py, read here by name.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from data.features import Features, make_features
from data.item_sums import ItemSums, item_sums
from data.judging import Verdict, swapped_pairs
from data.metrics import average
from data.outputs import atomic_output
from data.submission import write_predictions
from data.task_types import Split, Task
from data.tasks import TaskError, adhoc_task, expand_tasks, find_task, load_task

logger = logging.getLogger(__name__)

_DRY_ROWS = 64  # of each split under --dry_run


def kind_of(name: str, flags) -> str:
    """Of the task of that name, or of the user's own."""
    return flags.kind or find_task(name).kind


def read_task(name: str, flags, training: bool, outputs: Sequence[str] | None = None) -> tuple[Task, dict[str, Split]]:
    """The task of that name, or that the user's files make, and its splits cut as the debugging flags say.

    training: whether the training split is wanted. outputs: names of those of a finetuned model that is not trained.
    TaskError as data/tasks.py.
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
        given = {split: file for split, file in files.items() if file}
        options = {"files": given or None, "csl_joiner": flags.csl_joiner}
        splits = load_task(task, flags.data_dir, flags.source, training=training, **options)
    if flags.overfit and task.train_split in splits:
        part = _first(splits[task.train_split], flags.overfit)
        splits = {task.train_split: part, task.eval_splits[0]: part}
    for name, split in splits.items():
        most = flags.max_train_samples if name == task.train_split else flags.max_eval_samples
        most = flags.max_predict_samples or most if name in task.test_splits else most
        splits[name] = _first(split, min(most or len(split.records), _DRY_ROWS if flags.dry_run else 2**62))
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


def averages(scores: Mapping[str, Mapping[str, float]]) -> list:
    """The mean over each board's tasks that have scores, and GLUE's as papers form it; see data.metrics.average."""
    boards = [average(board, scores) for board in ("glue", "glue8", "clue10", "clue11")]
    return [*boards, average("glue8", scores, papers=True)]


def items(name: str, path: Path) -> ItemSums:
    """What the tests over items need of a task's eval_preds.jsonl."""
    return item_sums(find_task(name), path)


def _first(split: Split, count: int) -> Split:
    return replace(split, records=split.records[:count], parts={}) if count < len(split.records) else split


def make_all_features(
    task: Task,
    splits: Mapping[str, Split],
    flags,
    tokenizer,
    *,
    max_length: int,
    token_types: bool,
    label_ids: Mapping[str, int],
) -> dict[str, Features]:
    """Features of each split; logs the share of records that are cut or read in windows. ValueError names the flag."""
    features = {}
    for name, split in splits.items():
        training = name == task.train_split
        features[name] = make_features(
            task,
            swapped_pairs(split.records) if training and flags.swap_augment else split.records,
            tokenizer,
            max_length=max_length,
            training=training,
            token_types=token_types,
            label_ids=label_ids,
            doc_stride=flags.doc_stride,
            long_rows=flags.long_rows,
        )
        share = 100 * features[name].truncated
        logger.info("%s %s: %.1f %% of the records are longer than %d tokens", task.name, name, share, max_length)
    return features


def row_tokens(features: Features) -> np.ndarray:
    """Tokens of each row when it stands in a batch, int64 [R]: those of all its choices."""
    return features.lengths * (1 if features.bounds is None else int(np.diff(features.bounds).max()))


def label_array(task: Task, split: Split, label_ids: Mapping[str, int]) -> np.ndarray:
    """The model's output that each label of a split stands for, int64; empty for kinds without names of labels."""
    if not task.labels:
        return np.array([], np.int64)
    names = chain.from_iterable(record["tags"] if "tags" in record else [record["label"]] for record in split.records)
    return np.array([label_ids[name] for name in names], np.int64)


def write_verdicts(path: Path, task: Task, splits: Mapping[str, Split], verdicts: Mapping[str, Verdict]) -> None:
    """Write the predictions of all splits, and beside them, where a record has a row of scores, these as .npy."""
    records = [record for name in verdicts for record in splits[name].records]
    names = [name for name in verdicts for _ in splits[name].records]
    write_predictions(
        path, task, records, [one for verdict in verdicts.values() for one in verdict.predictions], names
    )
    if task.kind in ("classification", "regression", "multiple_choice"):
        outputs = [np.atleast_1d(output) for verdict in verdicts.values() for output in verdict.outputs]
        table = np.full((len(outputs), max(map(len, outputs))), np.nan, np.float32)  # of choices that are not there
        for row, output in enumerate(outputs):
            table[row, : len(output)] = output
        with atomic_output(path.with_suffix(".logits.npy")) as partial, partial.open("wb") as file:
            np.save(file, table, allow_pickle=False)


def describe_splits(splits: Mapping[str, Split], features: Mapping[str, Features]) -> dict[str, dict]:
    """What result.json says about the data: rows, their source, what was left out and what was too long."""
    return {
        name: {
            "records": len(splits[name].records),
            "rows": len(found),
            "expected": splits[name].expected,
            "source": splits[name].source,
            "skipped": splits[name].skipped,
            "notes": splits[name].notes,
            "truncated": found.truncated,
        }
        for name, found in features.items()
    }
