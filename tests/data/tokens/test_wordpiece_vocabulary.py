"""Words are the library's, merges those of the definition, and long words cost no more than they bring."""

import json
import random
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import train_tokenizer
from data.tokens.wordpiece_vocabulary import choose_alphabet, count_characters, count_words, learn_pieces
from data.train_tokenizer import SPECIALS, build_backend
from tests.data.preparing import written

characters = st.sampled_from(
    [*"天地玄aAé１Ⅷ，.#[] \n\t\u3000\u0301\u0338=<ガか゛\u200d\x00", "\U00020000", "\ufa0e", "㎏", "한"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(characters, max_size=12).map("".join), max_size=4), st.booleans(), st.booleans())
def test_words_are_those_of_the_library(texts, lowercase, nfkc):
    backend = build_backend(list(SPECIALS.values()), lowercase, nfkc)
    expected = Counter()
    for text in texts:
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        expected.update(piece for piece, _ in pieces)
    assert count_words(texts, backend) == (expected, 0)


def merges_by_definition(words, size, least):
    split = {word: [word[0], *(f"##{c}" for c in word[1:])] for word in words}
    pieces = []
    while len(pieces) < size:
        counts = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                counts[pair] += words[word]
        if not counts or max(counts.values()) < least:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        piece = best[0] + best[1][2:]
        if piece not in pieces:
            pieces.append(piece)
        for parts in split.values():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = [piece]
                at += 1
    return pieces


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=7), st.integers(1, 5), min_size=1, max_size=12),
    st.integers(1, 20),
    st.integers(1, 3),
)
def test_merges_are_the_most_frequent_pairs(words, size, least):
    letters, inner = count_characters(words)
    alphabet = choose_alphabet(letters, inner, 100, 1, None)
    pieces = learn_pieces(words, alphabet, inner, len(alphabet) + len(inner) + size, least)
    assert pieces[: len(alphabet)] == alphabet
    assert set(pieces[len(alphabet) :][: len(inner)]) == {f"##{c}" for c in inner}
    assert pieces[len(alphabet) + len(inner) :] == merges_by_definition(words, size, least)


@pytest.mark.parametrize("more", ["".join(random.Random(0).choices("abcdefgh0123456789", k=8000)), "x" * 101])
def test_words_that_bert_makes_unknown_teach_nothing_and_cost_nothing(tmp_path, capsys, more):
    short = [f"document number {number} 今天天气很好" for number in range(300)]
    vocabularies, seconds = [], []
    for name, texts in (("without", short), ("with", [*short, more])):
        file = written(tmp_path / f"{name}.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        begin = time.process_time()
        train_tokenizer.main(["--input_path", str(file), "--output_dir", str(tmp_path / name), "--vocab_size", "3000"])
        seconds.append(time.process_time() - begin)
        vocabularies.append((tmp_path / name / "vocab.txt").read_text())
    assert vocabularies[0] == vocabularies[1]
    assert seconds[1] < seconds[0] + 0.5
    assert "left out: 1 words of more than 100 characters" in capsys.readouterr().out


def test_long_words_of_a_vocabulary_are_merged_in_time_that_grows_with_the_merges(tmp_path):
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=100)) for _ in range(300)]
    file = written(tmp_path / "in.jsonl", json.dumps({"text": " ".join(words)}))
    begin = time.process_time()
    train_tokenizer.main(["--input_path", str(file), "--output_dir", str(tmp_path / "o"), "--vocab_size", "1500"])
    assert time.process_time() - begin < 2  # 8 seconds when each merge counted whole words again
