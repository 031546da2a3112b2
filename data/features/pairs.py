"""Rows of one text or two, and of choices: single texts, pairs, SWAG, C3 and ChID.

Pairs are truncated as the tokenizers library does (longest_first, only_second). SWAG: (sent1, sent2 + ending). C3:
(context, question [SEP] choice), where the context gives way first, anew for each choice. ChID, after the CLUE
baseline: (idiom, a window of the passage around the blank), one token type.

A text that is too long for a row is read in windows: as few as hold it, evenly spread, the first of them at its start,
so that it is the row that truncation would leave. Two long texts move through their windows side by side.

Letters: N records, R rows, S sequences, W windows of a record.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from data.features.rows import Building, Features, Frame, Slices, index_runs, lay_out, row_labels
from data.tasks.records import BLANK, OTHER

_IDIOM_CHARACTERS = 4
_BLANKS = re.compile(f"({BLANK}|{OTHER})")
_UNIFIED = str.maketrans(
    dict.fromkeys("“”„‟〝〞＂「」『』", '"') | dict.fromkeys("‘’‚‛＇", "'") | dict.fromkeys("‐‑‒–—―－─", "-")
)


class Pairs(NamedTuple):
    """Texts of sequences, before they are cut."""

    a: Slices
    b: Slices
    paired: np.ndarray  # bool [S], whether there is a second text
    room: np.ndarray | int  # int64 [S], tokens without the special ones
    strategy: str  # longest_first, only_first or only_second


def text_features(task, records: Sequence[dict], building: Building) -> Features:
    """One row for a text or a pair of texts, or several at evaluation."""
    first = [record["text_a"] for record in records]
    second = [record["text_b"] or "" for record in records]
    paired = np.array([record["text_b"] is not None for record in records], bool)
    texts = building.texts([*first, *second])
    room = np.array([building.room(paired=False), building.room()])[paired.astype(int)]
    pairs = Pairs(texts.slices(first), texts.slices(second), paired, room, task.truncation)
    return _features(task, records, building, pairs, np.ones(len(records), np.int64))


def swag_features(task, records: Sequence[dict], building: Building) -> Features:
    """For each choice a sequence of the context and of the question, which the choice finishes."""
    contexts = [record["context"] for record in records for _ in record["choices"]]
    endings = [
        choice if record["question"] is None else f"{record['question']} {choice}"
        for record in records
        for choice in record["choices"]
    ]
    texts = building.texts([*contexts, *endings])
    return _choice_features(task, records, building, texts.slices(contexts), texts.slices(endings))


def c3_features(task, records: Sequence[dict], building: Building) -> Features:
    """For each choice a sequence of the context, the question and the choice; the context is cut first."""
    owners = [record for record in records for _ in record["choices"]]
    contexts, questions = [owner["context"] for owner in owners], [owner["question"] or "" for owner in owners]
    choices = [choice for record in records for choice in record["choices"]]
    texts = building.texts([*contexts, *questions, *choices])
    asked, between = texts.slices(questions), Slices.constant(building.frame.pair[1], len(owners))
    between = between._replace(counts=np.where(asked.counts > 0, between.counts, 0))
    flat, _, counts = lay_out([asked, between, texts.slices(choices)], (0, 0, 0))
    second = Slices(flat, np.cumsum(counts) - counts, counts)
    return _choice_features(task, records, building, texts.slices(contexts), second, "only_first")


def chid_features(task, records: Sequence[dict], building: Building) -> Features:
    """For each candidate a sequence of the candidate and of the window around the blank."""
    passages = [_BLANKS.split(record["context"].translate(_UNIFIED)) for record in records]
    candidates = [choice for record in records for choice in record["choices"]]
    texts = building.texts([*candidates, *chain.from_iterable(passages)])
    idioms, counts = texts.slices(candidates), _choice_counts(records)
    first, room = np.cumsum(counts) - counts, building.room()
    idioms = idioms._replace(counts=np.minimum(idioms.counts, room // 2))
    longest = np.maximum.reduceat(idioms.counts, first)
    marks, pieces = _blank_marks(building.tokenizer), texts.slices(chain.from_iterable(passages))
    windows, cut, at = [], np.zeros(len(records), bool), 0
    for index, (record, passage) in enumerate(zip(records, passages, strict=True)):
        if passage.count(BLANK) != 1:
            raise UserError(f"record {record['id']} of {task.name} must have one {BLANK} in its context")
        tokens = [marks.get(piece, pieces.array(at + offset)) for offset, piece in enumerate(passage)]
        blank, stream = sum(map(len, tokens[: passage.index(BLANK)])), np.concatenate(tokens)
        size = room - int(longest[index])
        begin = max(0, min(blank - size // 2, len(stream) - size))
        windows.append(stream[begin : begin + size])
        cut[index] = len(stream) > size
        at += len(passage)
    around = Slices.of(windows)[np.repeat(np.arange(len(records)), counts)]
    features = _choice_features(task, records, building, idioms, around)
    features.truncated = float(cut.mean())
    features.marks = features.marks and (0,) * len(features.marks)
    return features


def _blank_marks(tokenizer) -> dict[str, np.ndarray]:
    """The blank is one mark, [unused1] if there is one; another is as many [MASK]s as an idiom has characters."""
    mask = tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    mark = tokenizer.convert_tokens_to_ids("[unused1]")
    mark = mask if mark in (None, tokenizer.unk_token_id) else mark
    return {BLANK: np.array([mark], np.int32), OTHER: np.array([mask] * _IDIOM_CHARACTERS, np.int32)}


def truncate(a: np.ndarray, b: np.ndarray, room: np.ndarray | int, strategy: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that are left of texts of a and b tokens (int64 [S]) when both must fit into `room`.

    As the tokenizers library does it: longest_first takes from the longer text, down to the length of the shorter,
    then from both; only_first and only_second take from one. Where the other text alone fills the room, for which the
    library raises an error, these take as longest_first does.
    """
    shorter = np.minimum(a, b)
    longer = np.maximum(shorter, room - shorter)
    halved = shorter + longer > room
    shorter = np.where(halved, room // 2, shorter)
    longer = np.where(halved, room - room // 2, longer)
    kept_a, kept_b = np.where(a > b, longer, shorter), np.where(a > b, shorter, longer)
    if strategy == "only_first":
        kept_a, kept_b = np.where(b < room, (room - b, b), (kept_a, kept_b))
    elif strategy == "only_second":
        kept_a, kept_b = np.where(a < room, (a, room - a), (kept_a, kept_b))
    fits = a + b <= room
    return np.where(fits, a, np.minimum(kept_a, a)), np.where(fits, b, np.minimum(kept_b, b))


def _choice_counts(records: Sequence[dict]) -> np.ndarray:
    return np.array([len(record["choices"]) for record in records], np.int64)


def _choice_features(
    task, records: Sequence[dict], building: Building, a: Slices, b: Slices, strategy: str = "longest_first"
) -> Features:
    pairs = Pairs(a, b, np.ones(len(a.counts), bool), building.room(), strategy)
    return _features(task, records, building, pairs, _choice_counts(records))


def _features(task, records: Sequence[dict], building: Building, pairs: Pairs, sequences: np.ndarray) -> Features:
    """Rows of pairs of texts; sequences int64 [N]: how many of the pairs belong to each record, in turn."""
    (a, b, paired), first = pairs[:3], np.cumsum(sequences) - sequences
    kept_a, kept_b = truncate(a.counts, b.counts, pairs.room, pairs.strategy)
    windows = np.maximum(-(-a.counts // np.maximum(kept_a, 1)), -(-b.counts // np.maximum(kept_b, 1))).clip(min=1)
    windows = np.maximum.reduceat(windows, first)
    is_long = windows > 1
    if not building.windowed:
        windows = np.ones_like(windows)
    record = np.repeat(np.arange(len(records)), windows)
    window = np.arange(len(record)) - np.repeat(np.cumsum(windows) - windows, windows)
    chosen = index_runs(first[record], sequences[record])
    window, last = (np.repeat(values, sequences[record]) for values in (window, windows[record] - 1))
    a, b = (_window(text, kept, chosen, window, last) for text, kept in ((a, kept_a), (b, kept_b)))
    parts, marks = _framed(a, b, paired[chosen], building.frame)
    labels = row_labels(task, records, building)
    return Features(
        kind=task.kind,
        records=len(records),
        record=record,
        parts=parts,
        marks=marks if building.token_types else None,
        truncated=float(is_long.mean()),
        bounds=np.append(0, np.cumsum(sequences[record])) if task.kind == "multiple_choice" else None,
        labels=None if labels is None else labels[record],
    )


def _window(text: Slices, kept: np.ndarray, chosen: np.ndarray, window: np.ndarray, last: np.ndarray) -> Slices:
    """Window `window` of 0 ... `last`, evenly spread, of the chosen sequences; kept: tokens of a window."""
    text, kept = text[chosen], kept[chosen]
    return Slices(text.flat, text.begins + (text.counts - kept) * window // np.maximum(last, 1), kept)


def _framed(a: Slices, b: Slices, paired: np.ndarray, frame: Frame) -> tuple[tuple[Slices, ...], tuple[int, ...]]:
    """The parts of each sequence, special tokens included, and their token types."""

    def special(items: list[int], where: np.ndarray) -> Slices:
        part = Slices.constant(items, len(where))
        return part if where.all() else part._replace(counts=np.where(where, part.counts, 0))

    (before, between, after), marks = frame.pair, frame.pair_marks
    single_before, single_after = (special(items, ~paired) for items in frame.single)
    pieces = [
        (special(before, paired), marks[0]),
        (single_before, frame.single_marks[0]),
        (a, marks[1]),
        (special(between, paired), marks[2]),
        (b, marks[3]),
        (special(after, paired), marks[4]),
        (single_after, frame.single_marks[2]),
    ]
    pieces = [(part, mark) for part, mark in pieces if part.counts.any()]
    return tuple(part for part, _ in pieces), tuple(mark for _, mark in pieces)
