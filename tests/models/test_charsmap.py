"""The normalisation is sentencepiece's own, to the letter."""

import random
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.sentencepiece_pairs import LETTERS, ORIGINAL, PLACEHOLDERS, assert_same, load_pair

CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) != "Cs"]
MARKS = [character for character in CHARACTERS if unicodedata.category(character)[0] == "M"]
# What the normalisation composes, maps, deletes or makes a space of, and what shares a grapheme cluster with others.
COMPOSED = [c for c in CHARACTERS[:0x30000] if unicodedata.normalize("NFKD", c) != c and not "가" <= c <= "힣"]
DECOMPOSED = sorted({part for c in COMPOSED for part in unicodedata.normalize("NFKD", c)})
RARE = "\u0344\U0001f23b\ufdd0\0\1\2\3\x7f\u200b\u200c\u200d\xa0\xad▁～가각간ㄱㅏㄳ각ﾡￂｶﾞﾟêếệ≮©™ำກຳ"
RARE += "😀🏽👍👨\ufe0f🇨🇳\u0897\U00016d63\U00016d67\U000105d2"
RARE += "".join(map(chr, PLACEHOLDERS))


def test_it_agrees_on_marks_in_any_order_and_rare_characters(pair):
    tokenizer, processor = pair
    kinds = map(st.sampled_from, (MARKS, MARKS, DECOMPOSED, DECOMPOSED, COMPOSED, RARE, LETTERS))
    words = st.text(st.one_of(*kinds, st.characters()), max_size=12).map(lambda text: text.translate(PLACEHOLDERS))

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(st.lists(words, min_size=10, max_size=10))
    def compare(texts):
        for text in texts:
            assert_same(tokenizer, processor, text)

    compare()


def assert_all_the_same(tokenizer, processor, texts):
    encoded = [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts)]
    wrong = [
        text for text, ours, theirs in zip(texts, encoded, processor.EncodeAsIds(texts), strict=True) if ours != theirs
    ]
    assert not wrong, (len(wrong), ascii(wrong[:10]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("source", ["small", pytest.param("original", marks=pytest.mark.needs_shared)])
def test_every_character_and_many_clusters_agree(source, small_cog_file, shared):
    """All code points, alone and behind a no-break space, which the table maps; what may compose, by twos to sixes."""
    tokenizer, processor = load_pair(small_cog_file if source == "small" else shared / ORIGINAL)
    rng = random.Random(0)
    for before in ("", "\xa0"):
        for first in range(0, len(CHARACTERS), 50000):
            assert_all_the_same(tokenizer, processor, [before + c for c in CHARACTERS[first : first + 50000]])
    clusters = (MARKS, DECOMPOSED, MARKS + DECOMPOSED + COMPOSED + list(RARE), CHARACTERS)
    for alphabet in clusters:
        texts = ["".join(rng.choices(alphabet, k=rng.randint(2, 6))).translate(PLACEHOLDERS) for _ in range(100_000)]
        assert_all_the_same(tokenizer, processor, texts)
