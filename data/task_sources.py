"""Where the rows of a task lie: files of its folder, or a data set of the datasets library."""

from collections.abc import Mapping
from pathlib import Path

from data.task_types import Split, Task


def find_folder(task: Task, data_dir: str | Path) -> Path | None:
    """Return the folder of the task in data_dir, or in its folders glue and clue, or data_dir itself; None without."""
    raise NotImplementedError


def load_task(
    task: Task,
    data_dir: str | Path | None = None,
    source: str = "auto",
    *,
    training: bool = True,
    files: Mapping[str, str | Path] | None = None,
    csl_joiner: str = " ",
) -> dict[str, Split]:
    """Return the splits of a task that are there, and log rows, skips and sizes that are not official.

    source: "local" reads data_dir, "hub" the datasets library's copy, "auto" the first where data_dir has the task.
    training: False leaves the training split out, so that what only evaluation needs may be missing.
    files: split -> file to read instead of the source's.
    csl_joiner: between CSL's keywords.
    Raises TaskError.
    """
    raise NotImplementedError
