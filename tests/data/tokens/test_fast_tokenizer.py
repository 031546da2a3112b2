"""Ids are the library's own on any text, however it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from data.corpus.blocks import mark_words
from data.tokens.fast_tokenizer import FastTokenizer
from data.tokens.tokenizer_files import load_backend
from data.tokens.word_segmenters import make_segmenter
from tests.data.tokens.bert_variants import HARD, VARIANTS, library, no_fallback, with_nfkc

texts = st.lists(
    st.one_of(
        st.sampled_from(HARD),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
        st.text(alphabet="研究生命起源abc1 ，。\u0301\u200d", max_size=12),
    ),
    max_size=6,
).map("".join)


def encode(backend, documents):
    text = "\n".join(documents)
    return FastTokenizer(backend).encode(documents, text, np.frombuffer(text.encode("utf-32-le"), np.uint32))


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def backend(request, bert_folder):
    return load_backend(str(bert_folder(**request.param)), no_fallback)


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def nfkc_backend(request, bert_folder):
    return with_nfkc(load_backend(str(bert_folder(do_lower_case=request.param)), no_fallback))


@settings(max_examples=100, deadline=None)
@given(documents=st.lists(texts, min_size=1, max_size=4))
def test_ids_and_positions_are_those_of_the_library_on_any_text(backend, documents):
    tokens = encode(backend, documents)
    encodings = [library(backend, document) for document in documents]
    begins = np.cumsum([0] + [len(document) + 1 for document in documents])
    assert tokens.ids.tolist() == [token for encoding in encodings for token in encoding.ids]
    offsets = [(begin + a, begin + b) for begin, e in zip(begins, encodings, strict=False) for a, b in e.offsets]
    assert tokens.first.tolist() == [a for a, _ in offsets]
    assert tokens.last.tolist() == [max(a, b - 1) for a, b in offsets]
    starts = [i == 0 or e.word_ids[i] != e.word_ids[i - 1] for e in encodings for i in range(len(e.ids))]
    assert tokens.starts.tolist() == starts


@settings(max_examples=100, deadline=None)
@given(documents=st.lists(texts, min_size=1, max_size=4))
def test_ids_are_those_of_the_library_where_compatibility_characters_are_unified(nfkc_backend, documents):
    tokens = encode(nfkc_backend, documents)
    encodings = [library(nfkc_backend, document) for document in documents]
    assert tokens.ids.tolist() == [token for encoding in encodings for token in encoding.ids]
    starts = [i == 0 or e.word_ids[i] != e.word_ids[i - 1] for e in encodings for i in range(len(e.ids))]
    assert tokens.starts.tolist() == starts


def test_ids_are_those_of_the_library_on_hard_strings(backend):
    for text in HARD:
        for document in (text, f"研{text}究", f"a{text}b", f"{text} {text}"):
            assert encode(backend, [document]).ids.tolist() == library(backend, document).ids, document


def test_code_points_of_every_kind_are_exact_in_context(backend):
    _check_code_points(backend, [*range(0x700), *range(0x700, 0x20000, 23)])


def test_code_points_of_every_kind_are_exact_where_they_are_unified(nfkc_backend):
    _check_code_points(nfkc_backend, [*range(0x700), *range(0x700, 0x20000, 23)])


@pytest.mark.slow
def test_every_code_point_is_exact_in_context(backend):
    _check_code_points(backend, range(0x110000))


@pytest.mark.slow
def test_every_code_point_is_exact_where_they_are_unified(nfkc_backend):
    _check_code_points(nfkc_backend, range(0x110000))


def _check_code_points(backend, points):
    characters = [chr(point) for point in points if not 0xD800 <= point < 0xE000]
    for start in range(0, len(characters), 4096):
        chunk = characters[start : start + 4096]
        document = "\n".join(f"x{c}中{c}{d}y{c} {d}{c}," for c, d in zip(chunk, reversed(chunk), strict=True))
        assert encode(backend, [document]).ids.tolist() == library(backend, document).ids


def test_special_strings_in_a_text_become_special_tokens_as_in_the_library(bert_folder):
    backend = load_backend(str(bert_folder()), no_fallback)
    mask = backend.token_to_id("[MASK]")
    assert mask in encode(backend, ["我爱[MASK]京", "北京"]).ids
    assert mask not in encode(backend, ["我爱[mask]京"]).ids


@settings(max_examples=60, deadline=None)
@given(document=texts)
def test_a_tokenizer_of_another_kind_is_called_directly(document):
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "研": 3, "究": 4, "?": 5}, [("a", "b")], unk_token="?"))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert encode(backend, [document, "ab研究"]).ids.tolist() == [*library(backend, document).ids, 2, 3, 4]


def test_added_tokens_with_rules_of_their_own_are_left_to_the_library(bert_folder):
    tokenizer = AutoTokenizer.from_pretrained(bert_folder(tokenizer_class="BertTokenizer"))
    tokenizer.add_tokens(["研究生", "BigWord"])  # normalised before they are matched
    backend = tokenizer.backend_tokenizer
    document = "这位研究生 bigword 他"
    assert encode(backend, [document]).ids.tolist() == library(backend, document).ids
    assert len(tokenizer) - 1 in encode(backend, [document]).ids


@pytest.fixture(scope="module")
def byte_level():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(ENGLISH, trainer)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return backend


@pytest.fixture(scope="module", params=["always", "first", "never"])
def unigram(request):
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=request.param)
    backend.train_from_iterator(ENGLISH, trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>"))
    return backend


ENGLISH = ["The quick brown fox jumps over 13 lazy dogs; isn't it (really) nice? " * 3, "naïve café, дом. \ta  b"]
spaced = st.lists(
    st.one_of(
        st.sampled_from(
            [*" ab1.,'\"\n\t\u2003\u00a0\u0301é京ß", "the", " fox", "  ", " 's", "n't", "12", "ﬁ", " ²", "\u200d"]
        ),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3),
    ),
    max_size=25,
).map("".join)


def assert_same_tokens_and_words(backend, documents):
    """Ids of the library, and the words that its own offsets would give."""
    fast = FastTokenizer(backend)
    text = "\n".join(documents)
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    tokens, by_library = fast.encode(documents, text, points), fast._encode_by_library(documents)
    assert fast._splits_at_spaces
    assert tokens.ids.tolist() == [token for document in documents for token in library(backend, document).ids]
    words = make_segmenter("basic").word_numbers(text, points)
    assert mark_words(tokens, words).tolist() == mark_words(by_library, words).tolist()


@settings(max_examples=200, deadline=None)
@given(documents=st.lists(spaced, min_size=1, max_size=4))
def test_byte_level_tokens_are_those_of_the_library_on_any_text(byte_level, documents):
    assert_same_tokens_and_words(byte_level, documents)


@settings(max_examples=100, deadline=None)
@given(documents=st.lists(spaced, min_size=1, max_size=4))
def test_sentencepiece_tokens_are_those_of_the_library_on_any_text(unigram, documents):
    assert_same_tokens_and_words(unigram, documents)


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": pre_tokenizers.ByteLevel(use_regex=False)},
        {"pre_tokenizer": pre_tokenizers.Metaspace(split=False)},
        {"pre_tokenizer": pre_tokenizers.Split(" ", "merged_with_previous")},
        {"normalizer": normalizers.Prepend("x")},
        {"normalizer": normalizers.Strip()},
        {"model": models.BPE(dropout=0.1)},
    ],
    ids=str,
)
def test_tokenizers_whose_words_are_not_independent_are_called_whole(byte_level, change):
    backend = Tokenizer.from_str(byte_level.to_str())
    for name, value in change.items():
        setattr(backend, name, value)
    assert not FastTokenizer(backend)._splits_at_spaces


def test_a_full_memory_starts_anew_and_keeps_what_was_asked_last(byte_level, monkeypatch):
    monkeypatch.setattr("data.tokens.fast_tokenizer._CACHED_RUNS", 3)
    fast, asked = FastTokenizer(byte_level), []
    real = fast._runs._encode
    fast._runs._encode = lambda run: (asked.append(run), real(run))[1]
    for words in (["a", "b", "c", "d"], ["a", "e"], ["a", "b", "f", "g"]):
        text = " ".join(words)
        tokens = fast.encode([text], text, np.frombuffer(text.encode("utf-32-le"), np.uint32))
        assert tokens.ids.tolist() == library(byte_level, text).ids
    assert asked == ["a", " b", " c", " d", " e", " f", " g"]
