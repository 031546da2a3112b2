"""Decoding of answers from windows, beside a loop that is plainly right."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.decode_answers import character_tokenizer, perfect_logits
from data.features.build import make_features
from data.scoring.answer_scores import best_over_answers, cmrc_exact
from data.scoring.decode import decode, decode_answers
from data.scoring.metrics import score
from data.tasks.table import TASKS


def windows_of(contexts, width=12, stride=5, question=3):
    """Windows of `width` tokens, each a character of the context behind `question` tokens that are no answer."""
    rows = [
        (record, first)
        for record, context in enumerate(contexts)
        for first in range(0, max(1, len(context) - (width - question) + stride), stride)
    ]
    record, first = (np.array(column) for column in zip(*rows, strict=True))
    position = first[:, None] + np.arange(width) - question
    length = np.array([len(context) for context in contexts])[record]
    allowed = (np.arange(width) >= question) & (position < length[:, None])
    offsets = np.stack([position, position + 1], axis=-1) * allowed[:, :, None]
    zeros = np.zeros(position.shape, np.float32)
    return SimpleNamespace(start=zeros, end=zeros.copy(), record=record, offsets=offsets, allowed=allowed)


def plain_decode(windows, contexts, n_best, max_answer):
    best = {}
    for row, record in enumerate(windows.record):
        tokens = np.flatnonzero(windows.allowed[row])
        starts = sorted(tokens, key=lambda token: -windows.start[row, token])[:n_best]
        ends = sorted(tokens, key=lambda token: -windows.end[row, token])[:n_best]
        for start in starts:
            for end in ends:
                score = np.float64(windows.start[row, start]) + windows.end[row, end]
                if start <= end < start + max_answer and score > best.get(record, (-np.inf,))[0]:
                    text = contexts[record][windows.offsets[row, start, 0] : windows.offsets[row, end, 1]]
                    best[record] = (score, text)
    return [best.get(record, (0, ""))[1] for record in range(len(contexts))]


CONTEXTS = ["".join(chr(0x4E00 + i + 50 * r) for i in range(length)) for r, length in enumerate((30, 4, 17, 9, 23))]


@pytest.mark.parametrize(("n_best", "max_answer"), [(20, 50), (3, 50), (2, 3), (1, 1)])
def test_the_same_answers_as_a_loop_over_all_pairs(n_best, max_answer):
    rng = np.random.default_rng(n_best)
    windows = windows_of(CONTEXTS)
    windows.start = rng.normal(size=windows.start.shape).astype(np.float32)
    windows.end = rng.normal(size=windows.start.shape).astype(np.float32)
    answers = decode_answers(windows, CONTEXTS, n_best=n_best, max_answer=max_answer)
    assert answers == plain_decode(windows, CONTEXTS, n_best, max_answer)
    assert "" not in answers or n_best < 20


def test_gold_logits_reach_every_answer_that_fits_a_window():
    """Single characters, answers at both borders of the text, and one that a single window holds whole."""
    spans = [(6, 12), (3, 4), (0, 5), (8, 9), (10, 19)]
    windows = windows_of(CONTEXTS)
    for row, record in enumerate(windows.record):
        first, end = spans[record]
        begins = np.flatnonzero(windows.allowed[row] & (windows.offsets[row, :, 0] == first))
        ends = np.flatnonzero(windows.allowed[row] & (windows.offsets[row, :, 1] == end))
        if len(begins) and len(ends):
            windows.start[row, begins] = windows.end[row, ends] = 1
    answers = decode_answers(windows, CONTEXTS)
    gold = [[context[first:end]] for context, (first, end) in zip(CONTEXTS, spans, strict=True)]
    assert best_over_answers(cmrc_exact, answers, gold) == [1] * len(gold)


@pytest.mark.parametrize("length", [24, 64])
def test_perfect_logits_of_real_rows_reach_em_100(length):
    """Answers of one character, of two scripts, at both ends, and of as many tokens as two windows share."""
    context = "《战国无双３》是由光荣和ω-force开发的。Koei 1978年成立，\u3000共有 34 个角色👍🏽与𠮷野家合作。"
    answers = ["《", "ω-force", "Koei 1978", "光荣", "34 个", "𠮷野家合作。", "👍🏽", "34"]
    records = [
        {"id": i, "question": "问", "context": context, "answers": [{"text": text, "start": context.index(text)}]}
        for i, text in enumerate(answers)
    ]
    task = TASKS["cmrc2018"]
    features = make_features(
        task, records, character_tokenizer(records), max_length=length, training=True, token_types=True, label_ids={},
        doc_stride=9,
    )  # fmt: skip
    assert (len(features) > len(records)) == (length == 24)
    predictions = decode(task, records, perfect_logits(features))
    assert predictions == answers
    assert score(task, records, predictions) == {
        "em": 100,
        "f1": 100 * 7 / 8,
    }  # "《" is punctuation: no token to share


def test_a_question_without_a_legal_span_gets_the_empty_answer():
    windows = windows_of(CONTEXTS[:2])
    windows.allowed[windows.record == 1] = False
    assert decode_answers(windows, [*CONTEXTS[:2], "没有窗口"])[1:] == ["", ""]
    windows.start[:, 5], windows.end[:, 4] = 9, 9  # the only candidates end before they start
    assert decode_answers(windows, CONTEXTS[:2], n_best=1)[0] == ""
    assert decode_answers(SimpleNamespace(record=np.zeros(0, int)), ["文"]) == [""]


def test_the_question_and_the_special_tokens_are_never_an_answer():
    windows = windows_of(CONTEXTS)
    windows.start[~windows.allowed] = windows.end[~windows.allowed] = 100
    answers = decode_answers(windows, CONTEXTS)
    assert all(answer and answer in context for answer, context in zip(answers, CONTEXTS, strict=True))


def test_equal_scores_keep_the_earlier_window():
    windows = windows_of([CONTEXTS[0]])
    windows.start[:, 3] = windows.end[:, 3] = 1
    assert decode_answers(windows, CONTEXTS[:1]) == [CONTEXTS[0][0]]
