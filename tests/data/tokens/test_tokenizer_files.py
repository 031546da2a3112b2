"""Tokenizers load without transformers as it loads them, and the hash tells them apart."""

import json
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from data.tokens.tokenizer_files import load_backend, special_frame, tokenizer_hash
from tests.data.tokens.bert_variants import HARD, VARIANTS, library, no_fallback, with_nfkc


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("saved", [False, True])
def test_a_folder_loads_as_transformers_loads_it(bert_folder, tmp_path, config, saved):
    folder = bert_folder(tokenizer_class="BertTokenizer", **config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if saved:  # tokenizer.json instead of vocab.txt
        tokenizer.save_pretrained(tmp_path)
        folder = tmp_path
    backend = load_backend(str(folder), no_fallback)
    assert tokenizer_hash(backend) == tokenizer_hash(tokenizer.backend_tokenizer)
    assert special_frame(backend) == tokenizer("")["input_ids"]
    for text in HARD:
        assert library(backend, text).ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_generic_tokenizer_json_is_read_as_transformers_reads_it(bert_folder, tmp_path):
    with_nfkc(load_backend(str(bert_folder()), no_fallback)).save(str(tmp_path / "tokenizer.json"))
    specials = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]", **specials}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    expected = tokenizer_hash(AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer)
    assert tokenizer_hash(load_backend(str(tmp_path), no_fallback)) == expected


def test_entries_that_end_in_white_space_are_read_as_transformers_reads_them(bert_folder):
    folder = bert_folder(tokenizer_class="BertTokenizer", do_lower_case=True)
    with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("##\u2028\r\n新\r\n")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer_hash(load_backend(str(folder), no_fallback)) == tokenizer_hash(tokenizer.backend_tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_class": "SomeTokenizer"},
        {"additional_special_tokens": ["<x>"]},
        {"cls_token": "[BOS]"},
        {"mask_token": {"content": "[MASK]", "lstrip": True}},
    ],
)
def test_what_is_not_a_plain_bert_folder_is_left_to_transformers(bert_folder, change):
    other = load_backend(str(bert_folder()), no_fallback)
    assert load_backend(str(bert_folder(**change)), lambda name: other) is other


def test_a_tokenizer_json_that_contradicts_its_config_is_left_to_transformers(bert_folder, tmp_path):
    AutoTokenizer.from_pretrained(bert_folder(tokenizer_class="BertTokenizer")).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": False}))
    other = load_backend(str(bert_folder()), no_fallback)
    assert load_backend(str(tmp_path), lambda name: other) is other


def test_the_hash_changes_with_vocabulary_case_and_specials_and_not_with_padding(bert_folder):
    folder = bert_folder()
    backend = load_backend(str(folder), no_fallback)
    before = tokenizer_hash(backend)
    backend.enable_padding(length=32)
    backend.enable_truncation(max_length=16)
    assert tokenizer_hash(backend) == before
    cased = load_backend(str(bert_folder(do_lower_case=False)), no_fallback)
    text = (folder / "vocab.txt").read_text(encoding="utf-8")
    swapped = bert_folder()
    (swapped / "vocab.txt").write_text(text.replace("研\n", "砚\n"), encoding="utf-8")
    other = load_backend(str(swapped), no_fallback)
    backend.add_special_tokens(["[EXTRA]"])
    assert len({before, tokenizer_hash(cased), tokenizer_hash(other), tokenizer_hash(backend)}) == 4


def test_loading_imports_neither_torch_nor_transformers(bert_folder):
    code = (
        "import sys; from data.tokens.tokenizer_files import load_backend, tokenizer_hash; "
        f"tokenizer_hash(load_backend({str(bert_folder())!r}, None)); "
        "assert not {'torch', 'transformers', 'datasets'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
