"""A task made of the user's own files: which columns are texts and which is the label, and what labels there are.

Columns are known by the names that data sets give them; where several could be meant, the user must say which.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from data.tasks.loading import Opened, Split, open_dataset, read_split
from data.tasks.records import field_of, one_value, several_values
from data.tasks.rows import Row, class_name, is_missing, like, listed
from data.tasks.task import KINDS, Task, TaskError

logger = logging.getLogger(__name__)

_LAYOUTS = {"multiple_choice": "swag", "question_answering": "qa", "tagging": "characters"}
_READERS = {"multiple_choice": "choices", "question_answering": "qa", "tagging": "tags"}
_METRICS = {
    "classification": ("accuracy", "macro_f1"),
    "multi_label": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("pearson", "spearman"),
    "multiple_choice": ("accuracy",),
    "tagging": ("f1",),
}
# What data sets call their columns, in lower case. Of each row the first that is there is taken.
_TEXTS = {
    "multiple_choice": (
        ("sent1", "sent2"),
        ("context", "question"),
        ("passage", "question"),
        ("article", "question"),
        ("premise", "question"),
        ("context",),
        ("question",),
        ("query",),
        ("问题",),
        ("题目",),
    ),
    "question_answering": (("question", "context"), ("query", "passage"), ("问题", "文章"), ("问题", "上下文")),
    "tagging": (("tokens",), ("words",), ("chars",), ("text_a",), ("text",), ("sentence",), ("文本",), ("句子",)),
}
_LABELS = {
    "classification": ("label", "labels", "class", "category", "target", "sentiment", "标签", "类别", "分类"),
    "multi_label": ("labels", "label", "classes", "categories", "tags", "topics", "标签", "类别", "分类"),
    "regression": ("label", "labels", "score", "target", "similarity", "rating", "标签", "分数", "得分", "评分"),
    "multiple_choice": ("label", "answer", "answerkey", "答案", "标签"),
    "question_answering": ("answers", "answer", "答案"),
    "tagging": ("label", "tags", "ner_tags", "ner", "labels", "pos_tags", "标签"),
}
# Of classification and regression: two texts, or one; of several that are there none is taken.
_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("query1", "query2"),
    ("sentence_a", "sentence_b"),
    ("s1", "s2"),
    ("句子1", "句子2"),
    ("文本1", "文本2"),
    ("前提", "假设"),
)
_SINGLES = {"text", "sentence", "content", "review", "comment", "document", "tweet", "question", "query", "utterance"}
_SINGLES |= {
    "text_a",
    "message",
    "body",
    "article",
    "title",
    "abstract",
    "premise",
    "hypothesis",
    "sentence1",
    "answer",
}
_SINGLES |= {"文本", "内容", "评论", "句子", "正文", "标题", "问题", "文章", "摘要", "新闻", "短文本"}
_INDEX = re.compile(
    r"(unnamed: [\d.]+|index|idx|id|.+_id|uid|guid|qid|row|row_?(number|id)?|line|no\.?|number|#|序号|编号|行号)?"
)
_CHINESE = re.compile("[\u3400-\u9fff]")
_NAMELESS = re.compile(r"label_\d+", re.IGNORECASE)
_LOOKED_AT = 1000  # rows, to see what a column holds
_FEW = 20  # labels, which may be as many as they like beside the rows


def adhoc_task(
    kind: str,
    train_file: str | Path | None,
    validation_file: str | Path | None,
    test_file: str | Path | None,
    text_columns: str | Sequence[str] | None = None,
    label_column: str | None = None,
    name: str = "adhoc",
    *,
    outputs: Sequence[str] | None = None,
    dataset: tuple[str, str | None] | None = None,
) -> tuple[Task, dict[str, Split]]:
    """Return the task that these files make, and its splits.

    Files may be of all formats of data/tasks/rows.py, or folders that datasets has saved.

    Args:
        kind: one of KINDS.
        text_columns: names of one or two columns, separated by commas; None takes those that go by a usual name, or
            the only one that holds texts.
        label_column: None takes the one that goes by a usual name, "label" before all others.
        outputs: names of the outputs of a finetuned model, which are the labels then; None takes those of the
            training rows, or else of the validation or test rows.
        dataset: name and configuration for datasets.load_dataset, in place of files.
    TaskError where the files or their columns do not serve.
    """
    if kind not in KINDS:
        raise TaskError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}; choose one of them")
    sources = _open_sources({"train": train_file, "validation": validation_file, "test": test_file}, dataset)
    rows = {split: _rows(opened) for split, opened in sources.items()}
    first = next(iter(rows.values()))
    label = _label_column(kind, first[0], label_column)
    texts = _text_columns(kind, first, text_columns, label)
    for split in rows.keys() - {"test"}:
        field_of(rows[split][0], (label,))
    labels, spellings = _labels(kind, rows, label, outputs)
    metrics = _METRICS.get(kind) or _answer_metrics(rows.values())
    if kind == "tagging" and not all(re.match("O$|[BI]-", tag) for tag in labels):
        metrics = ("accuracy",)  # parts of speech and the like: no entities to count
    task = Task(
        name=name,
        kind=kind,
        metrics=metrics,
        labels=labels,
        layout=_LAYOUTS.get(kind, "text"),
        truncation="only_second" if kind == "question_answering" else "longest_first",
        max_length=384 if kind == "question_answering" else 128,
        defaults={"lr": 3e-5, "batch_size": 32, "epochs": 3, "warmup_ratio": 0.1, "weight_decay": 0.01},
        reader=_READERS.get(kind, "text"),
        text_a=texts[:1],
        text_b=texts[1:],
        label=(label,),
        spellings=spellings,
        columns=_describe_columns(name, kind, first[0], texts, label),
    )
    return task, {split: read_split(task, split, opened) for split, opened in sources.items()}


def _open_sources(files: Mapping[str, str | Path | None], dataset: tuple[str, str | None] | None) -> dict[str, Opened]:
    """The splits that are there, of files or of a data set. TaskError for both, and for neither."""
    files = {split: Path(path) for split, path in files.items() if path}
    if dataset is not None and files:
        raise TaskError("--dataset_name must stand without --train_file and the like, got both; leave one of them out")
    if dataset is not None:
        return open_dataset(*dataset)
    if not files:
        raise TaskError("--train_file, --validation_file or --test_file must be given, got none of them; name a file")
    return {split: Opened(str(path), (path,), flag=f"--{split}_file", strict=True) for split, path in files.items()}


def _rows(opened: Opened) -> list[Row]:
    """All rows of a split. TaskError without any, and for rows without columns."""
    rows = [row for _, part in opened.parts(()) for row in part]
    if not rows:
        raise TaskError(f"{opened.flag} must hold rows, got none in {opened.name}; check the file")
    for row in rows:
        if not isinstance(row.values, dict):
            raise TaskError(f"{row.where}: must be an object with columns, got a list; convert the file")
    return rows


def _describe_columns(name: str, kind: str, first: Row, texts: Sequence[str], label: str) -> dict:
    """What was taken for what, which the log tells, too."""
    taken = set(first.values) if kind == "multiple_choice" else {*texts, label}
    unused = [str(column) for column in first.values if column not in taken]
    known = label if label in first.values else None
    rest = f"; not read: {', '.join(map(repr, unused))}" if unused else ""
    logger.info("%s: texts from %s, labels from %s%s", name, " and ".join(texts), known or "nowhere", rest)
    return {"texts": list(texts), "label": known, "not_read": unused}


def _known(columns: Iterable, names: Iterable[str]) -> list[str]:
    """The columns that go by these names, in the order of the names."""
    by_name = {str(column).strip().lower(): column for column in reversed(list(columns))}
    return [by_name[name] for name in names if name in by_name]


def _label_column(kind: str, first: Row, typed: str | None) -> str:
    if typed:
        return typed
    candidates = _known(first.values, _LABELS[kind])
    usual = _LABELS[kind][0]
    if (
        kind in ("classification", "multi_label", "regression")
        and len(candidates) > 1
        and str(candidates[0]).lower() != usual
    ):
        raise TaskError(_choose("--label_column_name", first, candidates))
    return candidates[0] if candidates else usual


def _choose(flag: str, first: Row, candidates: Sequence[str]) -> str:
    named = ", ".join(map(repr, candidates))
    return f"{flag} must say which column of {first.where} to take, got none where {named} may be meant; add it"


def _text_columns(kind: str, rows: list[Row], typed: str | Sequence[str] | None, label: str) -> tuple[str, ...]:
    first = rows[0]
    missing = []
    if typed:
        names = tuple(name.strip() for name in typed.split(",")) if isinstance(typed, str) else tuple(typed)
        missing = [name for name in names if name not in first.values]
    elif kind in _TEXTS:
        known = (_known(first.values, names) for names in _TEXTS[kind])
        names = next((tuple(k) for k, names in zip(known, _TEXTS[kind], strict=True) if len(k) == len(names)), ())
    else:
        names = _guessed_texts(rows, label)
    if missing or not 0 < len(names) <= 2:
        got = ", ".join(map(str, first.values))
        wrong = f"must name one or two columns that are there, got {', '.join(names) or 'none'}"
        raise TaskError(f"--text_column_name {wrong} where {first.where} has {got}; name the columns")
    return names


def _guessed_texts(rows: list[Row], label: str) -> tuple[str, ...]:
    """Columns of a usual name, or the only one of texts; TaskError where several may be meant."""
    first = rows[0]
    others = [column for column in first.values if column != label]
    for pair in _PAIRS:
        if len(both := _known(others, pair)) == 2:
            return tuple(both)
    usual = _known(others, sorted(_SINGLES))
    candidates = usual or [column for column in others if _holds_texts(rows, column)]
    if len(candidates) > 1:
        raise TaskError(_choose("--text_column_name", first, sorted(candidates, key=others.index)))
    if candidates and not usual and _is_value(candidates[0]):
        raise TaskError(
            f"{first.where}: the line before must name the columns, got {candidates[0][:60]!r}, which looks like a "
            "text; add a line of names, or give --text_column_name"
        )
    return tuple(candidates)


def _holds_texts(rows: list[Row], column) -> bool:
    """Whether a column is no index and holds words, by its name and its first rows."""
    if not isinstance(column, str) or _INDEX.fullmatch(column.strip().lower()):
        return False
    values = [row.values.get(column) for row in rows[:_LOOKED_AT]]
    texts = [value for value in values if isinstance(value, str) and not is_missing(value)]
    return bool(texts) and not all(_is_number(text) for text in texts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_value(column: str) -> bool:
    """Whether what should be a column's name looks like a row's text."""
    return len(column) > 40 or _is_number(column) or column[-1:] in {*".!?。！？…"} or len(column.split()) > 4


def _labels(
    kind: str, rows: Mapping[str, list[Row]], column: str, outputs: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The task's labels, and how else the files spell them."""
    source = next(split for split in ("train", "validation", "test") if split in rows)
    trains = source == "train" and outputs is None
    if kind == "regression" and trains:
        _check_numbers(rows["train"], column)
    read = {"classification": _classes, "multi_label": _several, "tagging": _tags}.get(kind)
    if read is None:
        return (), {}
    told = {split: read(part, column) for split, part in rows.items()}
    if outputs is not None and not (any(told.values()) and all(map(_NAMELESS.fullmatch, outputs))):
        here = {raw.lower(): raw for names in told.values() for raw in names}
        labels = tuple(here.get(output.lower(), output) for output in outputs)  # case is the files'
        return labels, _spellings(told.values(), labels, like) if kind == "classification" else {}
    if kind == "multi_label":
        if not told[source]:
            raise TaskError(
                f"{rows[source][0].where}: {column} must name labels in some rows, got none; mend the file"
            )
        return tuple(sorted(told[source])), {}
    if trains:
        _check_classes(told["train"], rows["train"], column)
    if kind == "tagging":
        return _all_tags(told[source]), {}
    names = {class_name(raw) for raw in told[source]}
    whole = all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names)
    labels = tuple(sorted(names, key=int if whole else None))
    return labels, _spellings(told.values(), labels, class_name)


def _classes(rows: Iterable[Row], column: str) -> dict[str, str]:
    """What the label column says, as it stands there -> where it stands first."""
    seen: dict[str, str] = {}
    for row in rows:
        value = one_value(row, row.values.get(column))
        if not is_missing(value) and value != "-":
            seen.setdefault(str(value).lower() if isinstance(value, bool) else str(value).strip(), row.where)
    return seen


def _several(rows: Iterable[Row], column: str) -> dict[str, str]:
    """The labels of rows that may have several -> where each stands first."""
    seen: dict[str, str] = {}
    for row in rows:
        value = row.values.get(column)
        for name in [] if is_missing(value) else several_values(row, value):
            seen.setdefault(name, row.where)
    return seen


def _tags(rows: Iterable[Row], column: str) -> dict[str, str]:
    """Tags of all rows, of entities by their types, with B- and I- -> where each stands first."""
    seen: dict[str, str] = {}
    for row in rows:
        value = row.values.get(column)
        if is_missing(value):
            continue
        try:
            tags = listed(value, numbers=True)
        except ValueError as error:
            raise TaskError(f"{row.where}: {column} must be tags, got {error}; mend the row") from None
        if isinstance(value, dict):
            tags = [f"{prefix}-{name}" for name in value for prefix in "BI"]
        elif tags is None:
            tags = value.strip(" ").split(" ") if isinstance(value, str) else [value]
        for tag in tags:
            if not isinstance(tag, str | int):
                raise TaskError(f"{row.where}: {column} must be tags, got {str(tag)[:60]!r}; mend the row")
            seen.setdefault(str(tag), row.where)
    return seen


def _all_tags(seen: Iterable[str]) -> tuple[str, ...]:
    """The tags with both prefixes of each type, "O" first."""
    tags = {*seen, "O"}
    tags |= {f"{'BI'[tag[0] == 'B']}{tag[1:]}" for tag in tags if tag.startswith(("B-", "I-"))}
    return tuple(sorted(tags, key=lambda tag: (tag != "O", tag[2:], tag)))


def _spellings(told: Iterable[Mapping[str, str]], labels: Sequence[str], key: Callable) -> dict[str, str]:
    """How the files spell labels -> the label that is the same under `key`."""
    by_key = {key(label): label for label in reversed(labels)}
    labels_of = {raw: by_key.get(key(class_name(raw))) for names in told for raw in names}
    return {raw: label for raw, label in labels_of.items() if label not in (None, raw) and raw not in labels}


def _check_classes(seen: Mapping[str, str], rows: list[Row], column: str) -> None:
    """TaskError unless what training rows say are classes: two at least, far fewer than rows, each spelled one way."""
    names = {class_name(raw): where for raw, where in seen.items()}
    first = rows[0].where
    if len(names) < 2:
        got = ", ".join(names) or "none"
        raise TaskError(f"{first}: rows to train on must have two labels in {column}, got {got} in all; add others")
    if len(names) > max(_FEW, len(rows) // 2):
        got = f"got {len(names)} in {len(rows)} rows, such as {', '.join(list(names)[:3])}"
        raise TaskError(
            f"{first}: {column} must hold labels that recur, {got}; name another --label_column_name or --kind"
        )
    spelled: dict[str, str] = {}
    for name, where in names.items():
        if (other := spelled.setdefault(like(name), name)) != name:
            raise TaskError(
                f"{where}: labels must differ in more than case or width, got {name!r} and {other!r}; mend"
            )


def _check_numbers(rows: list[Row], column: str) -> None:
    """TaskError unless training rows have different numbers; what is no number is told when rows are read."""
    values = {str(row.values.get(column)).strip() for row in rows} - {"None"}
    if len(values) == 1:
        got = f"got {values.pop()} in all"
        raise TaskError(f"{rows[0].where}: rows to train on must differ in {column}, {got}; name another column")


def _answer_metrics(splits: Iterable[list[Row]]) -> tuple[str, ...]:
    """CMRC's for Chinese, SQuAD's for what has words between spaces."""
    chinese = any(_CHINESE.search(str(row.values.get("question"))) for rows in splits for row in rows[:100])
    return ("em", "f1") if chinese else ("squad_em", "squad_f1")
