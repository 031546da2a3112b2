"""Rows of the files that tasks come in, tab-separated, comma-separated, JSON, Parquet and Arrow; what a field means.

Text is UTF-8, with or without a byte order mark. Lines end at "\\n", before which "\\r" is dropped, and nowhere else.
Tab-separated files have no quoting; comma-separated ones have. JSON may be one object a line, objects one after the
other over any number of lines, one array, or SQuAD's tree, of which every question is a row.

Tables lose types on their way through files: 1 becomes "1.0", True "True", a list "['a', 'b']". Only what is certain
is undone here; nothing is ever evaluated.
"""

import ast
import csv
import io
import json
import math
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq

from data.foreign import foreign_errors
from data.tasks.task import TaskError

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = (".tsv", ".txt", ".csv", ".json", ".jsonl", ".parquet", ".arrow")
_IDS = ("id", "corpus_id", "index", "idx")  # what data sets call a row's own id, the most telling first
_BETWEEN = re.compile(r"[ \t\r\n]*")
_BETWEEN_ITEMS = re.compile(r"[ \t\r\n,]*")
_AROUND = " \t\r\n\v\f\u00a0\u3000\u200b\ufeff"  # white space and marks that nobody sees
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_LIST_OF_TEXTS = re.compile(rf"\[\s*(?:{_QUOTED})(?:[\s,]+(?:{_QUOTED}))*\s*,?\s*\]", re.DOTALL)
_LIST_OF_NUMBERS = re.compile(r"\[\s*-?[0-9]+(?:[\s,]+-?[0-9]+)*\s*\]")
_ITEM = re.compile(rf"{_QUOTED}|-?[0-9]+", re.DOTALL)
_BEGINS_LIST = re.compile(r"\[\s*['\"]")
_HALVES = re.compile(r"\\u[dD][89a-fA-F]")  # escapes of halves of a character, which may stand alone


class Row(NamedTuple):
    """where: file:line, or data set and row. id: the row's own one, or else its number, which counts from 0.

    values: by column. A field that a short line lacks is None; those beyond the header stand under the key None. C3's
    rows are lists.
    """

    where: str
    id: int | str
    values: Any


def read_rows(path: Path, header: Sequence[str] = (), strict: bool = False) -> Iterator[Row]:
    """Yield the rows of one file, or of one folder that datasets has saved.

    header: columns of a tab-separated file without a header. strict: every line must have as many fields as the
    header, which some official files have not. TaskError with file:line where the file is not what its name says.
    """
    if path.is_dir() or path.suffix in (".parquet", ".arrow"):
        yield from table_rows(_open_table(path), str(path))
        return
    if path.suffix not in FORMATS:
        raise TaskError(f"{path} must end in one of {', '.join(FORMATS)}; rename or convert it")
    text = read_text(path)
    if path.suffix in (".tsv", ".txt"):
        yield from _tab_rows(text, path, header, strict)
    elif path.suffix == ".csv":
        yield from _comma_rows(text, path, strict)
    else:
        index = 0
        for line, value in _json_values(text, path):
            for at, values in _questions(value, line, text, path):
                own = values if isinstance(values, dict) else {}
                yield Row(f"{path}:{at}", _own_id(own, index), values)
                index += 1


def table_rows(table: "Dataset", name: str) -> Iterator[Row]:
    """Yield the rows of a data set; integers that stand for names become the names, and those below 0 None."""
    from datasets import ClassLabel

    names = {}
    for column, feature in table.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, ClassLabel):
            names[column] = inner.names
    for index, values in enumerate(table):
        for column, known in names.items():
            values[column] = _names(values[column], known)
        yield Row(f"{name}:{index + 1}", _own_id(values, index), values)


def read_text(path: Path) -> str:
    """Return what a file holds, without the byte order mark. TaskError when it is absent or not UTF-8."""
    if not path.is_file():
        raise TaskError(f"{path} must be a file, got none; check the path")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TaskError(f"{path}:{line}: must be UTF-8, got {error}; convert the file") from None


def _open_table(path: Path) -> "Dataset":
    from datasets import Dataset, load_from_disk

    with foreign_errors(path, "a table that can be read", "fetch it again or write it anew", TaskError):
        if path.suffix == ".parquet":
            table = Dataset(pq.read_table(path))
        elif path.suffix == ".arrow":
            table = Dataset.from_file(str(path))
        elif not (path / "state.json").is_file():
            raise TaskError(f"{path} must be a data set that save_to_disk wrote, got another folder; name a file")
        else:
            table = load_from_disk(str(path))
        for column in table.data.columns:
            column.validate(full=True)
    return table


def _names(value: int | list | None, known: Sequence[str]) -> str | list | None:
    if isinstance(value, list):
        return [_names(item, known) for item in value]
    return None if value is None or value < 0 else known[value]


def _own_id(values: dict, index: int) -> int | str:
    return next((values[key] for key in _IDS if isinstance(values.get(key), int | str)), index)


def _tab_rows(text: str, path: Path, header: Sequence[str], strict: bool) -> Iterator[Row]:
    lines = [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]
    first = 0 if header else 1
    header = header or [name.strip() for name in lines[0].split("\t")]
    if strict:
        _check_header(header, f"{path}:1", ",")
    for index, line in enumerate(lines[first:] if text else ()):
        fields = line.split("\t")
        where = f"{path}:{first + index + 1}"
        yield Row(where, index, _values(fields, header, where, strict and line.strip() != ""))


def _comma_rows(text: str, path: Path, strict: bool) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, index = None, 0
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            reason = f"{error}; mend the quotes, or name a tab-separated file .tsv"
            raise TaskError(f"{where}: must be comma-separated, got {reason}") from None
        if fields is None:
            return
        if not fields:  # a blank line
            continue
        if header is None:
            header = [name.strip() for name in fields]
            if strict:
                _check_header(header, where, "\t;")
            continue
        yield Row(where, index, _values(fields, header, where, strict))
        index += 1


def _values(fields: Sequence[str], header: Sequence[str], where: str, strict: bool) -> dict:
    """Fields by column; see Row for those that are too few or too many, which strict refuses."""
    if strict and len(fields) != len(header):
        got = f"got {len(fields)}: {str(fields)[:80]}"
        raise TaskError(
            f"{where}: must have {len(header)} fields, as the header has ({', '.join(header)}), {got}; quote texts "
            "that hold the separator, or mend the line"
        )
    values = dict.fromkeys(header) | dict(zip(header, fields, strict=False))
    if len(fields) > len(header):
        values[None] = fields[len(header) :]
    return values


def _check_header(header: Sequence[str], where: str, others: str) -> None:
    """TaskError for a name that stands there twice, and for one column that another separator would make several."""
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise TaskError(f"{where}: must name each column once, got {twice!r} twice; rename one")
    if len(header) == 1 and any(mark in header[0] for mark in others):
        raise TaskError(
            f"{where}: must separate its columns as {Path(where.rpartition(':')[0]).suffix} files do, got the one "
            f"column {header[0]!r}; convert the file or name it .tsv or .csv"
        )


def _json_values(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of the values that stand one after the other, or are the items of one array."""
    decoder, line, counted = json.JSONDecoder(), 1, 0
    position = _BETWEEN.match(text).end()
    array = text.startswith("[", position)
    between = _BETWEEN_ITEMS if array else _BETWEEN
    halves = _HALVES.search(text) is not None
    position = between.match(text, position + array).end()
    while position < len(text) and not (array and text[position] == "]"):
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
            if halves:
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            got = f"{text[counted : counted + 60]!r} ({' '.join(str(error).split())})"
            raise TaskError(f"{path}:{line}: must be JSON, got {got}; mend the line") from None
        yield line, value
        position = between.match(text, position).end()
    if array and position >= len(text):
        raise TaskError(f"{path}:{line}: must be an array that ends in ], got the end of the file; fetch it again")
    if array and (rest := text[position + 1 :].strip()):
        line += text.count("\n", counted, position)
        raise TaskError(f"{path}:{line}: must end with the ] of its array, got {rest[:60]!r}; mend the file")


def _questions(value: Any, line: int, text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, row) of what one JSON value holds: itself, or the rows or questions under its key `data`."""
    if not isinstance(value, dict | list):
        raise TaskError(f"{path}:{line}: must be a JSON object, got {repr(value)[:60]}; mend the line")
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        yield line, value
        return
    position = 0
    for question, context in _leaves(value["data"], f"{path}:{line}"):
        if position >= 0 and "id" in question:
            at = text.find(json.dumps(question["id"], ensure_ascii=False), position)
            if at >= 0:
                line += text.count("\n", position, at)
            position = at
        yield line, question if context is None else {"context": context, **question}


def _leaves(data: list, where: str) -> Iterator[tuple[dict, Any]]:
    """Yield (row, context) of the rows, paragraphs and questions of SQuAD's tree; the context of a question alone."""
    for item in _objects(data, "data", where):
        for paragraph in _objects(item.get("paragraphs", [item]), "paragraphs", where):
            if "qas" not in paragraph:
                yield paragraph, None
                continue
            if "context" not in paragraph:
                raise TaskError(f"{where}: paragraphs with qas must have a context, got one without; mend the file")
            for question in _objects(paragraph["qas"], "qas", where):
                yield question, paragraph["context"]


def _objects(value: Any, name: str, where: str) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise TaskError(f"{where}: {name} must be a list of objects, got {str(value)[:60]!r}; mend the file")
    return value


def class_name(value: Any) -> str:
    """The name of a class: 1, 1.0 and "1.0" are one, as are True and "true", whatever blanks stand around them.

    Codes such as "01" stay as they are, and so does every other text.
    """
    name = str(value).strip(_AROUND)
    if name.lower() in ("true", "false"):
        return name.lower()
    if _NUMBER.fullmatch(name) and "." in name:
        name = name.rstrip("0").rstrip(".")
        return "0" if name == "-0" else name
    return name


def like(name: str) -> str:
    """What names that only case, width or inner blanks tell apart have in common."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def is_missing(value: Any) -> bool:
    """Whether a field is empty or not a number, as tables write what they lack."""
    if isinstance(value, str):
        return value.strip(_AROUND) in ("", "nan", "NaN")
    return value is None or (isinstance(value, float) and math.isnan(value))


def listed(value: Any, numbers: bool = False) -> list | None:
    """The items of a list, or of a list written as text by JSON, Python or numpy; None for what is no list.

    numbers: take whole numbers between brackets for a list, too. ValueError for text that begins as a list of texts
    and goes on otherwise.
    """
    if not isinstance(value, str):
        return list(value) if isinstance(value, list | tuple) else None
    text = value.strip(_AROUND)
    if text == "[]":
        return []
    if _LIST_OF_TEXTS.fullmatch(text) or (numbers and _LIST_OF_NUMBERS.fullmatch(text)):
        return [_literal(item) for item in _ITEM.findall(text)]
    if _BEGINS_LIST.match(text):
        raise ValueError(f"a list of texts must be whole, got {text[-60:]!r}")
    return None


def _literal(text: str) -> str:
    """What a quoted text or a number stands for, as text."""
    if text[0] not in "'\"":
        return text
    if "\\" not in text:
        return text[1:-1]
    try:
        with warnings.catch_warnings(action="ignore"):  # about escapes that Python has not
            value = json.loads(text) if text[0] == '"' else ast.literal_eval(text)
        value.encode()
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"a quoted text must be one of Python or JSON, got {text[:60]!r} ({error})") from None
    return value


def written(text: str) -> Any:
    """The object that JSON or Python wrote as text, with numpy's arrays as lists. ValueError for anything else."""
    for form in (text, re.sub(r"\barray\((\[.*?\])(?:,\s*dtype=\w+)?\)", r"\1", text, flags=re.DOTALL)):
        for read in (json.loads, ast.literal_eval):
            try:
                with warnings.catch_warnings(action="ignore"):
                    value = read(form)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(value, dict | list):
                return value
    raise ValueError(f"must be an object or a list, got {text[:60]!r}")


def choice_number(label: Any, choices: Sequence[str], first: str | None = None) -> int:
    """Index of the right choice, from 0 on, that a number, a letter from A on or the choice's own text stands for.

    first: "index" or "text", which a number is where it may be both; None refuses such. ValueError for what is none
    of these or may be two of them.
    """
    name = class_name(label)
    texts = {index for index, choice in enumerate(choices) if class_name(choice) == name}
    positions = set()
    if re.fullmatch("[0-9]+", name):
        positions = {int(name)} if int(name) < len(choices) else set()
        if first == "index" or (first == "text" and texts):
            texts, positions = (set(), positions) if first == "index" else (texts, set())
    elif re.fullmatch("[A-Za-z]", name):
        index = ord(name.upper()) - ord("A")
        positions = {index} if index < len(choices) else set()
    matches = positions | texts
    if not matches:
        raise ValueError(f"must be a number below {len(choices)} (from 0 on), a letter or a choice, got {label!r}")
    if len(matches) > 1:
        either = " or ".join(map(str, sorted(matches)))
        raise ValueError(f"must stand for one choice, got {label!r}, which may be choice {either} (from 0 on)")
    return matches.pop()
