"""Tokenizers of published folders."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

import models

FAMILIES = pytest.mark.parametrize("name", ["gau_alpha", "flash_quad", "flash"])


@FAMILIES
def test_tokenizer_of_a_published_folder_has_every_token(published, name):
    folder = published(name)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(0x4E00 + i) for i in range(11995))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 12000
    assert tokenizer("一丁[MASK]")["input_ids"] == [2, 5, 6, 4, 3]


@pytest.mark.parametrize(
    "wanted", ["GAUAlphaTokenizer", "GAUAlphaTokenizerFast", "BertTokenizer", "BertTokenizerFast"]
)
def test_every_tokenizer_class_that_a_published_folder_may_name_is_known(published, wanted):
    folder = published("gau_alpha")
    settings = {"tokenizer_class": wanted, "do_lower_case": True, "special_tokens_map_file": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 100
    assert type(tokenizer).__name__ == wanted.removesuffix("Fast")


@FAMILIES
@pytest.mark.needs_shared
def test_the_published_vocabulary_is_whole(published, shared, name):
    folder = published(name)
    shutil.copy(shared / "data/vocab/gau_char_12000.txt", folder / "vocab.txt")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 12000
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 100, 101, 102, 103]


def test_gau_alpha_tokenizer_gives_type_zero_to_pairs(published, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(published("gau_alpha"))
    assert type(tokenizer) is models.GAUAlphaTokenizer
    assert set(tokenizer("一丁", "丂")["token_type_ids"]) == {0}
    tokenizer.save_pretrained(tmp_path / "saved")
    again = models.GAUAlphaTokenizer.from_pretrained(tmp_path / "saved")
    assert again("一丁", "丂") == tokenizer("一丁", "丂")
    assert set(again("一丁", "丂")["token_type_ids"]) == {0}
