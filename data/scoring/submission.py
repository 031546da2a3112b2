"""Files that gluebenchmark.com and cluebenchmarks.com accept, made from the test predictions of finished jobs.

Sources: gluebenchmark.com/faq (eleven TSVs in one zip), CLUE's submission rules of 2021-09-04 (file names by version).
A job's folder holds result.json with its settings and test_preds.jsonl, one line per test record.
"""

import json
import logging
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from common.shortening import SHORTENING
from data.outputs import atomic_output
from data.scoring.predictions import BOUNDS, PREDICTIONS, SubmissionError, read_object, read_predictions
from data.tasks.table import TASKS
from data.tasks.tags import cluener_label, to_entities
from data.tasks.task import Task

logger = logging.getLogger(__name__)

VERSIONS = ("1.0", "1.1")
# File without .tsv: task and split.
GLUE_FILES = {
    "CoLA": ("cola", "test"),
    "SST-2": ("sst2", "test"),
    "MRPC": ("mrpc", "test"),
    "STS-B": ("stsb", "test"),
    "QQP": ("qqp", "test"),
    "MNLI-m": ("mnli", "test_matched"),
    "MNLI-mm": ("mnli", "test_mismatched"),
    "QNLI": ("qnli", "test"),
    "RTE": ("rte", "test"),
    "WNLI": ("wnli", "test"),
    "AX": ("ax", "test"),
}
GLUE_NAMES = ("mnli", "qnli", "rte", "ax")  # the files of these hold label names, the others numbers
_BOTH = {"1.0": "test", "1.1": "test"}
_NEW_TEST = {"1.0": "test1.0", "1.1": "test"}
# Task: file without _predict.json ("*" stands for the version's digits), and its split in each version.
CLUE_FILES = {
    "afqmc": ("afqmc", _BOTH),
    "tnews": ("tnews*", _NEW_TEST),
    "iflytek": ("iflytek", _BOTH),
    "cmnli": ("cmnli", {"1.0": "test"}),
    "ocnli": ("ocnli_50k", {"1.1": "test"}),
    "cluewsc2020": ("cluewsc*", _NEW_TEST),
    "csl": ("csl", _BOTH),
    "cmrc2018": ("cmrc2018", _BOTH),
    "drcd": ("drcd", {"1.0": "test"}),
    "chid": ("chid*", _NEW_TEST),
    "c3": ("c3*", _NEW_TEST),
    "cluener": ("cluener", _BOTH),
    "clue_diagnostics": ("diagnostics", {"1.0": "test"}),
}

Predictions = Mapping[str, Mapping[str, Sequence[Mapping]]]  # task -> split -> lines of read_predictions


def make_submissions(
    out: str | Path,
    jobs: Mapping[str, str | Path],
    *,
    team: str,
    date: str,
    clue_version: str = "both",
    wnli_majority: bool = False,
) -> list[Path]:
    """Write glue.zip and submit_<team>_<date>.zip to the folder `out`, as far as there are jobs of a board's tasks.

    jobs: the folder of the job that stands for each task, by the task's name; tasks of no board and folders without
    test predictions make no file. clue_version: "1.0", "1.1", or "both",
    which puts each into a folder of its own (clue1.0, clue1.1). wnli_majority: see `glue_files`. SubmissionError for a
    job whose settings truncated its data, before anything is written.
    """
    if not re.fullmatch(r"[\w-]+", team):
        raise SubmissionError(f"--team must be letters, digits, - and _, got {team!r}; it becomes part of a file name")
    glue_tasks = {task for task, _ in GLUE_FILES.values()}
    files = {
        task: Path(folder, PREDICTIONS) for task, folder in jobs.items() if task in glue_tasks | CLUE_FILES.keys()
    }
    for task, file in files.items():
        _refuse_truncated(task, file.parent)
    predictions = {task: read_predictions(file) for task, file in files.items() if file.exists()}
    written = []
    if predictions.keys() & glue_tasks:
        written.append(_write_zip(Path(out, "glue.zip"), glue_files(predictions, wnli_majority)))
    versions = VERSIONS if clue_version == "both" else (clue_version,)
    for version in versions:
        if files := clue_files(predictions, version):
            folder = Path(out, f"clue{version}") if len(versions) > 1 else Path(out)
            written.append(_write_zip(folder / f"submit_{team}_{date}.zip", files))
    return written


def glue_files(predictions: Predictions, wnli_majority: bool = False) -> dict[str, str]:
    """Return the texts of the eleven TSVs by file name; a file without predictions holds a constant, which is logged.

    wnli_majority: WNLI.tsv says "not entailment" throughout, which few models beat.
    """
    files = {}
    for name, (task_name, split) in GLUE_FILES.items():
        task = TASKS[task_name]
        lines = predictions.get(task_name, {}).get(split)
        if wnli_majority and task_name == "wnli":
            logger.warning("WNLI.tsv holds its majority class, not a model's predictions (--wnli_majority)")
            values = repeat(task.labels[0], task.sizes[split])
        elif lines is None:
            logger.warning("%s.tsv holds a constant: there are no predictions of %s for %s", name, task_name, split)
            values = repeat(task.labels[0] if task.labels else BOUNDS[task_name][0], task.sizes[split])
        else:
            values = [line["prediction"] for line in lines]
            if len(values) != task.sizes[split]:
                logger.warning("%s.tsv holds %d rows, the site wants %d", name, len(values), task.sizes[split])
        rows = (f"{index}\t{_glue_value(task, value)}\n" for index, value in enumerate(values))
        files[f"{name}.tsv"] = "index\tprediction\n" + "".join(rows)
    return files


def clue_files(predictions: Predictions, version: str) -> dict[str, str]:
    """Return the texts of the JSON files of CLUE "1.0" or "1.1" by file name; tasks without predictions have none."""
    files = {}
    for task_name, (name, splits) in CLUE_FILES.items():
        if version not in splits or task_name not in predictions:
            continue
        task, split = TASKS[task_name], splits[version]
        lines = predictions[task_name].get(split)
        if lines is None:
            logger.warning("CLUE %s: there are no predictions of %s for %s; it is left out", version, task_name, split)
            continue
        if task.kind != "tagging":
            _refuse_repeats(task_name, [line["id"] for line in lines])
        if split in task.sizes and task.kind == "classification" and len(lines) != task.sizes[split]:
            logger.warning("CLUE %s: %s has %d rows, the site wants %d", version, name, len(lines), task.sizes[split])
        file = name.replace("*", version.replace(".", ""))
        files[f"{file}_predict.json"] = _CLUE_FORMATS.get(task.layout, _labels)(lines)
    return files


def _glue_value(task: Task, value: Any) -> str:
    if task.kind == "regression":
        low, high = BOUNDS[task.name]
        return f"{min(max(low, value), high):.3f}"
    return value if task.name in GLUE_NAMES else str(task.labels.index(value))


def _labels(lines: Sequence[Mapping]) -> str:
    return "".join(_json({"id": line["id"], "label": line["prediction"]}) + "\n" for line in lines)


def _answers(lines: Sequence[Mapping]) -> str:
    return _json({line["id"]: line["prediction"] for line in lines})


def _entities(lines: Sequence[Mapping]) -> str:
    rows = (
        {
            "id": line["id"],
            "text": "".join(line["chars"]),
            "label": cluener_label(line["chars"], to_entities(line["prediction"])),
        }
        for line in lines
    )
    return "".join(_json(row) + "\n" for row in rows)


_CLUE_FORMATS: Mapping[str, Callable[[Sequence[Mapping]], str]] = {
    "chid": _answers,
    "qa": _answers,
    "characters": _entities,
}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _refuse_truncated(task: str, folder: Path) -> None:
    result = folder / "result.json"
    settings = read_object(result.read_bytes(), str(result), {"settings"})["settings"]
    used = [f"--{flag}" for flag in SHORTENING if settings.get(flag)]
    if used:
        raise SubmissionError(
            f"{task}: a submission must come from a whole run, got one with {', '.join(used)}; run it without"
        )


def _refuse_repeats(task: str, ids: Sequence) -> None:
    if len(set(ids)) != len(ids):
        again = next(identity for identity in ids if ids.count(identity) > 1)
        raise SubmissionError(f"{task}: every test id must occur once, got {again!r} again; mend the test file")


def _write_zip(path: Path, files: Mapping[str, str]) -> Path:
    """A flat zip whose bytes depend on the texts alone."""
    with atomic_output(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    logger.info("%s: %s", path, ", ".join(files))
    return path
