"""Our tokenizer beside sentencepiece itself, and texts on which they might differ."""

import pytest

from models.tokenization_cog import cog_tokenizer

ORIGINAL = "data/vocab/cog-pretrain.model"  # of the folder of real files

WORDS = (
    "<n>",
    "<unk>",
    "<s>",
    "</s>",
    "<|endoftext|>",
    "  ",
    "\n\n",
    "\r\n",
    "か\u3099",
    "ｶﾞ",
    "é",
    "①\u0301",
    "▁\u0301",
)
PLACEHOLDERS = {0xE000 + number: word for number, word in enumerate(WORDS)}
LETTERS = (
    "问题描述回答用户知乎的一是在不了有和人这中大为上个国我以要他时来abcXYZ019 .,:!?()<>|/-'\"：，？（）！。、“”…—①㎡"
)
LETTERS += "ＡＢＣ１２３～~　\t\n\u200b\u00a0\ufeffé́ß龘😀日本テストПр▁" + "".join(map(chr, PLACEHOLDERS)) * 2


def load_pair(file):
    sentencepiece = pytest.importorskip("sentencepiece")
    return cog_tokenizer(file), sentencepiece.SentencePieceProcessor(model_file=str(file))


def assert_same(tokenizer, processor, text):
    ids = processor.EncodeAsIds(text)
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.decode(ids) == processor.DecodeIds(ids)
