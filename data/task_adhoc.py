"""A task made of the user's own files."""

from pathlib import Path

from data.task_types import Split, Task


def adhoc_task(
    kind: str,
    train_file: str | Path | None,
    validation_file: str | Path | None,
    test_file: str | Path | None,
    text_columns: str | None = None,
    label_column: str | None = None,
    name: str = "adhoc",
) -> tuple[Task, dict[str, Split]]:
    """Return the task that these files (csv, tsv, json, jsonl, parquet, folder of arrow) make, and its splits."""
    raise NotImplementedError
