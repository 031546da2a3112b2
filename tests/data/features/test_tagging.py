"""Chunks of tagged characters and words: every one keeps its tag, whatever the tokenizer makes of it."""

import numpy as np
import pytest

from data.features.build import TaskCollator, combine
from data.tasks.task import Task

KINDS = ("bert", "roberta", "unigram", "roformer")
TAGS = {"O": 0, "B-X": 1, "I-X": 2}
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
    for row, expected in zip(logits, features, strict=True):
        (here,) = np.nonzero(expected["labels"] != -100)
        row[here] = np.eye(3)[expected["labels"][here]]
    return logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_length", [7, 12, 64])
def test_entities_survive_the_way_to_rows_and_back(tokenizers, kind, max_length, make, sentences):
    texts = [*sentences, "１２３ ＡＢＣ 张三	李四​　👩‍👩‍👧 𠮷", " "]
    records = [tagged(text, seed) for seed, text in enumerate(texts)]
    features = make(NER, records, tokenizers[kind], max_length, label_ids=TAGS)
    assert features.lengths.max() <= max_length
    labels = [label for row in features for label in row["labels"].tolist() if label != -100]
    assert len(labels) == sum(map(len, texts))  # every character is trained on once, whatever the chunks share
    for record, output in zip(records, combine(features, one_hot(features)), strict=True):
        assert output.shape == (len(record["chars"]), 3) and np.isfinite(output).all()
        assert [NER.labels[best] for best in output.argmax(-1)] == record["tags"]


def test_chunks_are_of_whole_characters_and_share_context(tokenizers, make):
    features = make(NER, [tagged("好" * 40), tagged("好")], tokenizers["bert"], 18, label_ids=TAGS)
    assert features.units.tolist() == [[0, 16], [12, 28], [24, 40], [40, 41]]
    assert features.fresh.tolist() == [0, 16, 28, 40] and features.truncated == 0.5
    logits = np.arange(4)[:, None, None] * np.ones((4, 18, 3))
    mean = combine(features, logits)[0][:, 0]
    assert mean.tolist() == [0] * 12 + [0.5] * 4 + [1] * 8 + [1.5] * 4 + [2] * 12


def test_words_are_tokenised_as_in_running_text_and_labelled_at_their_first_token(tokenizers, make):
    words = ["Hello", "dog", "quick", ",", "caf"]
    record = {"id": 0, "chars": words, "text": " ".join(words), "tags": ["O", "B-X", "I-X", "O", "O"]}
    for kind in ("bert", "roberta", "unigram"):
        tokenizer = tokenizers[kind]
        (row,) = make(NER, [record], tokenizer, 64, label_ids=TAGS)
        expected = tokenizer(words, is_split_into_words=True)
        assert row["input_ids"].tolist() == expected["input_ids"]
        owners = expected.word_ids()
        firsts = [owner is not None and owner != owners[index - 1] for index, owner in enumerate(owners)]
        assert (row["labels"] != -100).tolist() == firsts


def test_characters_keep_no_mark_of_a_leading_space(tokenizers, make):
    (row,) = make(NER, [tagged("我爱 北")], tokenizers["unigram"], 64, label_ids=TAGS)
    assert tokenizers["unigram"].convert_ids_to_tokens(row["input_ids"]) == ["<s>", "我", "爱", "▁", "北", "</s>"]


def test_a_tagged_batch_pads_its_labels(tokenizers, make):
    features = make(NER, [tagged("我爱北京"), tagged("好")], tokenizers["bert"], 64, label_ids=TAGS)
    batch = TaskCollator("tagging", 0, 8)(features.rows([1, 0]))
    assert batch["labels"].shape == batch["input_ids"].shape == (2, 8)
    assert batch["labels"][0].tolist() == [-100, 0] + [-100] * 6
    untagged = make(NER, [tagged("好") | {"tags": None}], tokenizers["bert"], 64, label_ids=TAGS)
    assert "labels" not in untagged[0]
    with pytest.raises(ValueError, match="must have a label to train on"):
        make(NER, [tagged("好") | {"tags": None}], tokenizers["bert"], 64, training=True, label_ids=TAGS)
