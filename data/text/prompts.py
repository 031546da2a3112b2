"""Prompts and texts as files hold them, and the prompts with which Chinese-Transformer-XL was pretrained.

A JSON line is {"prompt": ..., "text": ...} for training, where the prompt may be absent. For generation it is
{"prompt": ...}, or {"title": ..., "desc": ..., "signature": ...} to fill a template with. The templates are those of
data_utils/corpora.py of THUDM/Chinese-Transformer-XL; its encyclopedia texts had none. Tables (CSV, TSV, JSON arrays,
Parquet) have columns of the same names.
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path

from common.errors import UserError
from data.corpus.table_inputs import KINDS, cache_folder, choose_column, kind_of, refuse_numbers
from data.files import DataError, input_files, parse_text, refuse_foreign, refuse_json
from data.tables import column_names, read_column
from data.text.raw_documents import Layout, split_units
from data.unchanged_inputs import open_steady

logger = logging.getLogger(__name__)

DESCRIPTION_LENGTH = 100  # characters of a question's description that zhihu's template keeps
TEMPLATES = {
    "plain": "{title}",
    "zhihu": "问题：{title}问题描述：{desc}回答用户：{signature} 回答：",
    "zhidao": "问题：{title}问题描述：{desc}回答：",
    "xinhua": "标题：{title} 内容：",
}


def fill_template(template: str, title: str, desc: str = "", signature: str = "") -> str:
    """The prompt that one of TEMPLATES makes. ValueError when there is no such template, or nothing to put in."""
    if template not in TEMPLATES:
        raise UserError(f"--template must be one of {', '.join(TEMPLATES)}, got {template!r}; choose one of them")
    if not title.strip():
        raise UserError(f"the prompt must hold more than spaces, got {title!r}; type some text")
    if template == "zhihu" and len(desc) > DESCRIPTION_LENGTH:
        desc = desc[:DESCRIPTION_LENGTH] + "......"
    return TEMPLATES[template].format(title=title, desc=desc, signature=signature)


def read_prompts(path: str | Path, template: str, flag: str = "--input_file") -> list[str]:
    """Prompts of a file, one a line, put into the template; JSON lines and rows of tables have fields, see the module.

    Blank lines are passed over. ValueError that begins with `flag` or file:line for what cannot be used.
    """
    path, prompts = Path(path), []
    if not path.is_file():
        raise UserError(f"{flag} must name a file, got {str(path)!r}; check the path")
    for where, fields in _prompt_fields(path, template, flag):
        try:
            prompts.append(fill_template(template, *fields))
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
    if not prompts:
        raise UserError(f"{flag} must hold at least one prompt, got {str(path)!r} without any; write one a line")
    return prompts


def _prompt_fields(path: Path, template: str, flag: str) -> Iterator[tuple[str, list[str]]]:
    """Where each prompt stands, and what is put into the template."""
    keys = ["prompt"] if template == "plain" else ["title", "desc", "signature"]
    kind = _kind(path, flag)
    if kind not in ("text", "jsonl"):
        table = Table(path, kind)
        if keys[0] not in table.names:
            raise DataError(f"{path}:1: must have the column {keys[0]!r}, got {', '.join(table.names)}; rename one")
        for number, row in enumerate(zip(*map(table.column, keys), strict=False), 1):
            if row[0]:
                yield f"{path}: row {number}", [field or "" for field in row]
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}:{number}"
        if line.strip() and kind == "text":
            yield where, [_decode(line, where).strip()]
        elif line.strip():
            yield where, [parse_text(line, key, where, None if key == keys[0] else "") for key in keys]


def _kind(file: Path, flag: str) -> str:
    """One of data.corpus.table_inputs.KINDS; a file of any other name is text."""
    return kind_of(file, flag) if file.suffix.lower() in KINDS else "text"


class Table:
    """The columns of one file, by their names."""

    def __init__(self, file: Path, kind: str):
        self._file, self._kind, self.names = file, kind, column_names(file, kind)

    def column(self, name: str) -> Iterable[str | None]:
        """The values, from the first row; None for ever where there is no such column."""
        if name not in self.names:
            return repeat(None)
        return read_column([self._file], self._kind, lambda *_, **__: name, cache_folder(None))[0].to_pylist()


def read_documents(
    path: str | Path, flag: str, spliter: str | None, column: str | None = None
) -> Iterator[tuple[str, str, str]]:
    """Yield (file:line, prompt, text) of every JSON line and row of a table, (file, "", text) of other documents.

    A folder stands for its .jsonl files. spliter: as for Layout; None makes each file one document.
    column: key or column of the text; None is `text`, or of a table without it the one that is printed as a guess.
    A document that holds much of the text is logged. ValueError naming `flag`, DataError with file:line.
    """
    files = input_files(path, flag)
    kinds = {file: _kind(file, flag) for file in files}
    texts = [file for file, kind in kinds.items() if kind == "text"]
    refuse_foreign([file for file, kind in kinds.items() if kind != "parquet"], flag)
    refuse_json(texts, flag, "rename it to end in .jsonl")
    if texts and column is not None:
        raise UserError(f"--text_column is for JSON lines and tables, got the text {str(texts[0])!r}; leave it out")
    characters = largest = lines = 0
    for file, kind in kinds.items():
        if kind == "jsonl":
            with open_steady(file) as handle:
                for number, line in enumerate(handle, start=1):
                    if line.strip():
                        where = f"{file}:{number}"
                        text = parse_text(line, column or "text", where)
                        yield where, parse_text(line, "prompt", where, default=""), text
        elif kind != "text":
            yield from _table_documents(file, kind, flag, column)
        if kind != "text":
            continue
        for text in _texts(file, spliter):
            characters += len(text)
            if len(text) > largest:
                largest, lines = len(text), text.count("\n", 0, -1) + 1
            yield str(file), "", text
    if lines > 1 and largest * 10 > characters and spliter != "line":
        logger.info(
            "one document of %d lines holds %.0f %% of the text of %s; if each line is a document, add --doc_spliter "
            "line, and if blank lines end one, --doc_spliter ''",
            lines,
            100 * largest / characters,
            path,
        )


def _table_documents(file: Path, kind: str, flag: str, column: str | None) -> Iterator[tuple[str, str, str]]:
    """The rows that have a text, and what is left out, printed."""
    table = Table(file, kind)
    chosen, left_out = choose_column(table.names, column, flag), 0
    texts = table.column(chosen)
    if column is None:
        refuse_numbers(texts[:100], chosen)
    prompts = repeat(None) if chosen == "prompt" else table.column("prompt")
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=False), 1):
        if text and not text.isspace():
            yield f"{file}: row {number}", prompt or "", text
        else:
            left_out += 1
    if left_out:
        print(f"left out: {left_out:,} of the {len(texts):,} rows of {file} (no {chosen!r})", file=sys.stderr)


def _texts(file: Path, spliter: str | None) -> Iterator[str]:
    if spliter is None:
        yield _decode(file.read_bytes(), str(file))
        return
    layout = Layout(spliter)
    for unit in split_units([file]):
        for offset, raw in layout.raw_documents(unit):
            yield layout.text(raw, file, offset)


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: must be UTF-8, got {error}; convert the file") from None
