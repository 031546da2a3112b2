"""Means over the tasks of a board, as GLUE, CLUE and papers form them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from data.tasks.table import TASKS


def averages(scores: Mapping[str, Mapping[str, float]]) -> list:
    """The mean over each board's tasks that have scores, and GLUE's as papers form it; see average."""
    boards = [average(board, scores) for board in ("glue", "glue8", "clue10", "clue11")]
    return [*boards, average("glue8", scores, papers=True)]


# What stands for a task in a mean over tasks, where it is not the task's first metric alone.
BOARDS = {"mrpc": ("accuracy", "f1"), "qqp": ("accuracy", "f1"), "stsb": ("pearson", "spearman")}


PAPERS = {"stsb": ("spearman",)}


@dataclass(frozen=True)
class Average:
    """A mean over the tasks of a board, and what it is made of.

    tasks: what each task contributes. formed_by: the metrics of each. missing: the board's tasks without scores.
    """

    board: str
    mean: float
    harmonic_mean: float
    tasks: Mapping[str, float]
    formed_by: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]


def average(board: str, scores: Mapping[str, Mapping[str, float]], papers: bool = False) -> Average | None:
    """Return the unweighted mean over the tasks of a board that have scores, None without any.

    board: a group of data/tasks/table.py ("glue", "glue8", "clue10", "clue11"); scores: metrics of each task by its
    name, in percent. The board's way means a task's two metrics first; papers: accuracy for MRPC and QQP, Spearman for
    STS-B.
    """
    names = [task.name for task in TASKS.values() if board in task.groups and task.model_of is None]
    chosen = PAPERS if papers else BOARDS
    formed_by = {name: chosen.get(name, TASKS[name].metrics[:1]) for name in names if name in scores}
    if not formed_by:
        return None
    tasks = {name: float(np.mean([scores[name][metric] for metric in by])) for name, by in formed_by.items()}
    values = list(tasks.values())
    harmonic = float(stats.hmean(values)) if min(values) > 0 else 0.0
    missing = tuple(name for name in names if name not in scores)
    label = f"{board} as in papers" if papers else board
    return Average(label, float(np.mean(values)), harmonic, tasks, formed_by, missing)
