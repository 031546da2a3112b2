"""One column of tables, CSV, TSV, JSON arrays and Parquet: every value as it is written.

Tab-separated values are never quoted: a line is a row, and a quotation mark one character of it. Comma-separated ones
are as in RFC 4180. Blank lines are no rows. Nothing is a missing value but JSON's null.
"""

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from data.files import DataError
from data.foreign import foreign_errors
from data.unchanged_inputs import open_steady, stamp

_LONGEST = 1 << 28  # characters of a field
_CURE = "fetch it again or write it anew"  # a damaged Parquet file
_ROWS = 1000  # of a batch, as the datasets library cuts tables; the manifest's hash depends on it


def read_column(files: list[Path], kind: str, choose: Callable[..., str], folder: Path) -> tuple[pa.ChunkedArray, str]:
    """Return the column that `choose` names among those of the first file, `where`, and its name; strings and nulls.

    kind: csv, tsv, json or parquet; folder: where the file of the memory map is made, which is gone from there when
    this returns. DataError with file:line on what is no such table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    column, schema = None, pa.schema([("text", pa.string())])
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".arrow") as handle:
        with pa.ipc.new_stream(handle, schema) as out:
            for file in files:
                names, arrays = _parquet(file) if kind == "parquet" else _text(file, kind)
                column = column or choose(names, where=file)
                if names.count(column) != 1:
                    how = "once, got it twice" if column in names else f", got {', '.join(names) or 'none'}"
                    raise DataError(f"{file}:1: must have the column {column!r} {how}; mend the header")
                for batch in arrays(column):
                    out.write_batch(pa.record_batch([batch], schema=schema))
        handle.flush()
        with pa.memory_map(os.fsencode(handle.name)) as source:  # the map outlives the open file
            return pa.ipc.open_stream(source).read_all().column(0), column


def column_names(file: Path, kind: str) -> list[str]:
    """The names of a table's columns; kind as for `read_column`."""
    return (_parquet(file) if kind == "parquet" else _text(file, kind))[0]


def parquet_texts(source: BinaryIO, name: str, column: str) -> Iterator[str | None]:
    """The values of a column of strings of an open Parquet file of this name, a row group in memory at a time."""
    with foreign_errors(Path(name), "Parquet", _CURE):
        table = pq.ParquetFile(source)
    names = table.schema_arrow.names
    if names.count(column) != 1:
        raise DataError(f"{name}: must have the column {column!r} once, got {', '.join(names)}; name the right one")
    for batch in _column(table, name, column):
        yield from batch.to_pylist()


def _text(file: Path, kind: str) -> tuple[list[str], Callable[[str], Iterator[pa.Array]]]:
    """The names of the columns, and what makes of one of them its values, _ROWS at a time."""
    csv.field_size_limit(_LONGEST)  # 131,072 characters are no long text
    rows = _rows(file, kind)
    _, names = next(rows, (1, []))

    def arrays(column):
        values = (_value(file, line, fields, names, column) for line, fields in rows)
        while batch := list(islice(values, _ROWS)):
            yield pa.array(batch, pa.string())

    return names, arrays


def _parquet(file: Path) -> tuple[list[str], Callable[[str], Iterator[pa.Array]]]:
    """As `_text`. DataError for a column of no strings and for a damaged file."""
    before = stamp(file)
    with foreign_errors(file, "Parquet", _CURE), pa.OSFile(os.fsencode(file)) as source:
        names = pq.ParquetFile(source).schema_arrow.names

    def arrays(column):
        with open_steady(file, before), pa.OSFile(os.fsencode(file)) as source:
            with foreign_errors(file, "Parquet", _CURE):
                table = pq.ParquetFile(source)
            yield from _column(table, file, column)

    return names, arrays


def _column(table: pq.ParquetFile, file: Path | str, column: str) -> Iterator[pa.Array]:
    """The values of a column, _ROWS at a time."""
    for group in range(table.num_row_groups):
        with foreign_errors(Path(file), f"Parquet in its row group {group + 1}", _CURE):
            values = table.read_row_group(group, [column], use_threads=False).column(0)
            kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise DataError(f"--text_column must name a column of strings, got {column} of type {kind} in {file}")
            values.validate(full=True)
            batches = [values.slice(first, _ROWS).cast(pa.string()) for first in range(0, len(values), _ROWS)]
        for batch in batches:
            yield from batch.chunks


def _value(file: Path, line: int, fields: list | dict, names: list[str], column: str) -> str | None:
    """The text of a row."""
    if isinstance(fields, dict):
        text = fields.get(column)
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"{file}: the value of {column!r} in item {line} must be a string, got {type(text).__name__}; mend it"
            )
        if text is not None and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{file}: item {line} must be valid Unicode, got {error}; mend it") from None
        return text
    if len(fields) != len(names):
        raise DataError(
            f"{file}:{line}: must have {len(names)} fields, as many as the header, got {len(fields)}; quote the field "
            "or mend the line"
        )
    return fields[names.index(column)]


def _rows(file: Path, kind: str) -> Iterator[tuple[int, list[str] | dict]]:
    """Yield the names of the columns, then each row: (line on which it begins, or number of the item, its fields)."""
    if kind == "json":
        yield from _items(file)
        return
    lines = enumerate(_lines(file), 1)
    rows = _tab_rows(lines) if kind == "tsv" else _comma_rows(lines, file)
    first = next(rows, None)
    if first is None:
        return
    other = {"csv": "\t", "tsv": ","}[kind]
    if len(first[1]) == 1 and first[1][0].count(other) > 0:
        name = {"csv": "tab-separated, which a name ending in .tsv says", "tsv": "comma-separated, which .csv says"}
        raise DataError(f"{file}:{first[0]}: must be {kind}, got one column {first[1][0][:60]!r}; is it {name[kind]}?")
    yield first[0], [name.strip() for name in first[1]]
    yield from rows


def _lines(file: Path) -> Iterator[str]:
    with open_steady(file) as handle:
        for number, line in enumerate(handle, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{file}:{number}: must be UTF-8, got {error}; convert the file") from None


def _tab_rows(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        line = line.removesuffix("\n").removesuffix("\r")
        if line:
            yield number, line.split("\t")


def _comma_rows(lines: Iterator[tuple[int, str]], file: Path) -> Iterator[tuple[int, list[str]]]:
    begin = 0
    reader = csv.reader((line for _, line in lines), strict=True)
    while True:
        try:
            begin = reader.line_num + 1
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{file}:{begin}: must be a row of comma-separated values with closed quotes, got {error} on line "
                f"{reader.line_num}; double the quotes within a field, or name a tab-separated file .tsv"
            ) from None
        if fields is None:
            return
        if fields:
            yield begin, fields


def _items(file: Path) -> Iterator[tuple[int, list[str] | dict]]:
    """The keys of the first item of a JSON array, or of the one object that a file holds, then the items."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: must be UTF-8, got {error}; convert the file") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: must be JSON, got {error.msg}; mend it") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
        raise DataError(f"{file}: must be an array of objects, got {error}; convert it") from None
    items = [content] if isinstance(content, dict) else content
    if not isinstance(items, list) or not items:
        raise DataError(f"{file}: must be an array of objects, got {str(content)[:60]}; convert it")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise DataError(f"{file}: item {number} must be an object, got {type(item).__name__}; mend it")
    yield from chain([(0, list(items[0]))], enumerate(items, 1))
