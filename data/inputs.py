"""Which source of documents a file, a folder or the name of a data set stands for.

Lines of text and JSON lines are read as they lie; everything else goes through the datasets library, which keeps an
Arrow copy in its cache and is imported only then.
"""

import json
import re
from pathlib import Path

import pyarrow as pa

from common.errors import UserError
from data.jsonl import DataError, input_files
from data.sources import LineSource, Source, TableSource

KINDS = {
    ".txt": "text", ".text": "text", ".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet",
}  # fmt: skip
_OTHER_SPLITS = {"dev", "valid", "validation", "test", "eval"}
_DEAD = {"wikipedia": "wikimedia/wikipedia --dataset_config_name 20231101.{language}"}  # name -> what took its place


class InputError(UserError):
    """Input that cannot be used as named; the message starts with the flag."""


def open_files(paths: list[str], column: str | None, cache_dir: str | None) -> Source:
    """The documents of --train_file: text (a line each), JSON lines, JSON, CSV or Parquet, all files alike."""
    files = [Path(path) for path in paths]
    for file in files:
        if not file.is_file():
            raise InputError(f"--train_file must name existing files, got {str(file)!r}; check the path")
    root = files[0] if len(files) == 1 else Path(files[0].anchor)
    return _open(files, root, column, cache_dir, "--train_file")


def open_dataset(name: str, config: str | None, column: str | None, cache_dir: str | None) -> Source:
    """The documents of --dataset_name: a local folder of files or one that datasets has saved, or a name of the hub.

    Only what belongs to the train split is read: where files are named train, these, else all but those named dev,
    valid(ation), test or eval.
    """
    folder = Path(name, config or "") if Path(name, config or "").is_dir() else Path(name)
    if not folder.is_dir():
        return _open_hub(name, config, column, cache_dir)
    saved = folder / "train" if (folder / "dataset_dict.json").is_file() else folder
    if (saved / "state.json").is_file():
        from datasets import load_from_disk

        return _table(load_from_disk(str(saved)), name, column, "--dataset_name")
    files = [file for file in input_files(folder, "--dataset_name", "") if file.suffix in KINDS]
    words = {file: set(re.split(r"[\W_]+", str(file.relative_to(folder)))) for file in files}
    train = [file for file in files if "train" in words[file]]
    files = train or [file for file in files if not words[file] & _OTHER_SPLITS]
    if not files:
        raise InputError(f"--dataset_name must hold files ending in {', '.join(KINDS)}, got the folder {name!r}")
    return _open(files, folder, column, cache_dir, "--dataset_name")


def _open(files: list[Path], root: Path, column: str | None, cache_dir: str | None, flag: str) -> Source:
    kinds = {_kind(file, flag) for file in files}
    if len(kinds) > 1:
        raise InputError(f"{flag} must name files of one kind, got {' and '.join(sorted(kinds))}; convert some")
    (kind,) = kinds
    if kind == "text":
        return LineSource(files, root, None)
    if kind == "jsonl":
        return LineSource(files, root, column or _first_key(files, flag))
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    options = {"sep": "\t"} if kind == "csv" and files[0].suffix == ".tsv" else {}
    names = [str(file) for file in files]
    try:
        found = load_dataset(kind, data_files=names, split="train", cache_dir=cache_dir, **options)
    except DatasetGenerationError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(f"{flag} must be {kind} that can be read, got: {reason}; mend {', '.join(names)}") from error
    return _table(found, files[0].name if len(files) == 1 else root.name, column, flag)


def _kind(file: Path, flag: str) -> str:
    """Kind of a file by its ending; .json holds JSON lines if its first line is an object."""
    if file.suffix not in KINDS:
        raise InputError(f"{flag} must end in one of {', '.join(KINDS)}, got {str(file)!r}; rename or convert it")
    kind = KINDS[file.suffix]
    if kind == "json":
        with file.open("rb") as handle:
            first = next((line for line in handle if line.strip()), b"")
        try:
            kind = "jsonl" if isinstance(json.loads(first), dict) else kind
        except ValueError:  # an object or a list over several lines
            return kind
    return kind


def _first_key(files: list[Path], flag: str) -> str:
    """The key `text`, or else the first key of the first line."""
    for file in files:
        with file.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    try:
                        keys = list(json.loads(line))
                    except (ValueError, TypeError) as error:
                        raise DataError(
                            f"{file}:{number}: must be one JSON object, got {line[:60]!r} ({error}); mend the line"
                        ) from None
                    return _choose(keys, None, flag)
    raise InputError(f"{flag} must hold text, got only empty lines; check the files")


def _choose(names: list[str], column: str | None, flag: str) -> str:
    """The column that the user named, or `text`, or else the first one."""
    if column is not None and column not in names:
        raise InputError(f"--text_column must be one of {', '.join(names)}, got {column}; name one of them")
    if not names:
        raise InputError(f"{flag} must hold a column of text, got none; check the files")
    return column or ("text" if "text" in names else names[0])


def _table(found, name: str, column: str | None, flag: str) -> TableSource:
    column = _choose(found.column_names, column, flag)
    if found._indices is not None:  # rows that were selected or shuffled: what the files hold is not what is meant
        found = found.flatten_indices()
    values = found.data.column(column)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise InputError(f"--text_column must name a column of strings, got {column} of type {values.type}")
    return TableSource(values, name)


def _open_hub(name: str, config: str | None, column: str | None, cache_dir: str | None) -> Source:
    if name in _DEAD:
        language, given = (config or "").rpartition(".")[2] or "en", " ".join(filter(None, (name, config)))
        raise InputError(
            f"--dataset_name {given} must be a folder or a data set that the hub still serves, got one whose loading "
            f"script is gone; use --dataset_name {_DEAD[name].format(language=language)}"
        )
    from datasets import load_dataset

    try:
        found = load_dataset(name, config, split="train", cache_dir=cache_dir)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--dataset_name {name} must be a local folder or a reachable hub name, got: {reason}; copy the files to "
            "a folder and give its path"
        ) from error
    return _table(found, name, column, "--dataset_name")
