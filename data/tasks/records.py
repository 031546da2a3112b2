"""Records that every source of a task has in common, made of its rows.

A record is a plain dict; what is unknown is None, or [] of answers:
    classification, regression: id, text_a, text_b, label (its name, or a float)
    multi_label: the same, label a list of names
    multiple_choice: id, group, context, question, choices, label (index); of a cloze also tag, and in its context the
        blank that is meant is written BLANK, others OTHER
    question_answering: id, question, context, answers [{text, start}]; start is -1 where the context does not hold
        the text, and the text "" where the question is known to have no answer
    tagging: id, text, chars, tags
Rows that cannot be used are left out and counted, except in a test set, which needs an answer for every row.
"""

import itertools
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.tasks.rows import Row, choice_number, is_missing, listed, written
from data.tasks.tags import cluener_entities, to_tags
from data.tasks.task import Task, TaskError

BLANK, OTHER = "#idiom#", "#other#"
_TAG = re.compile(r"#idiom\d*#")
_NUMBERED = re.compile(r"(?:ending|choice|option)_?(\d+)")
_CHOICES = ("choices", "choice", "endings", "candidates", "options")


class SkippedRow(Exception):
    """A row that is left out; the message is the reason under which it is counted."""


@dataclass
class Reading:
    """How one split is read, and what was odd in it.

    role: "train", "validation" or "test".
    answers: tag -> index of the idiom, of clozes whose answers lie in another file.
    count: records so far. context: of the group that was made last.
    """

    task: Task
    role: str
    csl_joiner: str = " "
    answers: Mapping[str, int] | None = None
    skipped: Counter = field(default_factory=Counter)
    notes: Counter = field(default_factory=Counter)
    count: int = 0
    groups: int = 0
    context: object = None


def make_records(rows: Iterable[Row], reading: Reading) -> list[dict]:
    """Return the records of `rows`; reading.skipped and reading.notes count what is odd.

    TaskError with file:line for a missing column, an unknown label, and whatever else must not be guessed.
    """
    make, records, before = READERS[reading.task.reader], [], reading.count
    for row in rows:
        if isinstance(row.values, dict) and None in row.values:
            reading.notes["fields beyond the header"] += 1
        try:
            records += make(row, reading)
        except SkippedRow as reason:
            reading.skipped[str(reason)] += 1
        except TaskError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError) as error:  # another shape than the format's
            got = f"{str(row.values)[:80]!r} ({type(error).__name__}: {error})"
            raise TaskError(
                f"{row.where}: must be a row as {reading.task.name} has them, got {got}; mend it"
            ) from error
        reading.count = before + len(records)
    return records


def field_of(row: Row, names: Sequence[str]) -> Any:
    """The value of the first of these columns that the row has. TaskError without any."""
    values = row.values if isinstance(row.values, dict) else {}
    for name in names:
        if name in values:
            return values[name]
    got = ", ".join(str(name) for name in values if name is not None) or type(row.values).__name__
    raise TaskError(f"{row.where}: must have the column {' or '.join(names)}, got {got}; name the columns that it has")


def _field(row: Row, names: Sequence[str], reading: Reading) -> Any:
    """A value without which there is no record."""
    value = field_of(row, names)
    if value is None and reading.role != "test":
        raise SkippedRow("missing field")
    if value is None:
        raise TaskError(f"{row.where}: {names[0]} must be there in a test set, got null; mend the row")
    return value


def text_value(row: Row, names: Sequence[str], reading: Reading) -> str:
    """The text in the first of these columns that the row has, without white space around it."""
    value = field_of(row, names)
    if value is None:
        if reading.role != "test":
            raise SkippedRow("missing field")
        reading.notes["missing field"] += 1
        return ""
    if not isinstance(value, str):
        raise TaskError(f"{row.where}: {names[0]} must be a string, got {value!r}; mend the row")
    if not value.strip():
        reading.notes["empty text"] += 1
    return value.strip()


def _raw_label(row: Row, reading: Reading) -> Any:
    """What the row says of its label, None where a test row says nothing."""
    if reading.role == "test" and not any(name in row.values for name in reading.task.label):
        return None
    value = field_of(row, reading.task.label)
    if value is None and reading.role != "test":
        raise SkippedRow("missing field")
    return value


def one_value(row: Row, value: Any) -> Any:
    """The value of a label. TaskError for a list, also one written as text, or an object."""
    try:
        several = isinstance(value, Mapping) or listed(value, numbers=True) is not None
    except ValueError:  # begins as a list
        several = True
    if several:
        raise TaskError(
            f"{row.where}: label must be one value, got {str(value)[:60]}; rows of several labels are a task of "
            "--kind multi_label (multi-label)"
        )
    return value


def several_values(row: Row, value: Any) -> list[str]:
    """The labels of a row that may have several: a list, also one written as text, or one label. TaskError else."""
    try:
        items = listed(value, numbers=True)
    except ValueError as error:
        raise TaskError(f"{row.where}: label must be a list of labels, got {error}; mend the row") from None
    items = [value] if items is None else items
    if not all(isinstance(item, str | int | float) for item in items):
        raise TaskError(f"{row.where}: label must be a list of labels, got {str(value)[:60]}; mend the row")
    return list(dict.fromkeys(str(item).lower() if isinstance(item, bool) else str(item).strip() for item in items))


def label_value(row: Row, reading: Reading) -> str | float | list[str] | None:
    """The label's name, of a regression its value, or the names of several."""
    task, value = reading.task, _raw_label(row, reading)
    if value is None:
        return None
    if task.kind == "multi_label":
        return _label_names(row, value, reading)
    one_value(row, value)
    name = str(value).lower() if isinstance(value, bool) else str(value).strip()
    name = task.spellings.get(name, name)
    if name in task.labels:
        return name
    if reading.role == "test" and _untold(name, value, task):
        return None
    if task.kind == "regression":
        return _float(name, row)
    if name == "-":  # annotators of NLI did not agree
        raise SkippedRow("label -")
    raise TaskError(f"{row.where}: label must be one of {_some(task.labels)}, got {value!r}; mend the row")


def _label_names(row: Row, value: Any, reading: Reading) -> list[str] | None:
    """Of a row that may have several labels; [] says that it has none, a cell without anything says nothing."""
    if is_missing(value) and reading.role == "test":
        return None
    names = several_values(row, value)
    for name in names:
        if name not in reading.task.labels:
            raise TaskError(
                f"{row.where}: label must be among {_some(reading.task.labels)}, got {name!r}; mend the row"
            )
    return names


def _untold(name: str, value: Any, task: Task) -> bool:
    """Whether a test row says that its label is not told, as data sets write it."""
    own = not task.groups and task.kind == "classification"
    return is_missing(value) or name == "-" or (name in ("-1", "-1.0", "?") and (own or task.hub is not None))


def _float(name: str, row: Row) -> float:
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TaskError(f"{row.where}: label must be a number, got {name!r}; mend the row")
    return number


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= 20 else f"{', '.join(labels[:19])}, ... {labels[-1]}"


def _texts(row: Row, reading: Reading) -> list[dict]:
    task = reading.task
    text_a = text_value(row, task.text_a, reading)
    text_b = text_value(row, task.text_b, reading) if task.text_b else None
    return [{"id": row.id, "text_a": text_a, "text_b": text_b, "label": label_value(row, reading)}]


def _winograd(row: Row, reading: Reading) -> list[dict]:
    """CLUEWSC: _ around the noun and [ ] around the pronoun, which the row gives by text and index."""
    text, target = _field(row, ("text",), reading), _field(row, ("target",), reading)
    marks = []
    for span, before, after in (("span1", "_", "_"), ("span2", "[", "]")):
        marked = row._replace(values=target)
        start, noun = field_of(marked, (f"{span}_index",)), field_of(marked, (f"{span}_text",))
        if start < 0 or not text.startswith(noun, start):
            got = f"{noun!r} at {start}, where {text[max(start, 0) :][: len(noun)]!r} stands"
            raise TaskError(f"{row.where}: {span}_text must stand at {span}_index, got {got}; mend the row")
        marks += [(start, 1, before), (start + len(noun), 0, after)]  # at one place, what ends comes first
    for position, _, mark in sorted(marks, reverse=True):
        text = text[:position] + mark + text[position:]
    return [{"id": row.id, "text_a": text.strip(), "text_b": None, "label": label_value(row, reading)}]


def _keywords(row: Row, reading: Reading) -> list[dict]:
    """CSL: the keywords, joined, and the abstract."""
    words = _field(row, ("keyword",), reading)
    words = words if isinstance(words, list) else [str(words)]
    text_b = text_value(row, ("abst",), reading)
    label = label_value(row, reading)
    return [{"id": row.id, "text_a": reading.csl_joiner.join(words), "text_b": text_b, "label": label}]


def _choices(row: Row, reading: Reading) -> list[dict]:
    """Choices in columns of their own (SWAG) or in a list; the label is a choice's index, letter or text."""
    task, values = reading.task, row.values
    choices, letters = _choice_columns(row)
    if isinstance(choices, list) and None in choices:
        if reading.role != "test":
            raise SkippedRow("missing field")
        reading.notes["missing field"] += 1
        choices = ["" if choice is None else choice for choice in choices]
    choices = _choice_texts(row, choices)
    context = text_value(row, task.text_a, reading)
    question = text_value(row, task.text_b, reading) if task.text_b else None
    record = {"id": row.id, "group": row.id, "context": context, "question": question, "choices": choices}
    label = _raw_label(row, reading)
    if reading.role == "test" and (is_missing(label) or str(label) == "-1"):
        return [record | {"label": None}]
    if label in letters:
        return [record | {"label": letters.index(label)}]
    column = next((name for name in task.label if name in values), "")
    first = "text" if column.startswith("answer") else "index" if column.startswith("label") else None
    try:
        return [record | {"label": choice_number(label, choices, first)}]
    except ValueError as error:
        raise TaskError(f"{row.where}: {column} {error}; mend the row") from None


def _choice_columns(row: Row) -> tuple[Any, list]:
    """The choices of a row, and what names them beside their number, if anything does."""
    values = row.values
    numbered = sorted((int(m[1]), key) for key in values if isinstance(key, str) and (m := _NUMBERED.fullmatch(key)))
    if numbered:
        return [values[key] for _, key in numbered], []
    lettered = list(itertools.takewhile(lambda key: key in values, string.ascii_uppercase))
    if len(lettered) > 1:
        return [values[key] for key in lettered], lettered
    choices = field_of(row, _CHOICES)
    if isinstance(choices, Mapping):  # {"text": [...], "label": ["A", ...]}
        return choices["text"], list(choices.get("label") or ())
    as_list = listed(choices)
    return choices if as_list is None else as_list, []


def _choice_texts(row: Row, choices: Any) -> list[str]:
    """Choices as texts; numbers become texts. TaskError unless they are a list of either."""
    if isinstance(choices, list) and choices and all(isinstance(one, str | int | float) for one in choices):
        return [str(one) for one in choices]
    raise TaskError(f"{row.where}: choices must be a list of texts, got {str(choices)[:60]!r}; mend the row")


def _index(label: Any, count: int, row: Row) -> int:
    if not re.fullmatch(r"\d+", str(label)) or int(label) >= count:
        raise TaskError(f"{row.where}: label must be a number below {count}, got {label!r}; mend the row")
    return int(label)


def _dialogue(row: Row, reading: Reading) -> list[dict]:
    """C3: one record a question, of a paragraph with its questions or of one question with its paragraph."""
    if isinstance(row.values, list):
        context, questions = row.values[:2]
    else:
        context, questions = _field(row, ("context",), reading), [row.values]
    if context != reading.context:
        reading.context, reading.groups = context, reading.groups + 1
    records = []
    for values in questions:
        index = reading.count + len(records) + sum(reading.skipped.values())
        question, choices = (field_of(row._replace(values=values), (key,)) for key in ("question", "choice"))
        choices = _choice_texts(row, choices)
        answer = values.get("answer") or None  # test sets of the hub have ""
        label = choices.index(answer) if answer in choices else None
        if label is None and reading.role != "test":
            reading.skipped["answer is no choice"] += 1
        elif len(set(choices)) < len(choices) and reading.role == "train":
            reading.skipped["equal choices"] += 1
        else:
            identity = values.get("id", index) if reading.role == "test" else index
            record = {"id": identity, "group": reading.groups - 1, "context": "\n".join(context)}
            records.append(record | {"question": question, "choices": choices, "label": label})
    return records


def _cloze(row: Row, reading: Reading) -> list[dict]:
    """ChID: one record a blank, of a list of passages that share their candidates."""
    contents, candidates = (_field(row, (key,), reading) for key in ("content", "candidates"))
    contents = [contents] if isinstance(contents, str) else contents
    candidates = _choice_texts(row, candidates)
    blanks = [(content, match) for content in contents for match in _TAG.finditer(content)]
    if not blanks:
        raise SkippedRow("no blank")
    labels = _cloze_labels(row, [match[0] for _, match in blanks], reading)
    records = []
    for (content, match), label in zip(blanks, labels, strict=True):
        left, right = (_TAG.sub(OTHER, part) for part in (content[: match.start()], content[match.end() :]))
        label = None if label is None else _index(label, len(candidates), row)
        record = {"id": row.id if match[0] == BLANK else match[0], "tag": match[0], "group": reading.groups}
        record |= {"context": left + BLANK + right, "question": None, "choices": candidates, "label": label}
        records.append(record)
    reading.groups += 1
    return records


def _cloze_labels(row: Row, tags: Sequence[str], reading: Reading) -> Sequence[int | None]:
    """Indices of the idioms for the blanks of one row: from its own answers, or else from the file of answers."""
    values = row.values
    answers = values.get("answers", values.get("answer"))
    if isinstance(answers, Mapping):
        answers = answers["candidate_id"]
    elif isinstance(answers, list):
        answers = [answer["candidate_id"] for answer in answers]
    elif answers is not None:
        answers = [answers]
    elif reading.answers is not None:
        answers = [reading.answers.get(tag) for tag in tags]
    if not answers and reading.role == "test":
        return [None] * len(tags)
    if not answers or len(answers) != len(tags) or None in answers:
        raise TaskError(
            f"{row.where}: must have an answer for each of {', '.join(tags)}, got {answers}; mend the answers"
        )
    return answers


def _question(row: Row, reading: Reading) -> list[dict]:
    raw = _field(row, reading.task.text_b, reading)
    context, question = raw.strip(), text_value(row, reading.task.text_a, reading)
    shift = len(raw) - len(raw.lstrip())
    pairs, answers = _answers(_raw_label(row, reading) or []), []
    for text, start in pairs:
        begin = _locate(context, text, start - shift)
        if begin < 0:
            reading.notes["answer not in its context"] += 1
            if reading.role == "train" or (reading.role == "test" and start < 0):
                continue  # of a test set, a placeholder
        elif begin != start - shift:
            reading.notes["start of an answer repaired"] += 1
        answers.append({"text": text, "start": begin})
    if reading.role == "train" and pairs and not answers:
        raise SkippedRow("no answer in its context")
    if reading.role != "test" and not pairs:  # SQuAD 2's questions that have none
        answers = [{"text": "", "start": -1}]
    return [{"id": row.id, "question": question, "context": context, "answers": answers}]


def _answers(raw: Sequence[Mapping] | Mapping[str, Sequence] | str) -> list[tuple[str, int]]:
    """(text without spaces around it, start) of a list of answers, or of the lists of their texts and starts.

    Both may be written as text, by JSON, Python or numpy.
    """
    raw = written(raw) if isinstance(raw, str) else raw
    if isinstance(raw, Mapping):
        pairs = list(zip(raw["text"], raw["answer_start"], strict=True))
    else:
        pairs = [(answer["text"], answer["answer_start"]) for answer in raw]
    return [(text.strip(), start + (len(text) - len(text.lstrip()) if start >= 0 else 0)) for text, start in pairs]


def _locate(context: str, text: str, start: int) -> int:
    """Where `text` stands in the context, next to `start`; -1 when nowhere."""
    if start >= 0 and context.startswith(text, start):
        return start
    starts = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)] if text else []
    return min(starts, key=lambda at: abs(at - start), default=-1)


def _tagged(row: Row, reading: Reading) -> list[dict]:
    """Characters or words with a tag each, as lists or separated by spaces; or a text with its entities (CLUENER).

    Lists may be written as text, by Python, JSON or numpy.
    """
    source, label = field_of(row, reading.task.text_a), _raw_label(row, reading)
    if source is None:
        if reading.role != "test":
            raise SkippedRow("missing field")
        reading.notes["missing field"] += 1
        source = ""
    label = None if reading.role == "test" and is_missing(label) else label
    tags = listed(label, numbers=True)
    label = label if tags is None else tags
    units = None if isinstance(label, Mapping) else listed(source)
    whole = isinstance(source, str) and units is None
    whole &= not isinstance(label, str) if label is not None else "text" in row.values
    if whole and tags is not None and len(tags) != len(source):
        whole = len(tags) != len(_split(source))
    chars = list(source) if whole else _split(source) if units is None else units
    if not all(isinstance(char, str) for char in chars):
        raise TaskError(f"{row.where}: words must be texts, got {str(chars)[:60]}; mend the row")
    if not chars:
        reading.notes["empty text"] += 1
    text = source if whole else "".join(chars) if all(len(char) == 1 for char in chars) else " ".join(chars)
    return [{"id": row.id, "text": text, "chars": chars, "tags": _tags(row, chars, text, label, reading)}]


def _split(text: str) -> list[str]:
    return text.strip(" ").split(" ") if text.strip(" ") else []


def _tags(row: Row, chars: Sequence[str], text: str, label: Any, reading: Reading) -> list[str] | None:
    if label is None:
        return None
    if isinstance(label, Mapping):
        return _entity_tags(row, text, label, reading)
    tags = _split(label) if isinstance(label, str) else [str(tag) for tag in label]
    if len(tags) != len(chars):
        raise TaskError(f"{row.where}: must have a tag for each of {len(chars)} words, got {len(tags)}; mend the row")
    for tag in tags:
        if tag not in reading.task.labels:
            raise TaskError(f"{row.where}: tag must be one of {_some(reading.task.labels)}, got {tag!r}; mend the row")
    return tags


def _entity_tags(row: Row, text: str, entities: Mapping, reading: Reading) -> list[str]:
    for kind, by_text in entities.items():
        if f"B-{kind}" not in reading.task.labels:
            raise TaskError(
                f"{row.where}: type must be one of {_some(reading.task.labels)}, got {kind!r}; mend the row"
            )
        for entity, spans in by_text.items():
            for first, last in spans:
                if text[first : last + 1] != entity:
                    got = f"{entity!r} at {first}:{last}, where {text[first : last + 1]!r} stands"
                    raise TaskError(f"{row.where}: an entity must stand where its span says, got {got}; mend the row")
    tags, left_out = to_tags(cluener_entities(entities), len(text))
    if left_out:
        reading.notes["entity within another"] += len(left_out)
    return tags


READERS: dict[str, Callable[[Row, Reading], list[dict]]] = {
    "text": _texts,
    "wsc": _winograd,
    "csl": _keywords,
    "choices": _choices,
    "c3": _dialogue,
    "chid": _cloze,
    "qa": _question,
    "tags": _tagged,
}
