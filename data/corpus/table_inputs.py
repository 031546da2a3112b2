"""Which source of documents a file, a folder or the name of a data set stands for.

Lines of text and JSON lines are read as they lie, tables by data/tables.py; saved data sets and the hub go through
the datasets library, which is imported only then. What is not read and which column is are printed.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import UserError
from data.corpus.sources import LineSource, Source, TableSource
from data.files import DataError, first_objects, input_files, refuse_foreign, refuse_json, say_left_out
from data.foreign import foreign_errors
from data.tables import read_column

KINDS = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
}
_UNNAMED = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # how pandas calls the column of row numbers
_NUMBER = re.compile(r"\s*[-+]?[\d.,]*\d[\d.,]*([eE][-+]?\d+)?\s*")
_OTHER_SPLITS = {"dev", "valid", "validation", "test", "eval"}
_DEAD = {"wikipedia": "wikimedia/wikipedia --dataset_config_name 20231101.{language}"}  # name -> what took its place


class InputError(UserError):
    """Input that cannot be used as named; the message starts with the flag."""


def open_files(paths: list[str], column: str | None, cache_dir: str | None, root: Path | None = None) -> Source:
    """The documents of --train_file: text (a line each), JSON lines, JSON, CSV or Parquet, all files alike.

    root: of what lies below it the manifest has names from there on.
    """
    files = [Path(path) for path in paths]
    for file in files:
        if not file.is_file():
            raise InputError(f"--train_file must name existing files, got {str(file)!r}; check the path")
        if [other.resolve() for other in files].count(file.resolve()) > 1:
            raise InputError(f"--train_file must name each file once, got {str(file)!r} again; leave it out")
    if root is None or not files[0].is_relative_to(root):
        root = Path(files[0].anchor)
    root, name = (files[0], files[0].name) if len(files) == 1 else (root, "")
    return _open(files, root, name, column, cache_dir, "--train_file")


def open_dataset(name: str, config: str | None, column: str | None, cache_dir: str | None) -> Source:
    """The documents of --dataset_name: a local folder of files or one that datasets has saved, or a name of the hub.

    Only what belongs to the train split is read: where files are named train, these, else all but those named dev,
    valid(ation), test or eval.
    """
    folder = Path(name, config or "") if Path(name, config or "").is_dir() else Path(name)
    if not folder.is_dir():
        return _open_hub(name, config, column, cache_dir)
    saved = folder
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent for path in folder.glob("*/state.json"))
        saved = folder / "train"
        if saved not in splits:
            raise InputError(
                f"--dataset_name must be a data set with a split train, got {name!r} with "
                f"{', '.join(split.name for split in splits) or 'none'}; name the folder of one of them"
            )
        say_left_out([split for split in splits if split != saved], "another split than train")
    if (saved / "state.json").is_file():
        from datasets import load_from_disk

        try:
            str(saved).encode()
        except UnicodeEncodeError:
            raise InputError(
                f"--dataset_name must be a folder whose name is UTF-8, as datasets needs, got {os.fsencode(saved)!r}; "
                "rename it, and start Python without LC_ALL=C and PYTHONUTF8=0"
            ) from None
        with foreign_errors(saved, "a data set that save_to_disk wrote", "copy it again or save it anew"):
            return _table(load_from_disk(str(saved)), name, column, "--dataset_name")
    everything = input_files(folder, "--dataset_name", "")
    files = [file for file in everything if file.suffix.lower() in KINDS]
    say_left_out(
        [file for file in set(everything) - set(files) if not file.name.startswith(".")], "of no kind that is read"
    )
    words = {file: set(re.split(r"[\W_]+", str(file.relative_to(folder)))) for file in files}
    train = [file for file in files if "train" in words[file]]
    chosen = train or [file for file in files if not words[file] & _OTHER_SPLITS]
    reason = "without train in its name, beside files with it" if train else "named as another split than train"
    say_left_out([file for file in files if file not in set(chosen)], f"{reason}; --train_file reads any file")
    files = chosen
    if not files:
        raise InputError(f"--dataset_name must hold files ending in {', '.join(KINDS)}, got the folder {name!r}")
    name = files[0].name if len(files) == 1 else folder.name
    return _open(files, folder, name, column, cache_dir, "--dataset_name")


def _open(files: list[Path], root: Path, name: str, column: str | None, cache_dir: str | None, flag: str) -> Source:
    """name: what the manifest calls tables; lines are called as their files below `root`."""
    kinds = {kind_of(file, flag) for file in files}
    if len(kinds) > 1:
        raise InputError(f"{flag} must name files of one kind, got {' and '.join(sorted(kinds))}; convert some")
    (kind,) = kinds
    if kind != "parquet":
        refuse_foreign(files, flag)
    if kind == "text":
        refuse_json(files, flag, "rename it to end in .jsonl")
        return LineSource(files, root, None)
    if kind == "jsonl":
        key = choose_column(_first_keys(files, flag), column, flag)
        if key != column:
            refuse_numbers([record.get(key) for record in first_objects(files[0], 100) or []], key)
        return LineSource(files, root, key)
    choose = partial(choose_column, column=column, flag=flag)
    return _source(*read_column(files, kind, choose, cache_folder(cache_dir)), name, column)


def cache_folder(cache_dir: str | None) -> Path:
    """Where the datasets library keeps what it reads."""
    if cache_dir or (cache_dir := os.environ.get("HF_DATASETS_CACHE")):
        return Path(cache_dir)
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME, "datasets")


def kind_of(file: Path, flag: str) -> str:
    """Kind of a file by its ending; .json holds JSON lines if its first line is an object."""
    kind = KINDS.get(file.suffix.lower())
    if kind is None:
        refuse_foreign([file], flag)
        raise InputError(f"{flag} must end in one of {', '.join(KINDS)}, got {str(file)!r}; rename or convert it")
    if kind == "json":
        with file.open("rb") as handle:
            first = next((line for line in handle if line.strip()), b"")
        try:
            kind = "jsonl" if isinstance(json.loads(first), dict) else kind
        except (ValueError, RecursionError):  # an object or a list over several lines
            return kind
    return kind


def _first_keys(files: list[Path], flag: str) -> list[str]:
    """The keys of the first line."""
    for file in files:
        with file.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    record = error
                if not isinstance(record, dict):
                    raise DataError(
                        f"{file}:{number}: must be one JSON object, got {line[:60]!r} ({record}); mend the line"
                    )
                return list(record)
    raise InputError(f"{flag} must hold text, got only empty lines; check the files")


def choose_column(names: list[str], column: str | None, flag: str, where: str | Path | None = None) -> str:
    """The column that the user named, or `text`, or else the first one that has a name; it is printed.

    where: the file or folder that has these columns.
    """
    of_them = f"those of {where}" if where else "them"
    if column is not None and column not in names:
        raise InputError(f"--text_column must be one of {', '.join(names)}, got {column}; name one of {of_them}")
    if not names:
        raise InputError(f"{flag} must hold a column of text, got none; check the files")
    if column is None:
        column = (
            "text" if "text" in names else next((name for name in names if not _UNNAMED.fullmatch(name)), names[0])
        )
        if column != "text" or len(names) > 1:
            guess = "" if column == "text" else ", a guess"
            print(f"reading {column!r} of {', '.join(names)}{guess} (--text_column)", file=sys.stderr)
    return column


def _table(dataset, name: str, column: str | None, flag: str) -> TableSource:
    chosen = choose_column(dataset.column_names, column, flag, name)
    if dataset._indices is not None:  # rows that were selected or shuffled: what the files hold is not what is meant
        dataset = dataset.flatten_indices()
    values = dataset.data.column(chosen)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise InputError(f"--text_column must name a column of strings, got {chosen} of type {values.type} in {name}")
    values.validate(full=True)
    return _source(values, chosen, name, column, [Path(file["filename"]) for file in dataset.cache_files])


def _source(
    values: pa.ChunkedArray, chosen: str, name: str, column: str | None, files: Sequence[Path] = ()
) -> TableSource:
    """The texts of a column, of which those that are missing are counted."""
    if column is None:
        refuse_numbers(values.slice(0, 100).to_pylist(), chosen)
    empty = values.null_count + (pc.sum(pc.equal(pc.binary_length(values), 0)).as_py() or 0)
    if empty:
        print(f"left out: {empty:,} of the {len(values):,} rows of {name} (no {chosen!r})", file=sys.stderr)
    return TableSource(values, name, files)


def refuse_numbers(values: list, chosen: str) -> None:
    """InputError when a column that nobody named has nothing but numbers at its beginning."""
    strings = [value for value in values if isinstance(value, str) and value.strip()]
    if chosen != "text" and strings and all(map(_NUMBER.fullmatch, strings)):
        raise InputError(f"--text_column must name a column of text, got the numbers of {chosen!r}; name another")


def _open_hub(name: str, config: str | None, column: str | None, cache_dir: str | None) -> Source:
    if name in _DEAD:
        language, typed = (config or "").rpartition(".")[2] or "en", " ".join(filter(None, (name, config)))
        raise InputError(
            f"--dataset_name {typed} must be a folder or a data set that the hub still serves, got one whose loading "
            f"script is gone; use --dataset_name {_DEAD[name].format(language=language)}"
        )
    from datasets import load_dataset

    try:
        dataset = load_dataset(name, config, split="train", cache_dir=cache_dir)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--dataset_name {name} must be a local folder or a reachable hub name, got: {reason}; copy the files to "
            "a folder and give its path"
        ) from error
    return _table(dataset, name, column, "--dataset_name")
