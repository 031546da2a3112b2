"""Rows of tasks: what the tokenizer itself would give, nothing lost at evaluation, and one output per record again."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaTokenizer, RoFormerTokenizer

from data.answers import decode_answers
from data.collators import TaskCollator
from data.features import combine, in_order, make_eval_batches, make_features, make_train_batches
from data.pair_features import truncate
from data.task_types import Task
from training.pretrained import load_tokenizer

SENTENCES = [
    "我爱北京天安门，今天天气很不错。",
    "Hello world, it's 3.14% of UNAFFABLE café!",
    "手机  iPhone12\tpro，一二三四五六七八九十",
    "",
    "好",
    "他说：“[MASK]不知道”……",
    "研究生命的起源 the quick brown fox jumps over the lazy dog " * 3,
    "\u3000\x00👍🏽𠀀",
]
PAIR = Task("pair", "classification", ("accuracy",), labels=("no", "yes"))
SINGLE = {"id": 0, "text_b": None, "label": "yes"}
TAGS = {"O": 0, "B-X": 1, "I-X": 2}


def byte_bpe():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=alphabet,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    model = json.loads(backend.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=list(map(tuple, model["merges"])), add_prefix_space=True)


def unigram():
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<pad>", "<unk>", "<s>", "</s>", "<mask>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    names = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>", "sep": "</s>", "mask": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{key}_token": name for key, name in names.items()})


def jieba():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "北京", "天安门", *"我爱今天气很不错好。，一二三"]
    return RoFormerTokenizer(vocab={token: number for number, token in enumerate(tokens)})


@pytest.fixture(scope="module")
def tokenizers(bert_folder):
    return {
        "bert": load_tokenizer(str(bert_folder()), "--tokenizer"),
        "roberta": byte_bpe(),
        "unigram": unigram(),
        "roformer": jieba(),
    }


KINDS = ("bert", "roberta", "unigram", "roformer")


def make(task, records, tokenizer, max_length, training=False, label_ids=None, token_types=True, **options):
    label_ids = {label: number for number, label in enumerate(task.labels)} if label_ids is None else label_ids
    return make_features(
        task, records, tokenizer,
        max_length=max_length, training=training, token_types=token_types, label_ids=label_ids, **options,
    )  # fmt: skip


def pairs(label="yes"):
    return [
        {"id": number, "text_a": a, "text_b": b, "label": label}
        for number, (a, b) in enumerate((a, b) for a in SENTENCES for b in SENTENCES)
    ]


def expected(tokenizer, *texts, **options):
    """Called as run_glue calls it, with lists; alone, a pair with an empty second text counts as a single text."""
    options = {"truncation": True, "return_token_type_ids": True} | options
    found = tokenizer(*([text] for text in texts), **options)
    return {"input_ids": found["input_ids"][0], "token_type_ids": found["token_type_ids"][0]}


def inputs(row):
    return {name: row[name].tolist() for name in ("input_ids", "token_type_ids")}


@pytest.mark.parametrize("max_length", [9, 20, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_texts_and_pairs_are_those_of_the_tokenizer(tokenizers, kind, max_length):
    tokenizer, records = tokenizers[kind], pairs()
    features = make(PAIR, records, tokenizer, max_length, training=True)
    for record, row in zip(records, features, strict=True):
        assert inputs(row) == expected(tokenizer, record["text_a"], record["text_b"], max_length=max_length)
        assert row["labels"] == 1
    assert features.lengths.tolist() == [len(row["input_ids"]) for row in features]
    alone = [SINGLE | {"text_a": text} for text in SENTENCES]
    for text, row in zip(SENTENCES, make(PAIR, alone, tokenizer, max_length, training=True), strict=True):
        assert inputs(row) == expected(tokenizer, text, max_length=max_length)
    mixed = make(PAIR, [records[1], alone[0], records[9]], tokenizer, max_length, training=True)
    assert inputs(mixed[1]) == expected(tokenizer, SENTENCES[0], max_length=max_length)
    assert inputs(mixed[2]) == expected(tokenizer, SENTENCES[1], SENTENCES[1], max_length=max_length)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_second_text_is_cut_where_the_task_says_so(tokenizers, kind):
    tokenizer = tokenizers[kind]
    task = Task("csl", "classification", (), labels=("0", "yes"), truncation="only_second")
    records = [record for record in pairs() if len(tokenizer(record["text_a"])["input_ids"]) < 26]
    assert len(records) > 10
    for record, row in zip(records, make(task, records, tokenizer, 30, training=True), strict=True):
        texts = record["text_a"], record["text_b"]
        assert inputs(row) == expected(tokenizer, *texts, truncation="only_second", max_length=30)


def test_truncation_fills_the_room():
    a, b = (found.ravel() for found in np.meshgrid(np.arange(30), np.arange(30)))
    for strategy in ("longest_first", "only_first", "only_second"):
        kept_a, kept_b = truncate(a, b, 12, strategy)
        assert (kept_a <= a).all() and (kept_b <= b).all()
        assert (kept_a + kept_b == np.minimum(a + b, 12)).all()
        if strategy == "only_first":
            assert (kept_b == b)[b < 12].all()
        if strategy == "only_second":
            assert (kept_a == a)[a < 12].all()


def test_models_without_token_types_get_none(tokenizers):
    features = make(PAIR, pairs(), tokenizers["bert"], 20, token_types=False)
    assert "token_type_ids" not in features[0]
    assert "token_type_ids" not in TaskCollator("classification", 0)(features.rows([0, 1]))


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_read_whole_at_evaluation_and_cut_in_training(tokenizers, kind):
    tokenizer, records = tokenizers[kind], pairs()
    cut, whole = (make(PAIR, records, tokenizer, 20, training=training) for training in (True, False))
    assert len(cut) == len(records) < len(whole) and cut.truncated == whole.truncated > 0
    assert whole.lengths.max() <= 20
    texts = whole.parts[1], whole.parts[3]
    for number, record in enumerate(records):
        rows = np.flatnonzero(whole.record == number)
        assert inputs(whole[rows[0]]) == inputs(cut[number])
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


def test_logits_of_windows_are_averaged(tokenizers, caplog):
    records = [SINGLE | {"text_a": "好" * length} for length in (3, 30, 8, 21)]
    whole = make(PAIR, records, tokenizers["bert"], 12)
    assert whole.record.tolist() == [0, 1, 1, 1, 2, 3, 3, 3] and whole.truncated == 0.5
    assert whole.lengths.tolist() == [5, 12, 12, 12, 10, 12, 12, 12]
    logits = np.random.default_rng(0).normal(size=(8, 2))
    found = combine(whole, logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [logits[rows].mean(0) for rows in ([0], [1, 2, 3], [4], [5, 6, 7])], rtol=1e-6)
    assert not caplog.records
    assert len(make(PAIR, records, tokenizers["bert"], 12, long_rows="truncate")) == 4
    assert "50.0 % of the rows are longer than 12 tokens" in caplog.text
    scores = Task("score", "regression", ())
    found = combine(
        make(scores, [record | {"label": 2.5} for record in records], tokenizers["bert"], 12), logits[:, :1]
    )
    np.testing.assert_allclose(found[1], logits[1:4, 0].mean(), rtol=1e-6)


def test_a_bad_length_label_or_number_of_logits_is_refused(tokenizers):
    records = [SINGLE | {"text_a": "好", "label": label} for label in ("yes", "maybe", None)]
    for chosen, length, training, message in (
        (records[:1], 4, False, "--max_length must be at least 5, got 4"),
        (records[:2], 20, True, "label maybe must be one that the model knows, no, yes"),
        (records[2:], 20, True, "record 0 of pair must have a label to train on"),
    ):
        with pytest.raises(ValueError, match=message):
            make(PAIR, chosen, tokenizers["bert"], length, training=training)
    features = make(PAIR, [records[0], records[2]], tokenizers["bert"], 20)
    assert "labels" not in features[0]
    with pytest.raises(ValueError, match="all 2 rows, got 1"):
        combine(features, [np.zeros(2)])


def test_labels_follow_the_numbers_of_the_model(tokenizers):
    records = [SINGLE | {"text_a": "好", "label": label} for label in ("yes", "no")]
    rows = make(PAIR, records, tokenizers["bert"], 20, label_ids={"yes": 0, "other": 1, "no": 2})
    assert [row["labels"] for row in rows] == [0, 2]


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
def test_a_swag_choice_finishes_the_question(tokenizers, kind):
    tokenizer, endings = tokenizers[kind], ["the dog.", "a quick fox", "", "好"]
    (row,) = make(SWAG, [question(SENTENCES[1], "Hello", *endings)], tokenizer, 64)
    texts = [expected(tokenizer, SENTENCES[1], f"Hello {ending}", max_length=64) for ending in endings]
    assert [ids.tolist() for ids in row["input_ids"]] == [text["input_ids"] for text in texts]
    assert [types.tolist() for types in row["token_type_ids"]] == [text["token_type_ids"] for text in texts]


def test_a_c3_choice_follows_the_question_and_only_the_context_gives_way(tokenizers):
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


def test_a_c3_question_with_two_choices_never_yields_a_dummy(tokenizers):
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


def cloze(tokenizer, text, *choices, max_length=64, **options):
    (row,) = make(CHID, [question(text, None, *choices)], tokenizer, max_length, **options)
    return [tokenizer.decode(ids).replace(" ", "") for ids in row["input_ids"]], row


def test_the_window_of_a_cloze_is_centred_on_its_blank_and_shifted_at_the_borders(tokenizers):
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


def test_other_blanks_take_the_place_of_an_idiom_and_quotes_and_dashes_are_unified(tokenizers):
    tokenizer = tokenizers["bert"]
    found, _ = cloze(tokenizer, "“一#other#二”—#idiom#『三』", "天安门我")
    assert found == ['[CLS]天安门我[SEP]"一[MASK][MASK][MASK][MASK]二"-[unused1]"三"[SEP]']
    # The four masks count: a window of 7 around the blank holds three of them.
    found, _ = cloze(tokenizer, "一#other##idiom#二三人云", "天安门我", max_length=14)
    assert found == ["[CLS]天安门我[SEP][MASK][MASK][MASK][unused1]二三人[SEP]"]
    with pytest.raises(ValueError, match="record 0 of chid must have one #idiom#"):
        cloze(tokenizer, "一", "天安门我")


@pytest.mark.parametrize("kind", ["roberta", "unigram"])
def test_a_cloze_works_with_every_tokenizer(tokenizers, kind):
    tokenizer = tokenizers[kind]
    _, row = cloze(tokenizer, "今天#other#天气#idiom#好", "一二三四", "五六")
    for ids in row["input_ids"]:
        assert ids.tolist().count(tokenizer.mask_token_id) == 5
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id


# Question answering

QA = Task("qa", "question_answering", ("em",), layout="qa", truncation="only_second")


def asked(question, context, *answers):
    return {
        "id": 0, "question": question, "context": context,
        "answers": [{"text": answer, "start": context.index(answer)} for answer in answers],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_windows_and_offsets_are_those_of_the_tokenizer(tokenizers, kind):
    tokenizer = tokenizers[kind]
    records = [asked("今天天气？", text) for text in ("".join(SENTENCES[:4]), SENTENCES[6], "好")]
    features = make(QA, records, tokenizer, 40, doc_stride=9)
    assert (np.bincount(features.record) > [1, 1, 0]).all()
    windows = combine(features, [np.zeros((2, 40))] * len(features))
    for number, record in enumerate(records):
        found = tokenizer(
            [record["question"]], [record["context"]], truncation="only_second", max_length=40, stride=9,
            return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
        )  # fmt: skip
        rows = np.flatnonzero(features.record == number)
        assert len(rows) == len(found["input_ids"])
        for window, row in enumerate(rows):
            ids = found["input_ids"][window]
            assert inputs(features[row]) == {"input_ids": ids, "token_type_ids": found["token_type_ids"][window]}
            context = np.array([owner == 1 for owner in found.sequence_ids(window)])
            assert windows.allowed[row, : len(ids)].tolist() == context.tolist()
            assert not windows.allowed[row, len(ids) :].any()
            offsets = windows.offsets[row, : len(ids)][context].tolist()
            for (begin, end), theirs in zip(
                offsets, np.array(found["offset_mapping"][window])[context].tolist(), strict=True
            ):
                if wanted := record["context"][slice(*theirs)].strip():  # spaces count to what follows, or to nothing
                    assert end == theirs[1] and record["context"][begin:end] == wanted


@pytest.mark.parametrize("kind", ["bert", "unigram"])
def test_windows_reconstruct_every_answer_that_fits(tokenizers, kind):
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


def test_an_answer_that_is_not_in_the_context_points_at_the_first_token(tokenizers):
    record = asked("好吗？", "今天天气") | {"answers": [{"text": "昨天", "start": -1}]}
    nothing = record | {"answers": [{"text": "", "start": 0}]}
    batch = TaskCollator("question_answering", 0)(
        make(QA, [record, nothing], tokenizers["bert"], 32, training=True).rows([0, 1])
    )
    assert batch["start_positions"].tolist() == batch["end_positions"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="must have a label to train on"):
        make(QA, [record | {"answers": []}], tokenizers["bert"], 32, training=True)


def test_a_long_question_is_cut_and_an_empty_context_has_a_window(tokenizers):
    features = make(QA, [asked("好" * 99, "今天" * 9), asked("", "")], tokenizers["bert"], 80)
    assert features.parts[1].counts[0] == 38 and features.lengths.tolist() == [59, 3]
    assert make(QA, [asked("好" * 99, "今天" * 9)], tokenizers["bert"], 512).parts[1].counts.tolist() == [64]


# Tagging

NER = Task("ner", "tagging", ("f1",), labels=tuple(TAGS), layout="characters")


def tagged(text, seed=0):
    """Random legal tags, also of white space and of characters that no tokenizer knows."""
    rng, tags = np.random.default_rng(seed), []
    for _ in text:
        tags.append("O" if not tags else rng.choice(["O", "B-X", "I-X"] if tags[-1] != "O" else ["O", "B-X"]))
    return {"id": 0, "chars": list(text), "text": text, "tags": list(map(str, tags))}


def one_hot(features, width=64):
    """Logits that say each row's labels, and at unlabelled tokens something wrong."""
    logits = np.zeros((len(features), width, 3))
    logits[..., 1] = 0.5
    for row, found in zip(logits, features, strict=True):
        (here,) = np.nonzero(found["labels"] != -100)
        row[here] = np.eye(3)[found["labels"][here]]
    return logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_length", [7, 12, 64])
def test_entities_survive_the_way_to_rows_and_back(tokenizers, kind, max_length):
    texts = [*SENTENCES, "１２３ ＡＢＣ 张三	李四​　👩‍👩‍👧 𠮷", " "]
    records = [tagged(text, seed) for seed, text in enumerate(texts)]
    features = make(NER, records, tokenizers[kind], max_length, label_ids=TAGS)
    assert features.lengths.max() <= max_length
    labels = [label for row in features for label in row["labels"].tolist() if label != -100]
    assert len(labels) == sum(map(len, texts))  # every character is trained on once, whatever the chunks share
    for record, output in zip(records, combine(features, one_hot(features)), strict=True):
        assert output.shape == (len(record["chars"]), 3) and np.isfinite(output).all()
        assert [NER.labels[best] for best in output.argmax(-1)] == record["tags"]


def test_chunks_are_of_whole_characters_and_share_context(tokenizers):
    features = make(NER, [tagged("好" * 40), tagged("好")], tokenizers["bert"], 18, label_ids=TAGS)
    assert features.units.tolist() == [[0, 16], [12, 28], [24, 40], [40, 41]]
    assert features.fresh.tolist() == [0, 16, 28, 40] and features.truncated == 0.5
    logits = np.arange(4)[:, None, None] * np.ones((4, 18, 3))
    mean = combine(features, logits)[0][:, 0]
    assert mean.tolist() == [0] * 12 + [0.5] * 4 + [1] * 8 + [1.5] * 4 + [2] * 12


def test_words_are_tokenised_as_in_running_text_and_labelled_at_their_first_token(tokenizers):
    words = ["Hello", "dog", "quick", ",", "caf"]
    record = {"id": 0, "chars": words, "text": " ".join(words), "tags": ["O", "B-X", "I-X", "O", "O"]}
    for kind in ("bert", "roberta", "unigram"):
        tokenizer = tokenizers[kind]
        (row,) = make(NER, [record], tokenizer, 64, label_ids=TAGS)
        found = tokenizer(words, is_split_into_words=True)
        assert row["input_ids"].tolist() == found["input_ids"]
        owners = found.word_ids()
        firsts = [owner is not None and owner != owners[place - 1] for place, owner in enumerate(owners)]
        assert (row["labels"] != -100).tolist() == firsts


def test_characters_keep_no_mark_of_a_leading_space(tokenizers):
    (row,) = make(NER, [tagged("我爱 北")], tokenizers["unigram"], 64, label_ids=TAGS)
    assert tokenizers["unigram"].convert_ids_to_tokens(row["input_ids"]) == ["<s>", "我", "爱", "▁", "北", "</s>"]


def test_a_tagged_batch_pads_its_labels(tokenizers):
    features = make(NER, [tagged("我爱北京"), tagged("好")], tokenizers["bert"], 64, label_ids=TAGS)
    batch = TaskCollator("tagging", 0, 8)(features.rows([1, 0]))
    assert batch["labels"].shape == batch["input_ids"].shape == (2, 8)
    assert batch["labels"][0].tolist() == [-100, 0] + [-100] * 6
    untagged = make(NER, [tagged("好") | {"tags": None}], tokenizers["bert"], 64, label_ids=TAGS)
    assert "labels" not in untagged[0]
    with pytest.raises(ValueError, match="must have a label to train on"):
        make(NER, [tagged("好") | {"tags": None}], tokenizers["bert"], 64, training=True, label_ids=TAGS)


# Batches

REVIEWS = [SINGLE | {"text_a": "好" * length} for length in np.random.default_rng(3).integers(1, 60, 103)]


def test_training_batches_are_a_function_of_the_seed_and_hold_rows_of_like_length(tokenizers):
    features = make(PAIR, REVIEWS, tokenizers["bert"], 64, training=True)

    def batches(micro=8, accumulation=1, processes=1, process=0, seed=1):
        return make_train_batches(features, micro, accumulation, processes, process, steps=13, seed=seed)

    def flat(found):
        return sorted(pair for batch in found for pair in batch)

    first = list(islice(batches(), 12))  # as many whole steps as an epoch has
    assert first == list(islice(batches(), 12)) != list(islice(batches(seed=2), 12))
    assert len({row for _, row in flat(first)}) == 96  # nothing comes twice before everything has come
    padding = 1 - sum(features.lengths[row] for _, row in flat(first)) / sum(
        8 * max(features.lengths[row] for _, row in batch) for batch in first
    )
    assert padding < 0.1
    shared = [batch for process in (0, 1) for batch in islice(batches(4, 1, 2, process), 12)]
    assert flat(shared) == flat(first) == flat(islice(batches(4, 2), 24))


def test_a_tiny_training_set_is_never_sorted_over_epochs(tokenizers):
    features = make(PAIR, REVIEWS[:32], tokenizers["bert"], 64, training=True)
    rows = [row for batch in islice(make_train_batches(features, 8, 1, 1, 0, steps=8, seed=0), 8) for _, row in batch]
    assert sorted(rows[:32]) == sorted(rows[32:]) == list(range(32))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_gives_every_row_once_in_order_for_any_number_of_processes(tokenizers, processes):
    features = make(PAIR, REVIEWS, tokenizers["bert"], 32)
    assert len(features) > len(REVIEWS)
    numbers, outputs = [], []
    for process in range(processes):
        for batch in make_eval_batches(features, 8, processes, process):
            rows = [row for _, row in batch]
            numbers += rows
            outputs += list(
                TaskCollator("classification", 0)(features.rows(rows))["input_ids"].sum(1, keepdim=True).numpy()
            )
    expected_sums = [[row["input_ids"].sum()] for row in features]
    assert in_order(features, numbers, outputs) == expected_sums
    assert len(combine(features, in_order(features, numbers, outputs))) == len(REVIEWS)
    for wrong in (numbers + numbers[:1], numbers[1:], numbers[1:] + numbers[1:2]):
        with pytest.raises(ValueError, match="must have one output"):
            in_order(features, wrong, [0] * len(wrong))


def test_float_labels_and_padding_have_the_types_of_the_model(tokenizers):
    records = [SINGLE | {"text_a": "好" * length, "label": float(length)} for length in (1, 3)]
    batch = TaskCollator("regression", 7, 8)(
        make(Task("score", "regression", ()), records, tokenizers["bert"], 64).rows([1, 0])
    )
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [3.0, 1.0]
    assert batch["input_ids"].shape == (2, 8) and batch["input_ids"][1, 3:].tolist() == [7] * 5
    assert batch["attention_mask"].sum(1).tolist() == [5, 3] and not batch["token_type_ids"].any()
