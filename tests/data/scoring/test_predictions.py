"""Answers decoded from windows beside a loop that is plainly right, candidates of a group, predictions on disk."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import log_softmax

from benchmarks.decode_answers import character_tokenizer, perfect_logits
from data.features.build import make_features
from data.scoring.answer_scores import best_over_answers, cmrc_exact
from data.scoring.metrics import score
from data.scoring.predictions import (
    METHODS,
    Verdict,
    assign,
    decode,
    decode_answers,
    decode_groups,
    read_predictions,
    write_predictions,
    write_verdicts,
)
from data.tasks.loading import Split
from data.tasks.table import TASKS
from data.tasks.task import Task


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
    options = {"max_length": length, "training": True, "token_types": True, "label_ids": {}, "doc_stride": 9}
    features = make_features(task, records, character_tokenizer(records), **options)
    assert (len(features) > len(records)) == (length == 24)
    predictions = decode(task, records, perfect_logits(features))
    assert predictions == answers
    # "《" is punctuation: no token to share
    assert score(task, records, predictions) == {"em": 100, "f1": 100 * 7 / 8}


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


# Candidates of a cloze

SCORES = np.array([[5.0, 4.0], [4.9, 1.0]])


@pytest.mark.parametrize(("method", "chosen"), [("argmax", [0, 0]), ("greedy", [0, 1]), ("optimal", [1, 0])])
def test_the_three_ways_differ_as_known(method, chosen):
    assert assign(SCORES, method) == chosen


def test_only_greedy_depends_on_a_row_s_offset():
    moved = log_softmax(SCORES, axis=1)
    assert assign(moved, "greedy") == [1, 0]
    assert assign(moved, "optimal") == assign(SCORES, "optimal")
    assert assign(moved, "argmax") == assign(SCORES, "argmax")


@pytest.mark.parametrize("method", METHODS)
def test_groups_are_decoded_whole_wherever_their_blanks_stand(method):
    rng = np.random.default_rng(0)
    groups = [7, "x", 7, 3, "x", 7]
    outputs = [rng.normal(size=3 if group == 7 else 4).astype(np.float32) for group in groups]
    chosen = decode_groups(outputs, groups, method)
    for group in set(groups):
        at = [i for i, other in enumerate(groups) if other == group]
        assert [chosen[i] for i in at] == assign(np.stack([outputs[i] for i in at]), method)
        assert method == "argmax" or len({chosen[i] for i in at}) == len(at)


def test_more_blanks_than_candidates_are_an_error_that_names_the_way_out():
    with pytest.raises(ValueError, match="--chid_decode argmax"):
        assign(np.zeros((3, 2)), "optimal")
    assert assign(np.zeros((3, 2)), "argmax") == [0, 0, 0]
    with pytest.raises(ValueError, match="got 'best'"):
        assign(SCORES, "best")


# On disk


def test_predictions_of_all_splits_and_their_scores_are_written(tmp_path):
    choice = Task("choice", "multiple_choice", ("accuracy",))
    verdicts = {
        "test": Verdict([np.array([0.5, 1.5, 0.0])], [1], {"accuracy": 100.0}, False),
        "test1.0": Verdict([np.array([2.0, -1.0])], [0], None, None),
    }
    records = {name: Split([{"id": name, "label": 1}], name) for name in verdicts}
    write_verdicts(tmp_path / "test_preds.jsonl", choice, records, verdicts)
    lines = [json.loads(line) for line in (tmp_path / "test_preds.jsonl").read_text().split("\n")[:-1]]
    assert [(line["split"], line["prediction"]) for line in lines] == [("test", 1), ("test1.0", 0)]
    table = np.load(tmp_path / "test_preds.logits.npy")
    np.testing.assert_array_equal(table, [[0.5, 1.5, 0.0], [2.0, -1.0, np.nan]])


def test_predictions_survive_their_file(tmp_path):
    path = tmp_path / "eval_preds.jsonl"
    records = [
        {"id": "a\u2028b", "chars": ["张", " ", "\u2028"], "tags": ["B-name", "O", "O"]},
        {"id": 3, "chars": [], "tags": []},
    ]
    write_predictions(path, TASKS["cluener"], records, [["O"] * 3, []], ["validation", "test"])
    assert path.read_bytes().count(b"\n") == 2
    first = {"split": "validation", "id": "a\u2028b", "prediction": ["O"] * 3}
    first |= {"chars": records[0]["chars"], "label": records[0]["tags"]}
    last = {"split": "test", "id": 3, "prediction": [], "chars": []}
    assert read_predictions(path) == {"validation": [first], "test": [last]}


def test_predictions_must_match_their_records(tmp_path):
    with pytest.raises(ValueError):
        write_predictions(tmp_path / "test_preds.jsonl", TASKS["rte"], [{"id": 0, "label": None}], [])
    assert not list(tmp_path.iterdir())
