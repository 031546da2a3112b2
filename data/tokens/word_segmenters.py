"""Word boundaries of text as character positions: rjieba's own cut, white space, or BERT's basic tokenizer's.

Source: jieba's dictionary and HMM through rjieba (https://github.com/messense/rjieba-py). The original program
(run_chinese_ref.py of JunnYu/FLASHQuad_pytorch) throws the positions away and matches a set of words against the
text, which joins 研究|生命 into 研究生|命; here the positions themselves are kept.

Letters: N characters of the text.
"""

import re
import sys
import unicodedata
from pathlib import Path
from typing import Protocol

import numpy as np
import rjieba

from common.errors import UserError
from data.files import DataError

SEGMENTERS = ("rjieba", "whitespace", "basic")
_PIECE = 1 << 15  # characters per call of rjieba: its word list then stays in the processor's cache
_SAFE_END = "。"  # jieba never joins this character with a neighbour, so a cut after it changes no word
# jieba's own expression, which lets words hold spaces; blanks may be several or tabs here.
_ENTRY = re.compile(r"(.+?)(?:[ \t]+([0-9]+))?(?:[ \t]+([a-z]+))?", re.DOTALL)
_SPACES = np.array([point for point in range(0x3001) if chr(point).isspace()], np.uint32)


class Segmenter(Protocol):
    def word_numbers(self, text: str, points: np.ndarray) -> np.ndarray:
        """Number of the word that each character of `text` belongs to: int32 [N], not decreasing.

        points: the code points of the text, uint32 [N]. White space never belongs to a word with other characters.
        """


class RjiebaSegmenter:
    """rjieba's exact mode with its HMM for unknown words, with the entries of a user dictionary added."""

    def __init__(self, user_dict: str | Path | None = None):
        """user_dict: a file as jieba's load_userdict reads it; DataError with file:line."""
        self._cut = rjieba.cut if user_dict is None else _with_words(Path(user_dict)).cut

    def word_numbers(self, text: str, points: np.ndarray) -> np.ndarray:
        lengths = []
        start = 0
        while start < len(text):
            end = len(text)
            if end - start > 2 * _PIECE:
                end = text.find(_SAFE_END, start + _PIECE) + 1 or end
            words = self._cut(text[start:end])
            lengths.append(np.fromiter(map(len, words), np.int32, len(words)))
            start = end
        lengths = np.concatenate(lengths) if lengths else np.zeros(0, np.int32)
        return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)


def _with_words(path: Path) -> rjieba.Jieba:
    jieba, entries = rjieba.Jieba(), {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            entry = line.decode().removeprefix("\ufeff").strip()
            if entry:
                word, frequency, tag = _ENTRY.fullmatch(entry).groups()
                entries[word] = frequency = None if frequency is None else int(frequency)
                jieba.add_word(word, frequency, tag)
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{path}:{number}: must be `word [frequency] [tag]` in UTF-8, got {line[:60]!r} ({error}); "
                "mend the line"
            ) from None
    lost = [word for word, frequency in entries.items() if frequency != 0 and jieba.cut(word) != [word]]
    if lost:
        print(
            f"{path}: {len(lost):,} of the {len(entries):,} words are cut even where they stand alone, at white space "
            f"or punctuation or for their low frequency: {', '.join(map(repr, lost[:5]))}",
            file=sys.stderr,
        )
    return jieba


class WhitespaceSegmenter:
    """Words are what stands between white space, for text whose words are separated already."""

    def word_numbers(self, text: str, points: np.ndarray) -> np.ndarray:
        is_space = np.isin(points, _SPACES)
        starts = is_space.copy()
        starts[1:] |= is_space[:-1]
        return np.cumsum(starts, dtype=np.int32)


class BasicSegmenter:
    """Words of most languages: every punctuation mark and ideograph is one, and so is what stands between them.

    As google-research/bert's BasicTokenizer splits, so that WordPiece's words are those of whole-word BERT.
    """

    def __init__(self):
        self._apart = np.full(0x110000, -1, np.int8)  # 1 alone, 0 joins its neighbours, -1 not looked at yet

    def word_numbers(self, text: str, points: np.ndarray) -> np.ndarray:
        apart = self._apart.take(points)
        if len(apart) and apart.min() < 0:
            for point in np.unique(points[apart < 0]).tolist():
                self._apart[point] = _stands_alone(chr(point))
            apart = self._apart.take(points)
        starts = apart > 0
        starts[1:] |= apart[:-1] > 0
        return np.cumsum(starts, dtype=np.int32)


def _stands_alone(character: str) -> bool:
    if character.isspace() or unicodedata.category(character)[0] == "P":
        return True
    if character.isascii():
        return not character.isalnum() and character.isprintable()
    return unicodedata.name(character, "").startswith(("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH"))


def make_segmenter(name: str, user_dict: str | None = None) -> Segmenter:
    """The segmenter called `name` (one of SEGMENTERS). ValueError when a dictionary is given to one without."""
    if name == "rjieba":
        return RjiebaSegmenter(user_dict)
    if user_dict is not None:
        raise UserError(f"--user_dict must go with --segmenter rjieba, got --segmenter {name}; drop one of the two")
    return WhitespaceSegmenter() if name == "whitespace" else BasicSegmenter()
