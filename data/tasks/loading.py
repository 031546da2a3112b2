"""Splits of a task, read from where their rows lie: files of its folder, or a data set of the datasets library."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data.tasks.records import Reading, make_records
from data.tasks.rows import Row, read_rows, read_text, table_rows
from data.tasks.table import plain_name
from data.tasks.task import Task, TaskError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SOURCES = ("auto", "local", "hub")
_BOARDS = ("", "glue", "glue_data", "clue")  # folders of --data_dir in which folders of tasks are looked for
_PAIR_IDS = ("#1 ID", "#2 ID")  # by which MRPC's file of dev ids names rows


@dataclass
class Split:
    """Records of one split.

    records: plain dicts in the order of the source, see data/tasks/records.py.
    source: the file(s) or data set that they come from.
    skipped: rows left out, counted by reason.
    notes: oddities of rows that were kept, counted likewise.
    expected: official number of rows, None where there is none.
    parts: number of records of each file, where a split is read from several.
    """

    records: list[dict]
    source: str
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    expected: int | None = None
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """What `expected` counts: records, or of a cloze the lists of passages."""
        return len({record["group"] for record in self.records if "tag" in record}) or len(self.records)

    @property
    def labelled(self) -> bool:
        """Whether every record has its label (answers, tags); [] is that of a record which has none of several."""
        return bool(self.records) and all(
            record[key] is not None and (record[key] != [] or key == "label")
            for record in self.records
            for key in ("label", "answers", "tags")
            if key in record
        )


@dataclass
class Opened:
    """One split before it is read: its files, or a table; `keep` picks the rows that belong to it.

    flag: names the source in errors. strict: see data.tasks.rows.read_rows.
    """

    name: str
    paths: tuple[Path, ...] = ()
    table: "Dataset | None" = None
    keep: Callable[[Row], bool] | None = None
    flag: str = "--dataset_name"
    strict: bool = False

    def parts(self, header: tuple[str, ...]) -> Iterator[tuple[Path | None, Iterable[Row]]]:
        """Yield (file, rows) of every file, or (None, rows) of the table."""
        for path in self.paths or (None,):
            rows = table_rows(self.table, self.name) if path is None else read_rows(path, header, self.strict)
            yield path, rows if self.keep is None else filter(self.keep, rows)


def find_folder(task: Task, data_dir: str | Path) -> Path | None:
    """Return the folder of the task in data_dir, or in its folders glue and clue, or data_dir itself; None without.

    Names are compared without regard to case, `-`, `_` and an ending `public`.
    """
    data_dir = Path(data_dir)
    for board in _BOARDS:
        for name in (*task.folders, task.name, *task.aliases):
            folder = data_dir / board
            for part in name.split("/"):
                folder = folder and _subfolder(folder, part)
            if folder is not None:
                return folder
    names = {_plain(name) for name in (*task.folders, task.name, *task.aliases)}
    return data_dir if _plain(data_dir.resolve().name) in names else None


def has_training_data(task: Task, data_dir: str | Path) -> bool:
    """Whether the task's folder in data_dir holds what it can be trained on; reads no rows (scripts/find_tasks.sh)."""
    folder = find_folder(task, data_dir)
    return folder is not None and task.train_split in _open_folder(task, folder, training=False)


def _subfolder(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        return None
    matches = sorted(path for path in folder.iterdir() if path.is_dir() and _plain(path.name) == _plain(name))
    return matches[0] if matches else None


def _plain(name: str) -> str:
    return plain_name(name).removesuffix("public")


def load_task(
    task: Task,
    data_dir: str | Path | None = None,
    source: str = "auto",
    *,
    training: bool = True,
    files: Mapping[str, str | Path] | None = None,
    csl_joiner: str = " ",
) -> dict[str, Split]:
    """Return the splits of a task that are there, and log rows, what was skipped and sizes that are not official.

    source: "local" reads data_dir, "hub" the datasets library's copy, "auto" the first where data_dir has the task.
    training: False leaves the training split out, and what only evaluation needs may be missing.
    files: split -> file to read instead of all others; "validation" and "test" are the task's first of these.
    csl_joiner: between CSL's keywords.
    Raises TaskError, see data/tasks/records.py for what is left out and counted.
    """
    splits = {}
    for split, opened in _open_task(task, data_dir, source, training, files).items():
        if split != task.train_split or training:
            splits[split] = read_split(task, split, opened, csl_joiner)
    return splits


def read_split(task: Task, split: str, opened: Opened, csl_joiner: str = " ") -> Split:
    """Read one split and log what was found. TaskError when it has no rows."""
    role = "train" if split == task.train_split else "test" if split in task.test_splits else "validation"
    reading, records, parts = Reading(task, role, csl_joiner), [], {}
    for path, rows in opened.parts(() if role == "test" else task.header):
        if path is not None and task.reader == "chid":
            reading.answers = _cloze_answers(path)
        batch = make_records(rows, reading)
        records += batch
        if path is not None:
            parts[path.name] = len(batch)
    if not records:
        got = f"got none{_counts(reading.skipped)}"
        raise TaskError(f"{opened.name} must hold rows that {task.name} can use, {got}; check the file")
    expected = _official_size(task, split, opened.paths)
    result = Split(records, opened.name, dict(reading.skipped), dict(reading.notes), expected, parts)
    _log(task, split, result)
    return result


def _official_size(task: Task, split: str, paths: tuple[Path, ...]) -> int | None:
    """Rows of these very files where the table has them, else of the split, unless the files are another edition."""
    known = [task.sizes.get(path.name) for path in paths]
    if known and None not in known:
        return sum(known)
    return None if {path.name for path in paths} & set(task.copies.get(split, ())) else task.sizes.get(split)


def _log(task: Task, split: str, result: Split) -> None:
    logger.info("%s %s: %d rows from %s", task.name, split, result.rows, result.source)
    if result.skipped:
        logger.warning("%s %s: rows left out%s", task.name, split, _counts(result.skipped))
    if result.notes:
        logger.warning("%s %s: kept, but mind%s", task.name, split, _counts(result.notes))
    if result.expected not in (None, result.rows, result.rows + sum(result.skipped.values())):
        advice = f"check that {result.source} is the official file and complete"
        numbers = result.expected, result.rows
        logger.warning("%s %s: official is a size of %d rows, got %d; %s", task.name, split, *numbers, advice)


def _counts(tally: Mapping[str, int]) -> str:
    return "".join(f", {reason}: {count}" for reason, count in sorted(tally.items()))


def _open_task(
    task: Task, data_dir: str | Path | None, source: str, training: bool, files: Mapping[str, str | Path] | None
) -> dict[str, Opened]:
    if source not in SOURCES:
        raise TaskError(f"--source must be one of {', '.join(SOURCES)}, got {source!r}; choose one of them")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise TaskError(f"--data_dir must name an existing folder, got {str(data_dir)!r}; check the path")
    if files:
        usual = {"validation": task.eval_splits[:1], "test": task.test_splits[:1]}
        names = {split: next(iter(usual.get(split, ())), split) for split in files}
        return {
            names[split]: Opened(str(path), (Path(path),), strict=Path(path).suffix == ".csv")
            for split, path in files.items()
        }
    folder = find_folder(task, data_dir) if data_dir is not None and source != "hub" else None
    if folder is not None:
        return _open_folder(task, folder, training)
    if source == "local" or task.hub is None:
        raise TaskError(
            f"--data_dir must hold the folder {' or '.join(task.folders)} of {task.name}, got {data_dir}; "
            "put its files there"
        )
    return _open_hub(task)


def _open_folder(task: Task, folder: Path, training: bool) -> dict[str, Opened]:
    if (folder / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        return _tables(task, load_from_disk(str(folder)), str(folder))
    opened = {}
    for split, names in task.files.items():
        paths = _first_files(folder, (*names, *task.copies.get(split, ()))) or _shards(folder, split)
        if paths:
            opened[split] = Opened(" + ".join(map(str, paths)), paths)
    if not opened:
        names = ", ".join(name for names in task.files.values() for name in names)
        raise TaskError(
            f"--data_dir must hold files of {task.name} such as {names}, got none in {folder}; check the names"
        )
    return _divide(task, folder, opened, training)


def _first_files(folder: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """The files that are there of the first name of which there is any; a name may join several by "+"."""
    for name in names:
        paths = tuple(folder / part for part in name.split("+") if (folder / part).is_file())
        if paths:
            return paths
    return ()


def _shards(folder: Path, split: str) -> tuple[Path, ...]:
    """Parquet files as the hub holds them."""
    name = re.compile(rf"{re.escape(split)}(-\d+-of-\d+)?\.parquet")
    paths = [path for part in (folder, folder / "data") if part.is_dir() for path in sorted(part.iterdir())]
    return tuple(path for path in paths if name.fullmatch(path.name))


def _divide(task: Task, folder: Path, opened: dict[str, Opened], training: bool) -> dict[str, Opened]:
    """Divide the file that serves as both training and validation data by the ids of the latter's rows (MRPC)."""
    train, validation = opened.get("train"), opened.get("validation")
    if not task.dev_ids or train is None or validation is None or train.paths != validation.paths:
        return opened
    path = next((folder / name for name in task.dev_ids if (folder / name).is_file()), None)
    if path is None:
        missing = (
            f"{folder} must hold {' or '.join(task.dev_ids)} beside {train.paths[0].name}, got neither; without the "
            f"official list of ids {task.name} has no validation rows: fetch it, or ready train.tsv and dev.tsv"
        )
        if training:
            raise TaskError(missing)
        logger.warning("%s: only the test set is read; %s", task.name, missing)
        return {split: source for split, source in opened.items() if source.paths != train.paths}
    lines = read_text(path).rstrip("\r\n").split("\n")
    listed = {tuple(line.removesuffix("\r").split("\t")[:2]) for line in lines}
    train.keep = lambda row: tuple(row.values.get(name) for name in _PAIR_IDS) not in listed
    validation.keep = lambda row: tuple(row.values.get(name) for name in _PAIR_IDS) in listed
    return opened


def _cloze_answers(path: Path) -> dict[str, int] | None:
    """ChID's answers lie beside the passages, in a file of their own."""
    file = path.with_name(f"{path.stem}_answer{path.suffix}")
    if not file.is_file():
        return None
    answers = next((row.values for row in read_rows(file)), None)
    if not isinstance(answers, dict):
        raise TaskError(f"{file} must be an object of blanks and their answers, got {str(answers)[:60]!r}; mend it")
    return answers


def open_dataset(name: str, config: str | None) -> dict[str, Opened]:
    """The training, validation and test splits of a folder that datasets has saved, or of what it can load by name."""
    from datasets import load_from_disk

    if (Path(name) / "dataset_dict.json").is_file():
        tables = load_from_disk(name)
    else:
        tables = _load(
            name, config, f"--dataset_name {name} must be a data set", "name its files with --train_file and the like"
        )
    usual = {"train": "train", "validation": "validation", "dev": "validation", "val": "validation", "test": "test"}
    opened = {
        usual[split]: Opened(f"{name} {split}", table=table) for split, table in tables.items() if split in usual
    }
    if not opened:
        got = ", ".join(tables) or "none"
        raise TaskError(f"--dataset_name {name} must have the split train, validation or test, got {got}; rename it")
    if left := sorted(tables.keys() - usual.keys()):
        logger.warning("%s: splits that are not read: %s", name, ", ".join(left))
    return dict(sorted(opened.items(), key=lambda item: list(usual.values()).index(item[0])))


def _load(name: str, config: str | None, what: str, instead: str) -> Mapping[str, "Dataset"]:
    """datasets.load_dataset. TaskError that says what was wanted and what to do instead."""
    from datasets import load_dataset

    try:
        return load_dataset(name, config)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TaskError(f"{what}, got: {reason}; {instead}") from error


def _open_hub(task: Task) -> dict[str, Opened]:
    repository, config = task.hub
    what = f"--source hub must reach {repository} {config} for {task.name}"
    return _tables(task, _load(repository, config, what, "copy its files into --data_dir"), f"{repository} {config}")


def _tables(task: Task, tables: Mapping[str, "Dataset"], name: str) -> dict[str, Opened]:
    known = dict.fromkeys((task.train_split, *task.eval_splits, *task.test_splits, *task.files))
    return {split: Opened(f"{name} {split}", table=tables[split]) for split in known if split in tables}
