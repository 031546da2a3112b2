"""The tokenizer made from a sentencepiece file gives sentencepiece's own ids and texts."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from models.tokenization_cog import cog_tokenizer
from tests.models.sentencepiece_pairs import LETTERS, ORIGINAL, PLACEHOLDERS, assert_same, load_pair

ALPHABET = st.one_of(
    st.sampled_from(LETTERS), st.sampled_from(LETTERS), st.characters(exclude_categories=["Cs", "Co"])
)
TEXTS = st.lists(
    st.text(ALPHABET, max_size=20).map(lambda text: text.translate(PLACEHOLDERS)), min_size=10, max_size=10
)


def test_it_agrees_with_sentencepiece_on_10000_texts(pair):
    tokenizer, processor = pair

    @settings(max_examples=1000, deadline=None, derandomize=True, database=None)
    @given(TEXTS)
    def compare(texts):
        for text in texts:
            assert_same(tokenizer, processor, text)

    compare()


def test_it_agrees_on_every_piece_alone_and_between_others(pair):
    tokenizer, processor = pair
    for number in range(processor.get_piece_size()):
        piece = processor.id_to_piece(number).replace("▁", " ")
        for text in (piece, f"的{piece}", f"问 {piece} 题"):
            assert_same(tokenizer, processor, text)
        assert tokenizer.decode([number]) == processor.DecodeIds([number])


def test_any_ids_decode_alike(pair):
    tokenizer, processor = pair

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.integers(0, processor.get_piece_size() - 1), max_size=20))
    def compare(ids):
        assert tokenizer.decode(ids) == processor.DecodeIds(ids)

    compare()


def test_the_end_of_text_follows_the_pieces_and_is_never_read_from_text(pair):
    tokenizer, processor = pair
    end = processor.get_piece_size()
    assert len(tokenizer) == end + 1
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == end
    assert end not in tokenizer("问题<|endoftext|>").input_ids
    assert tokenizer.decode([*tokenizer("问题").input_ids, end, end]) == "问题 <|endoftext|> <|endoftext|>"
    assert tokenizer.decode([*tokenizer("问题").input_ids, end], skip_special_tokens=True) == "问题"
    for blank in ("", " ", "\n", "　"):
        assert tokenizer(blank).input_ids == []


def test_a_newline_is_a_space_unless_asked_for(small_cog_file):
    plain, lines = cog_tokenizer(small_cog_file), cog_tokenizer(small_cog_file, newline_token=True)
    assert plain("问\n题").input_ids == plain("问 题").input_ids
    assert lines("问\n题").input_ids == plain("问<n>题").input_ids
    for text in ("问\n题", "问题\n\n回答", "\n问"):
        assert lines.decode(lines(text).input_ids) == text


@pytest.mark.parametrize("newline_token", [False, True])
def test_it_is_the_same_after_saving(small_cog_file, tmp_path, newline_token):
    tokenizer = cog_tokenizer(small_cog_file, newline_token=newline_token)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("问题：大<n>中\n 国<|endoftext|>龘", "  a  b ", ""):
        assert again(text).input_ids == tokenizer(text).input_ids
        assert again.decode(again(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)
    assert again.pad_token_id == again.eos_token_id == tokenizer.eos_token_id
    assert again.padding_side == "left"
    assert again("问", return_tensors="pt").keys() == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x0a\xff\xff\xff\xff\x0f", b"\x08\x01"])
def test_other_files_are_refused_by_name(tmp_path, content):
    file = tmp_path / "cog-pretrain.model"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cog-pretrain\.model must be a sentencepiece"):
        cog_tokenizer(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        cog_tokenizer(tmp_path / "cog-pretrain.model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 200}, "sentencepiece BPE model"),
        ({"normalization_rule_name": "identity"}, "with a normalisation table"),
        ({"normalization_rule_name": "nfkc"}, "normalisation table of nmt_nfkc's kind"),
        ({"user_defined_symbols": "①"}, "user-defined symbols that its table leaves as they are, got '①'"),
        ({"add_dummy_prefix": False}, "defaults for spaces"),
        ({"remove_extra_whitespaces": False}, "defaults for spaces"),
        ({"byte_fallback": True, "vocab_size": 500}, "without bytes"),
    ],
)
def test_another_kind_of_model_is_refused(train_sentencepiece, options, message):
    with pytest.raises(ValueError, match=message):
        cog_tokenizer(train_sentencepiece(**options))


def test_newlines_need_their_piece_and_symbols_their_longest_match(train_sentencepiece):
    with pytest.raises(ValueError, match="must have the piece <n>"):
        cog_tokenizer(train_sentencepiece(user_defined_symbols=""), newline_token=True)
    tokenizer, processor = load_pair(train_sentencepiece(user_defined_symbols="<n>,<n>x,>>,a<"))
    for text in ("a<n>xy<n>>>\u0338>\u0338", "<n>x<n> x>>>", "a<\u0338n>", "<n>\u0338<n>x\u0301"):
        assert_same(tokenizer, processor, text)


@pytest.mark.needs_shared
def test_every_case_of_the_original_with_its_own_model(shared):
    described = json.loads((shared / "parity/cog_tokenizer.json").read_text(encoding="utf-8"))
    assert hashlib.sha256((shared / ORIGINAL).read_bytes()).hexdigest() == described["sha256"]
    tokenizer = cog_tokenizer(shared / ORIGINAL)
    assert len(tokenizer) == described["num_tokens"]
    for case in described["encode"]:
        assert tokenizer(case["text"]).input_ids == case["ids"], case["name"]
        assert tokenizer.decode(case["ids"]) == case["decoded"], case["name"]
    for case in described["decode"]:
        assert tokenizer.decode(case["ids"]) == case["decoded"]
    example = described["finetune_example"]
    encoded = [tokenizer(example[part]).input_ids for part in ("prompt", "text")]
    assert [*encoded[0], *encoded[1], tokenizer.eos_token_id] == example["sequence"]
