"""Sources and references of sequence to sequence, translations and summaries, as transformers' scripts read them.

A JSON line is {"translation": {"en": ..., "ro": ...}}, or has a key for the source and one for the reference; tables
(CSV, TSV, JSON arrays, Parquet) have columns of these names.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data.corpus.table_inputs import kind_of
from data.files import DataError, parse_json, parse_text
from data.text.prompts import Table

# Of own files, XSum, CNN/DailyMail, LCSTS, and of what run_clm.py reads.
USUAL = (("source", "target"), ("document", "summary"), ("article", "highlights"), ("text", "summary"))
USUAL += (("prompt", "text"),)
_TRANSLATION = "translation"


@dataclass(frozen=True)
class Pairs:
    """Sources and as many references; language: of the references, where the file names it."""

    sources: list[str]
    references: list[str]
    language: str | None = None


def read_pairs(path: str | Path, source: str | None = None, target: str | None = None) -> Pairs:
    """All pairs of a file. source, target: columns, or languages of translations; None for what the first row has.

    UserError that begins with the flag or file:line for what cannot be used; each pair must have two texts.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--input_file must name a file, got {str(path)!r}; check the path")
    kind, language = kind_of(path, "--input_file"), None
    if kind == "text":
        raise UserError(f"--references needs JSON lines or a table as --input_file, got the text {str(path)!r}")
    if kind == "jsonl":
        names, is_translation, rows = _read_lines(path, source, target)
        language = names[1] if is_translation else None
    else:
        table = Table(path, kind)
        names = _choose(table.names, source, target, f"{path}:1")
        columns = zip(*map(table.column, names), strict=True)
        rows = ((f"{path}: row {number}", row) for number, row in enumerate(columns, 1))
    texts: tuple[list[str], list[str]] = ([], [])
    for where, row in rows:
        for name, text, column in zip(names, row, texts, strict=True):
            if not text or text.isspace():
                raise DataError(f"{where}: must have a text as {name!r}, got {text!r}; mend it or leave the row out")
            column.append(text)
    if not texts[0]:
        raise UserError(f"--input_file must hold at least one pair, got {str(path)!r} without any")
    return Pairs(*texts, language)


def _read_lines(path: Path, source: str | None, target: str | None) -> tuple[tuple[str, str], bool, Iterator]:
    """Of a file of JSON lines: the names of its texts, whether these are languages, and place and texts of each."""
    lines = [(f"{path}:{n}", line) for n, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    where, line = lines[0] if lines else (str(path), b"{}")
    record = parse_json(line, where)
    is_translation = isinstance(record, dict) and isinstance(record.get(_TRANSLATION), dict)
    if is_translation:
        lines = ((where, _inner(line, where)) for where, line in lines)
        record = record[_TRANSLATION]
    names = _choose([*record] if isinstance(record, dict) else [], source, target, where)
    rows = ((where, [parse_text(line, name, where) for name in names]) for where, line in lines)
    return names, is_translation, rows


def _inner(line: bytes, where: str) -> bytes:
    """The object of languages of one line, as a line."""
    record = parse_json(line, where)
    if not isinstance(record, dict) or not isinstance(record.get(_TRANSLATION), dict):
        raise DataError(f"{where}: must have an object as {_TRANSLATION!r}, as the first line has; mend the line")
    return json.dumps(record[_TRANSLATION]).encode()


def _choose(there: Sequence[str], source: str | None, target: str | None, where: str) -> tuple[str, str]:
    """The names of source and reference among those that a row has: as asked, usual ones, or the only two."""
    both = [(source, target)] if source and target else [*USUAL, *([(*there,), (*there[::-1],)] * (len(there) == 2))]
    for pair in both:
        if {*pair} <= {*there} and source in (None, pair[0]) and target in (None, pair[1]) and pair[0] != pair[1]:
            return pair
    raise UserError(
        f"--source_column and --target_column must name two of {', '.join(there) or 'no columns'} ({where}), got "
        f"{source or 'none'} and {target or 'none'}; correct them"
    )
