"""Rows of texts, pairs and choices: those of the tokenizer itself, nothing lost at evaluation, windows of a cloze."""

import numpy as np
import pytest

from data.features.build import TaskCollator, combine
from data.features.pairs import truncate
from data.tasks.task import Task

KINDS = ("bert", "roberta", "unigram", "roformer")
PAIR = Task("pair", "classification", ("accuracy",), labels=("no", "yes"))
SINGLE = {"id": 0, "text_b": None, "label": "yes"}


@pytest.fixture(scope="module")
def pairs(sentences):
    return [
        {"id": number, "text_a": a, "text_b": b, "label": "yes"}
        for number, (a, b) in enumerate((a, b) for a in sentences for b in sentences)
    ]


@pytest.mark.parametrize("max_length", [9, 20, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_texts_and_pairs_are_those_of_the_tokenizer(
    tokenizers, kind, max_length, make, inputs, sentences, pairs
):
    tokenizer, records = tokenizers[kind], pairs
    features = make(PAIR, records, tokenizer, max_length, training=True)
    for record, row in zip(records, features, strict=True):
        assert inputs.of_row(row) == inputs.expected(
            tokenizer, record["text_a"], record["text_b"], max_length=max_length
        )
        assert row["labels"] == 1
    assert features.lengths.tolist() == [len(row["input_ids"]) for row in features]
    alone = [SINGLE | {"text_a": text} for text in sentences]
    for text, row in zip(sentences, make(PAIR, alone, tokenizer, max_length, training=True), strict=True):
        assert inputs.of_row(row) == inputs.expected(tokenizer, text, max_length=max_length)
    mixed = make(PAIR, [records[1], alone[0], records[9]], tokenizer, max_length, training=True)
    assert inputs.of_row(mixed[1]) == inputs.expected(tokenizer, sentences[0], max_length=max_length)
    assert inputs.of_row(mixed[2]) == inputs.expected(tokenizer, sentences[1], sentences[1], max_length=max_length)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_second_text_is_cut_where_the_task_says_so(tokenizers, kind, make, inputs, pairs):
    tokenizer = tokenizers[kind]
    task = Task("csl", "classification", (), labels=("0", "yes"), truncation="only_second")
    records = [record for record in pairs if len(tokenizer(record["text_a"])["input_ids"]) < 26]
    assert len(records) > 10
    for record, row in zip(records, make(task, records, tokenizer, 30, training=True), strict=True):
        texts = record["text_a"], record["text_b"]
        assert inputs.of_row(row) == inputs.expected(tokenizer, *texts, truncation="only_second", max_length=30)


def test_truncation_fills_the_room():
    a, b = (lengths.ravel() for lengths in np.meshgrid(np.arange(30), np.arange(30)))
    for strategy in ("longest_first", "only_first", "only_second"):
        kept_a, kept_b = truncate(a, b, 12, strategy)
        assert (kept_a <= a).all() and (kept_b <= b).all()
        assert (kept_a + kept_b == np.minimum(a + b, 12)).all()
        if strategy == "only_first":
            assert (kept_b == b)[b < 12].all()
        if strategy == "only_second":
            assert (kept_a == a)[a < 12].all()


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_read_whole_at_evaluation_and_cut_in_training(tokenizers, kind, make, inputs, pairs):
    tokenizer, records = tokenizers[kind], pairs
    cut, whole = (make(PAIR, records, tokenizer, 20, training=training) for training in (True, False))
    assert len(cut) == len(records) < len(whole) and cut.truncated == whole.truncated > 0
    assert whole.lengths.max() <= 20
    texts = whole.parts[1], whole.parts[3]
    for number, record in enumerate(records):
        rows = np.flatnonzero(whole.record == number)
        assert inputs.of_row(whole[rows[0]]) == inputs.of_row(cut[number])
        for text, part, first in zip(
            (record["text_a"], record["text_b"]), texts, (cut.parts[1], cut.parts[3]), strict=True
        ):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            seen = set()
            for row in rows:
                begin = int(part.begins[row] - first.begins[number])
                assert part.array(row).tolist() == ids[begin : begin + int(part.counts[row])]
                seen |= set(range(begin, begin + int(part.counts[row])))
            assert seen == set(range(len(ids)))


# Multiple choice

SWAG = Task("swag", "multiple_choice", ("accuracy",), layout="swag")
C3 = Task("c3", "multiple_choice", ("accuracy",), layout="c3")
CHID = Task("chid", "multiple_choice", ("accuracy",), layout="chid")


def question(context, question, *choices, **fields):
    return {
        "id": 0,
        "group": 0,
        "context": context,
        "question": question,
        "choices": list(choices),
        "label": 0,
    } | fields


@pytest.mark.parametrize("kind", KINDS)
def test_a_swag_choice_finishes_the_question(tokenizers, kind, make, inputs, sentences):
    tokenizer, endings = tokenizers[kind], ["the dog.", "a quick fox", "", "好"]
    (row,) = make(SWAG, [question(sentences[1], "Hello", *endings)], tokenizer, 64)
    texts = [inputs.expected(tokenizer, sentences[1], f"Hello {ending}", max_length=64) for ending in endings]
    assert [ids.tolist() for ids in row["input_ids"]] == [text["input_ids"] for text in texts]
    assert [types.tolist() for types in row["token_type_ids"]] == [text["token_type_ids"] for text in texts]


def test_a_c3_choice_follows_the_question_and_only_the_context_gives_way(tokenizers, make):
    tokenizer = tokenizers["bert"]
    context = "他在这位也参与其中大"
    records = [question(context, "好吗？", "很好", "不很好吗，今天"), question(context, "", "好", label=0)]
    cut = make(C3, records, tokenizer, 18, training=True)

    def decoded(row):
        return [tokenizer.decode(ids).replace(" ", "") for ids in row["input_ids"]]

    # Each choice leaves another room for the same whole context.
    assert decoded(cut[0]) == [
        "[CLS]他在这位也参与其中[SEP]好吗？[SEP]很好[SEP]",
        "[CLS]他在这位[SEP]好吗？[SEP]不很好吗，今天[SEP]",
    ]
    assert cut[0]["token_type_ids"][0].tolist() == [0] * 11 + [1] * 7
    assert decoded(cut[1]) == ["[CLS]他在这位也参与其中大[SEP]好[SEP]"]
    assert cut.truncated == 0.5 and cut.lengths.tolist() == [18, 14]
    whole = make(C3, records, tokenizer, 18)
    assert whole.record.tolist() == [0, 0, 0, 1]
    assert [decoded(row)[1][5:9] for row in list(whole)[:3]] == ["他在这位", "位也参与", "与其中大"]
    outputs = combine(
        whole, [np.array([1.0, 0.0, -np.inf]), np.array([4.0, 6.0]), np.array([1.0, 0.0]), np.array([7.0])]
    )
    assert [output.tolist() for output in outputs] == [[2.0, 2.0], [7.0]]


def test_a_c3_question_with_two_choices_never_yields_a_dummy(tokenizers, make):
    records = [question("今天", "好吗？", *"一二三四"[:count], label=1) for count in (2, 4, 3)]
    features = make(C3, records, tokenizers["bert"], 20)
    batch = TaskCollator("multiple_choice", 0, 8)(features.rows([0, 1, 2]))
    assert batch["input_ids"].shape == (3, 4, 16)
    assert batch["choice_mask"].tolist() == [[True, True, False, False], [True] * 4, [True, True, True, False]]
    assert batch["labels"].tolist() == [1, 1, 1]
    assert batch["attention_mask"].sum(-1)[0].tolist() == [10, 10, 1, 1]  # no sequence is empty, or softmax is NaN
    logits = np.where(batch["choice_mask"].numpy(), 0.0, 9.0)  # a model that loves what is not there
    assert [len(output) for output in combine(features, logits)] == [2, 4, 3]
    assert all((output == 0).all() for output in combine(features, logits))


@pytest.fixture
def cloze(make):
    def row_of(tokenizer, text, *choices, max_length=64):
        (row,) = make(CHID, [question(text, None, *choices)], tokenizer, max_length)
        return [tokenizer.decode(ids).replace(" ", "") for ids in row["input_ids"]], row

    return row_of


def test_the_window_of_a_cloze_is_centred_on_its_blank_and_shifted_at_the_borders(tokenizers, cloze):
    tokenizer = tokenizers["bert"]
    assert tokenizer.convert_tokens_to_ids("[unused1]") == 1
    idioms = ("天安门我", "今天气好")
    numbered = "".join("他在这位也参与其中大"[number % 10] for number in range(100))
    middle, row = cloze(tokenizer, f"{numbered}#idiom#{numbered}", *idioms)
    # 64 tokens without [CLS] idiom [SEP] window [SEP] leave 57 for the window, mark included.
    assert middle[0] == f"[CLS]天安门我[SEP]{numbered[-28:]}[unused1]{numbered[:28]}[SEP]"
    assert middle[1] == f"[CLS]今天气好[SEP]{numbered[-28:]}[unused1]{numbered[:28]}[SEP]"
    assert [len(ids) for ids in row["input_ids"]] == [64, 64]
    assert not np.concatenate(row["token_type_ids"]).any()
    assert cloze(tokenizer, f"#idiom#{numbered}", *idioms)[0][0] == f"[CLS]天安门我[SEP][unused1]{numbered[:56]}[SEP]"
    assert cloze(tokenizer, f"{numbered}#idiom#", *idioms)[0][0] == f"[CLS]天安门我[SEP]{numbered[-56:]}[unused1][SEP]"
    assert cloze(tokenizer, f"{numbered}#idiom#一二", *idioms)[0][0].endswith(f"{numbered[-54:]}[unused1]一二[SEP]")
    assert cloze(tokenizer, "一#idiom#。", *idioms)[0][0] == "[CLS]天安门我[SEP]一[unused1]。[SEP]"


def test_other_blanks_take_the_place_of_an_idiom_and_quotes_and_dashes_are_unified(tokenizers, cloze):
    tokenizer = tokenizers["bert"]
    rows, _ = cloze(tokenizer, "“一#other#二”—#idiom#『三』", "天安门我")
    assert rows == ['[CLS]天安门我[SEP]"一[MASK][MASK][MASK][MASK]二"-[unused1]"三"[SEP]']
    # The four masks count: a window of 7 around the blank holds three of them.
    rows, _ = cloze(tokenizer, "一#other##idiom#二三人云", "天安门我", max_length=14)
    assert rows == ["[CLS]天安门我[SEP][MASK][MASK][MASK][unused1]二三人[SEP]"]
    with pytest.raises(ValueError, match="record 0 of chid must have one #idiom#"):
        cloze(tokenizer, "一", "天安门我")


@pytest.mark.parametrize("kind", ["roberta", "unigram"])
def test_a_cloze_works_with_every_tokenizer(tokenizers, cloze, kind):
    tokenizer = tokenizers[kind]
    _, row = cloze(tokenizer, "今天#other#天气#idiom#好", "一二三四", "五六")
    for ids in row["input_ids"]:
        assert ids.tolist().count(tokenizer.mask_token_id) == 5
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
