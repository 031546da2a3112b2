"""Windows of questions: those of transformers' run_qa, and from them every answer that fits."""

import numpy as np
import pytest

from data.features.build import TaskCollator, combine
from data.scoring.predictions import decode_answers
from data.tasks.task import Task

QA = Task("qa", "question_answering", ("em",), layout="qa", truncation="only_second")


def asked(question, context, *answers):
    starts = [{"text": answer, "start": context.index(answer)} for answer in answers]
    return {"id": 0, "question": question, "context": context, "answers": starts}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_windows_and_offsets_are_those_of_the_tokenizer(tokenizers, kind, make, inputs, sentences):
    tokenizer = tokenizers[kind]
    records = [asked("今天天气？", text) for text in ("".join(sentences[:4]), sentences[6], "好")]
    features = make(QA, records, tokenizer, 40, doc_stride=9)
    assert (np.bincount(features.record) > [1, 1, 0]).all()
    windows = combine(features, [np.zeros((2, 40))] * len(features))
    for number, record in enumerate(records):
        options = {"truncation": "only_second", "max_length": 40, "stride": 9}
        options |= dict.fromkeys(
            ("return_overflowing_tokens", "return_offsets_mapping", "return_token_type_ids"), True
        )
        theirs = tokenizer([record["question"]], [record["context"]], **options)
        rows = np.flatnonzero(features.record == number)
        assert len(rows) == len(theirs["input_ids"])
        for window, row in enumerate(rows):
            ids = theirs["input_ids"][window]
            assert inputs.of_row(features[row]) == {
                "input_ids": ids,
                "token_type_ids": theirs["token_type_ids"][window],
            }
            context = np.array([owner == 1 for owner in theirs.sequence_ids(window)])
            assert windows.allowed[row, : len(ids)].tolist() == context.tolist()
            assert not windows.allowed[row, len(ids) :].any()
            offsets = windows.offsets[row, : len(ids)][context].tolist()
            expected = np.array(theirs["offset_mapping"][window])[context].tolist()
            for (begin, end), (first, last) in zip(offsets, expected, strict=True):
                if wanted := record["context"][first:last].strip():  # spaces count to what follows, or to nothing
                    assert end == last and record["context"][begin:end] == wanted


@pytest.mark.parametrize("kind", ["bert", "unigram"])
def test_windows_reconstruct_every_answer_that_fits(tokenizers, kind, make):
    tokenizer, context = tokenizers[kind], "今天天气很不错，我爱北京天安门。一二三" * 3
    spans = [
        (begin, begin + size) for begin in range(len(context)) for size in (1, 2, 5, 9) if begin + size <= len(context)
    ]
    record = asked("好吗？", context)
    records = [
        record | {"answers": [{"text": context[a:b], "start": a}, {"text": "no", "start": 0}]} for a, b in spans
    ]
    features = make(QA, records, tokenizer, 32, training=True, doc_stride=9)
    targets = features.targets
    logits = np.full((len(features), 2, 32), -1.0)
    logits[np.arange(len(features))[:, None], [[0, 1]], targets] = np.where(targets.any(1), 9.0, 0.0)[:, None]
    windows = combine(features, logits)
    assert [row["start_positions"] for row in features] == targets[:, 0].tolist()
    assert decode_answers(windows, [context] * len(records)) == [context[a:b] for a, b in spans]
    for row, (start, end) in enumerate(targets.tolist()):
        if (start, end) == (0, 0):  # the window does not hold the answer whole
            begin, stop = windows.offsets[row][windows.allowed[row]][[0, -1]].ravel()[[0, -1]]
            a, b = spans[features.record[row]]
            assert a < begin or b > stop


def test_an_answer_that_is_not_in_the_context_points_at_the_first_token(tokenizers, make):
    record = asked("好吗？", "今天天气") | {"answers": [{"text": "昨天", "start": -1}]}
    nothing = record | {"answers": [{"text": "", "start": 0}]}
    batch = TaskCollator("question_answering", 0)(
        make(QA, [record, nothing], tokenizers["bert"], 32, training=True).rows([0, 1])
    )
    assert batch["start_positions"].tolist() == batch["end_positions"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="must have a label to train on"):
        make(QA, [record | {"answers": []}], tokenizers["bert"], 32, training=True)


def test_a_long_question_is_cut_and_an_empty_context_has_a_window(tokenizers, make):
    features = make(QA, [asked("好" * 99, "今天" * 9), asked("", "")], tokenizers["bert"], 80)
    assert features.parts[1].counts[0] == 38 and features.lengths.tolist() == [59, 3]
    assert make(QA, [asked("好" * 99, "今天" * 9)], tokenizers["bert"], 512).parts[1].counts.tolist() == [64]
