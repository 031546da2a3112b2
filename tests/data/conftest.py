"""Tokenizers of four kinds, and rows of task records made with them; imports that are slow wait for their tests."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from data import trans_to_json
from data.corpus import preparation, sources, store
from data.text import raw_documents
from tests import chinese_corpora
from tests.data.packed import empty_memory, write_lines
from tests.data.preparing import SPECIALS

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


def byte_bpe():
    from transformers import RobertaTokenizer

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
    from transformers import PreTrainedTokenizerFast

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
    from transformers import RoFormerTokenizer

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "北京", "天安门", *"我爱今天气很不错好。，一二三"]
    return RoFormerTokenizer(vocab={token: number for number, token in enumerate(tokens)})


@pytest.fixture(scope="session")
def tokenizers(bert_folder):
    from training.pretrained import load_tokenizer

    return {
        "bert": load_tokenizer(str(bert_folder()), "--tokenizer"),
        "roberta": byte_bpe(),
        "unigram": unigram(),
        "roformer": jieba(),
    }


@pytest.fixture(scope="session")
def sentences():
    return SENTENCES


@pytest.fixture(scope="session")
def make():
    """(task, records, tokenizer, max_length, ...) -> features, by default for evaluation."""
    from data.features.build import make_features

    def features(task, records, tokenizer, max_length, training=False, label_ids=None, token_types=True, **options):
        options |= {"max_length": max_length, "training": training, "token_types": token_types}
        options["label_ids"] = {name: i for i, name in enumerate(task.labels)} if label_ids is None else label_ids
        return make_features(task, records, tokenizer, **options)

    return features


@pytest.fixture(scope="session")
def inputs():
    """Rows as lists: of a feature row, and `expected` of the tokenizer."""

    def of_row(row):
        return {name: row[name].tolist() for name in ("input_ids", "token_type_ids")}

    def expected(tokenizer, *texts, **options):
        """Called as run_glue calls it, with lists; alone, a pair with an empty second text counts as a single text."""
        options = {"truncation": True, "return_token_type_ids": True} | options
        encoded = tokenizer(*([text] for text in texts), **options)
        return {name: encoded[name][0] for name in ("input_ids", "token_type_ids")}

    return SimpleNamespace(of_row=of_row, expected=expected)


@pytest.fixture(scope="session")
def letters(tmp_path_factory):
    """A BERT vocabulary of letters, digits and some Chinese."""
    folder = tmp_path_factory.mktemp("tokenizer")
    pieces = [*'abcdefghijklmnopqrstuvwxyz0123456789.,"[]{}:']
    tokens = [*SPECIALS, *pieces, *(f"##{piece}" for piece in pieces[:36]), *"今天气很好我们"]
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    return folder


@pytest.fixture
def small_tables(monkeypatch):
    """Units and batches of create_data.py so small that short documents fill several."""
    monkeypatch.setattr(sources, "UNIT_BYTES", 1500)
    monkeypatch.setattr(preparation, "_BATCH", 700)


@pytest.fixture
def small_pieces(monkeypatch):
    """Make units of work and buckets so small that every boundary case occurs."""
    monkeypatch.setattr(raw_documents, "UNIT_BYTES", 1000)
    monkeypatch.setattr(trans_to_json, "BUCKET_BYTES", 3000)


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    with empty_memory() as files:
        yield files


@pytest.fixture
def lines(tmp_path):
    """A folder of JSON lines."""
    return write_lines(tmp_path / "lines")


@pytest.fixture
def large_corpus(vocabulary, tmp_path, small_units, monkeypatch):
    """A corpus of several shards whose documents have several rows, as if it were large, and its tokenizer."""
    monkeypatch.setattr(store, "SMALL", 0)
    source = chinese_corpora.write_jsonl(tmp_path / "in.jsonl", chinese_corpora.documents(60))
    corpus = chinese_corpora.prepare(vocabulary, source, tmp_path / "corpus", "--max_seq_length", "24")
    assert len(corpus.maps) > 5 and len(np.unique(corpus.documents)) < len(corpus) / 2
    from training.pretrained import load_tokenizer

    return corpus, load_tokenizer(str(vocabulary), "--tokenizer_name").backend_tokenizer
