"""Rows for span question answering: the question and a window of the context.

Windows as in transformers' run_qa: neighbouring ones share `overlap` tokens, so that an answer of at most that many
tokens lies whole in one of them. Questions are cut to 64 tokens. In training the target is the first answer; a window
that does not hold it whole points at the first token, [CLS].

Letters: W windows (rows), T tokens of the longest one, t tokens of one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.features.rows import Building, Features, Slices, must_be_labelled

logger = logging.getLogger(__name__)

MAX_QUESTION = 64  # tokens


class Windows(NamedTuple):
    """The logits of every window and what they point at."""

    start: np.ndarray  # float32 [W, T]
    end: np.ndarray  # float32 [W, T]
    record: np.ndarray  # int64 [W], the question of a window
    offsets: np.ndarray  # int32 [W, T, 2], first character of a token in the context and the one after its last
    allowed: np.ndarray  # bool [W, T], tokens of the context


@dataclass
class SpanFeatures(Features):
    """Windows over contexts, which are the fourth of the five parts.

    spans int32 [tokens of all texts, 2]: characters of each token in its text.
    targets int64 [W, 2]: positions of the first and the last token of the answer; None at evaluation.
    """

    spans: np.ndarray | None = None
    targets: np.ndarray | None = None

    def _targets(self, index: int, row: dict) -> dict:
        if self.targets is None:
            return {}
        start, end = self.targets[index].tolist()
        return {"start_positions": start, "end_positions": end}

    def combine(self, logits: Sequence[np.ndarray]) -> Windows:
        """logits: [2, t] or longer of each row, start and end."""
        shape = len(self), int(self.lengths.max())
        start, end = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        offsets, allowed = np.zeros((*shape, 2), np.int32), np.zeros(shape, bool)
        *before, context, _ = self.parts
        firsts = sum(part.counts for part in before)
        for row, length in enumerate(self.lengths.tolist()):
            start[row, :length], end[row, :length] = np.asarray(logits[row])[:, :length]
            begin, count, first = int(context.begins[row]), int(context.counts[row]), int(firsts[row])
            offsets[row, first : first + count] = self.spans[begin : begin + count]
            allowed[row, first : first + count] = True
        return Windows(start, end, self.record, offsets, allowed)


def span_features(task, records: Sequence[dict], building: Building) -> SpanFeatures:
    """Windows of every question, in training with its first answer."""
    questions = [record["question"] for record in records]
    contexts = [record["context"] for record in records]
    texts = building.texts([*questions, *contexts])
    question, context = texts.slices(questions), texts.slices(contexts)
    kept = np.minimum(question.counts, min(MAX_QUESTION, building.room() // 2))
    if cut := np.count_nonzero(kept < question.counts):
        logger.warning("%s: %d questions are cut to %d tokens", task.name, cut, kept.max())
    size = building.room() - kept
    step = size - np.minimum(building.overlap, size // 2)
    windows = 1 + -(-(context.counts - size).clip(min=0) // step)
    record = np.repeat(np.arange(len(records)), windows)
    begin = (np.arange(len(record)) - np.repeat(np.cumsum(windows) - windows, windows)) * step[record]
    counts = np.minimum(size[record], context.counts[record] - begin)
    before, between, after = (Slices.constant(items, len(record)) for items in building.frame.pair)
    asked = question._replace(counts=kept)[record]
    window = Slices(context.flat, context.begins[record] + begin, counts)
    features = SpanFeatures(
        kind=task.kind,
        records=len(records),
        record=record,
        parts=(before, asked, between, window, after),
        marks=building.frame.pair_marks if building.token_types else None,
        truncated=float((windows > 1).mean()),
        spans=texts.spans,
    )
    if building.training:
        answers = np.array(
            [_answer(task, records[index], context, index, texts.spans, building) for index in range(len(records))]
        )
        first, last = (answers[record] - begin[:, None]).T
        inside = (first >= 0) & (last < counts) & (first <= last)
        position = len(building.frame.pair[0]) + kept[record] + len(building.frame.pair[1])
        features.targets = np.where(inside, position + np.stack([first, last]), 0).T
    return features


def _answer(task, record: dict, context: Slices, index: int, spans: np.ndarray, building: Building) -> tuple[int, int]:
    """First and last token of a record's first answer in its context; (0, -1) if that is not in there."""
    if not record["answers"]:
        must_be_labelled(task, record, building)
    answer = record["answers"][0]
    if answer["start"] < 0 or not answer["text"]:
        return 0, -1
    begin, count = int(context.begins[index]), int(context.counts[index])
    begins, ends = spans[begin : begin + count].T
    start, end = answer["start"], answer["start"] + len(answer["text"])
    return int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(begins, end, side="left")) - 1
