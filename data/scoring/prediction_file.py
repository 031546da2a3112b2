"""Predictions on disk: a JSON line per record, and the scores behind them as .npy."""

import json
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.outputs import atomic_output
from data.scoring.split_scorer import Verdict
from data.tasks.task import Split, Task


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


PREDICTIONS = "test_preds.jsonl"


def write_predictions(
    path: str | Path,
    task: Task,
    records: Sequence[Mapping],
    predictions: Sequence,
    splits: Sequence[str] | None = None,
) -> None:
    """Write one JSON line per record: split, id, prediction, and the label where it is known.

    splits: the split of each record, "test" without. Lines of tagging hold "chars", too. The file appears whole or not
    at all.
    """
    gold = {"question_answering": "answers", "tagging": "tags"}.get(task.kind, "label")
    with atomic_output(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for record, prediction, split in zip(
            records, predictions, splits or repeat("test", len(records)), strict=True
        ):
            line = {"split": split, "id": record["id"], "prediction": prediction}
            if task.kind == "tagging":
                line["chars"] = record["chars"]
            if record.get(gold) not in (None, []):
                line["label"] = record[gold]
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_predictions(path: str | Path) -> dict[str, list[dict]]:
    """Return the lines of `write_predictions` by split, in the file's order. SubmissionError with file:line."""
    by_split: dict[str, list[dict]] = {}
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        if line:
            row = _read(line, f"{path}:{number}", {"split", "id", "prediction"})
            by_split.setdefault(str(row["split"]), []).append(row)
    return by_split


class SubmissionError(UserError):
    """Predictions that must not go to a board; one line that names the flag or the file."""


def _read(content: bytes, where: str, keys: set[str]) -> dict:
    """A JSON object that has these keys. SubmissionError that begins with `where` for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        found = error
    if not isinstance(found, dict) or not keys <= found.keys():
        raise SubmissionError(
            f"{where}: must be a JSON object with {', '.join(sorted(keys))}, got {content[:60]!r}; predict again"
        )
    return found
