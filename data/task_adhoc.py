"""A task made of the user's own files; its labels are what its training and validation rows say."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.task_rows import Row, read_rows
from data.task_sources import Opened, read_split
from data.task_types import KINDS, Split, Task, TaskError

_LAYOUTS = {"multiple_choice": "swag", "question_answering": "qa", "tagging": "characters"}
_READERS = {"multiple_choice": "choices", "question_answering": "qa", "tagging": "tags"}
_METRICS = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("pearson", "spearman"),
    "multiple_choice": ("accuracy",),
    "tagging": ("f1",),
}
_TEXTS = {  # where --text_columns names none: what data sets call them; the first that are there are taken
    "multiple_choice": (("sent1", "sent2"), ("context", "question"), ("context",), ("question",)),
    "question_answering": (("question", "context"),),
    "tagging": (("tokens",), ("words",), ("chars",), ("text_a",), ("text",)),
}
_LABELS = {  # likewise for --label_column
    "multiple_choice": ("label", "answer"),
    "question_answering": ("answers",),
    "tagging": ("label", "tags", "ner_tags", "ner"),
}
_NOT_TEXT = {"id", "idx", "index", "guid"}
_CHINESE = re.compile("[\u3400-\u9fff]")


def adhoc_task(
    kind: str,
    train_file: str | Path | None,
    validation_file: str | Path | None,
    test_file: str | Path | None,
    text_columns: str | Sequence[str] | None = None,
    label_column: str | None = None,
    name: str = "adhoc",
) -> tuple[Task, dict[str, Split]]:
    """Return the task that these files make, and its splits.

    Files may be of all formats of data/task_rows.py, or folders that datasets has saved.

    Args:
        kind: one of KINDS.
        text_columns: names of one or two columns, separated by commas; None takes the usual ones, of classification
            and regression the first one or two columns of text beside the label.
        label_column: None takes the usual one, "label" of classification and regression.
    TaskError where the files or their columns do not serve.
    """
    if kind not in KINDS:
        raise TaskError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}; choose one of them")
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    paths = {split: Path(path) for split, path in files.items() if path}
    if not paths:
        raise TaskError("--train_file, --validation_file or --test_file must be given, got none of them; name a file")
    rows = {split: list(read_rows(path)) for split, path in paths.items()}
    for split, found in rows.items():
        if not found:
            raise TaskError(f"--{split}_file must hold rows, got none in {paths[split]}; check the file")
    first = next(iter(rows.values()))[0]
    if not isinstance(first.values, dict):
        raise TaskError(f"{first.where}: must be an object with columns, got a list; convert the file")
    label = _label_column(kind, first, label_column)
    texts = _text_columns(kind, first, text_columns, label)
    labels = _labels(kind, rows.get("train", []) + rows.get("validation", []) or rows["test"], label)
    metrics = _METRICS.get(kind) or _answer_metrics(rows.values())
    if kind == "tagging" and not all(re.match("O$|[BI]-", tag) for tag in labels):
        metrics = ("accuracy",)  # parts of speech and the like: no entities to count
    task = Task(
        name=name,
        kind=kind,
        metrics=metrics,
        labels=labels,
        layout=_LAYOUTS.get(kind, "text"),
        truncation="only_second" if kind == "question_answering" else "longest_first",
        max_length=384 if kind == "question_answering" else 128,
        defaults={"lr": 3e-5, "batch_size": 32, "epochs": 3, "warmup_ratio": 0.1, "weight_decay": 0.01},
        reader=_READERS.get(kind, "text"),
        text_a=texts[:1],
        text_b=texts[1:],
        label=(label,),
    )
    return task, {split: read_split(task, split, Opened(str(path), (path,))) for split, path in paths.items()}


def _label_column(kind: str, first: Row, given: str | None) -> str:
    names = (given,) if given else _LABELS.get(kind, ("label",))
    return next((name for name in names if name in first.values), names[0])


def _text_columns(kind: str, first: Row, given: str | Sequence[str] | None, label: str) -> tuple[str, ...]:
    if given:
        names = tuple(name.strip() for name in given.split(",")) if isinstance(given, str) else tuple(given)
        missing = [name for name in names if name not in first.values]
    elif kind in _TEXTS:
        names = next((names for names in _TEXTS[kind] if set(names) <= set(first.values)), ())
        missing = [] if names else [", ".join(_TEXTS[kind][0])]
    else:
        names = tuple(
            key for key, value in first.values.items()
            if isinstance(key, str) and isinstance(value, str) and key not in {label, *_NOT_TEXT}
        )[:2]  # fmt: skip
        missing = [] if names else ["a column of text"]
    if missing or len(names) > 2:
        got = ", ".join(map(str, first.values))
        wrong = f"must name one or two columns that are there, got {', '.join(names) or 'none'}"
        raise TaskError(f"--text_columns {wrong} where {first.where} has {got}; name the columns")
    return names


def _labels(kind: str, rows: Iterable[Row], column: str) -> tuple[str, ...]:
    """What the label column says: numbers in their order, words in alphabetical order, tags with "O" first."""
    found: set[str] = set()
    if kind == "tagging":
        for row in rows:
            given = row.values.get(column) or ()
            if isinstance(given, dict):
                found |= {f"{prefix}-{name}" for name in given for prefix in "BI"}
            else:
                found |= set(given.strip(" ").split(" ") if isinstance(given, str) else map(str, given))
        found |= {f"B{tag[1:]}" for tag in found if tag.startswith("I-")}
        found |= {f"I{tag[1:]}" for tag in found if tag.startswith("B-")}
        return tuple(sorted(found | {"O"}, key=lambda tag: (tag != "O", tag[2:], tag)))
    if kind == "classification":
        values = {row.values.get(column) for row in rows} - {None}
        found = {str(value).lower() if isinstance(value, bool) else str(value).strip() for value in values} - {"-", ""}
        whole = all(re.fullmatch(r"-?\d+", name) for name in found)
        return tuple(sorted(found, key=int if whole else None))
    return ()


def _answer_metrics(splits: Iterable[list[Row]]) -> tuple[str, ...]:
    """CMRC's for Chinese, SQuAD's for what has words between spaces."""
    chinese = any(_CHINESE.search(str(row.values.get("question"))) for rows in splits for row in rows[:100])
    return ("em", "f1") if chinese else ("squad_em", "squad_f1")
