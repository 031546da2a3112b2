"""What one field of a user's file means: a class, several values written as text, a choice's number.

Tables lose types on their way through files: 1 becomes "1.0", True "True", a list "['a', 'b']". Only what is certain
is undone here; nothing is ever evaluated.
"""

import ast
import json
import math
import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

_AROUND = " \t\r\n\v\f\u00a0\u3000\u200b\ufeff"  # white space and marks that nobody sees
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_LIST_OF_TEXTS = re.compile(rf"\[\s*(?:{_QUOTED})(?:[\s,]+(?:{_QUOTED}))*\s*,?\s*\]", re.DOTALL)
_LIST_OF_NUMBERS = re.compile(r"\[\s*-?[0-9]+(?:[\s,]+-?[0-9]+)*\s*\]")
_ITEM = re.compile(rf"{_QUOTED}|-?[0-9]+", re.DOTALL)
_BEGINS_LIST = re.compile(r"\[\s*['\"]")


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
        return [_literal(found) for found in _ITEM.findall(text)]
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
            found = json.loads(text) if text[0] == '"' else ast.literal_eval(text)
        found.encode()
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"a quoted text must be one of Python or JSON, got {text[:60]!r} ({error})") from None
    return found


def written(text: str) -> Any:
    """The object that JSON or Python wrote as text, with numpy's arrays as lists. ValueError for anything else."""
    for form in (text, re.sub(r"\barray\((\[.*?\])(?:,\s*dtype=\w+)?\)", r"\1", text, flags=re.DOTALL)):
        for read in (json.loads, ast.literal_eval):
            try:
                with warnings.catch_warnings(action="ignore"):
                    found = read(form)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(found, dict | list):
                return found
    raise ValueError(f"must be an object or a list, got {text[:60]!r}")


def choice_number(label: Any, choices: Sequence[str], first: str | None = None) -> int:
    """Index of the right choice, from 0 on, that a number, a letter from A on or the choice's own text stands for.

    first: "index" or "text", which a number is where it may be both; None refuses such. ValueError for what is none
    of these or may be two of them.
    """
    name = class_name(label)
    texts = {number for number, choice in enumerate(choices) if class_name(choice) == name}
    places = set()
    if re.fullmatch("[0-9]+", name):
        places = {int(name)} if int(name) < len(choices) else set()
        if first == "index" or (first == "text" and texts):
            texts, places = (set(), places) if first == "index" else (texts, set())
    elif re.fullmatch("[A-Za-z]", name):
        number = ord(name.upper()) - ord("A")
        places = {number} if number < len(choices) else set()
    found = places | texts
    if not found:
        raise ValueError(f"must be a number below {len(choices)} (from 0 on), a letter or a choice, got {label!r}")
    if len(found) > 1:
        either = " or ".join(map(str, sorted(found)))
        raise ValueError(f"must stand for one choice, got {label!r}, which may be choice {either} (from 0 on)")
    return found.pop()
