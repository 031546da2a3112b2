"""Prompts and texts as files hold them, and the prompts with which Chinese-Transformer-XL was pretrained.

A JSON line is {"prompt": ..., "text": ...} for training, where the prompt may be absent. For generation it is
{"prompt": ...}, or {"title": ..., "desc": ..., "signature": ...} to fill a template with. The templates are those of
data_utils/corpora.py of THUDM/Chinese-Transformer-XL; its encyclopedia texts had none.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from data.documents import Layout, split_units
from data.jsonl import DataError, input_files, parse_text, refuse_foreign, refuse_json
from data.steady import open_steady

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


def read_prompts(path: str | Path, template: str) -> list[str]:
    """Prompts of a file, one a line, put into the template; lines of a .jsonl file are objects, see the module.

    Blank lines are passed over. ValueError that begins with --input_file or file:line for what cannot be used.
    """
    path, found = Path(path), []
    if not path.is_file():
        raise UserError(f"--input_file must name a file, got {str(path)!r}; check the path")
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        if path.suffix != ".jsonl":
            fields = [_decode(line, where).strip()]
        elif template == "plain":
            fields = [parse_text(line, "prompt", where)]
        else:
            fields = [parse_text(line, "title", where)]
            fields += [parse_text(line, key, where, default="") for key in ("desc", "signature")]
        try:
            found.append(fill_template(template, *fields))
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
    if not found:
        raise UserError(f"--input_file must hold at least one prompt, got {str(path)!r} without any; write one a line")
    return found


def read_documents(path: str | Path, flag: str, spliter: str | None) -> Iterator[tuple[str, str, str]]:
    """Yield (file:line, prompt, text) of every line of JSON files, and (file, "", text) of every document of others.

    A folder stands for its .jsonl files. spliter: as for data.documents.Layout; None makes each file one document.
    A document that holds much of the text is logged. ValueError naming `flag`, DataError with file:line.
    """
    files = input_files(path, flag)
    texts = [file for file in files if file.suffix not in (".jsonl", ".json")]
    refuse_foreign(files, flag)
    refuse_json(texts, flag, "rename it to end in .jsonl")
    characters = largest = lines = 0
    for file in files:
        if file not in texts:
            with open_steady(file) as handle:
                for number, line in enumerate(handle, start=1):
                    if line.strip():
                        where = f"{file}:{number}"
                        yield where, parse_text(line, "prompt", where, default=""), parse_text(line, "text", where)
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
            *(lines, 100 * largest / characters, path),
        )


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
