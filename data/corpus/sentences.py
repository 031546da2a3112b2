"""Where sentences begin: in text with its tokens, and in rows of token ids."""

import numpy as np
from tokenizers import Tokenizer

from data.tokens.fast_tokenizer import Tokens

_END, _CLOSE, _DOT = 1, 2, 3
_CLASSES = np.zeros(0x110000, np.uint8)
_CLASSES[[ord(mark) for mark in "。！？!?；;…｡\n\u2028\u2029"]] = _END
_CLASSES[[ord(mark) for mark in "”’」』）)】》〉〗］]｝}"]] = _CLOSE
_CLASSES[ord(".")] = _DOT  # ends a sentence before white space only: 3.14 and www.example.com go on
_IS_MARK = _CLASSES > 0


def row_sentence_starts(ids: np.ndarray, marks: np.ndarray, ends: np.ndarray, opens: np.ndarray) -> np.ndarray:
    """Sorted indices of the tokens that begin a word right after the end of a sentence and its closing quotes.

    ids, marks: of all rows of a shard, frames included; ends, opens: of data.corpus.sentences.sentence_tables.
    """
    kinds = ends[ids]  # 1 ends a sentence, 2 closes what was ended before it
    last = np.flatnonzero(kinds == 1)
    if not len(last):
        return last
    after, count = last + 1, len(ids)
    while (closing := (after < count) & (kinds[np.minimum(after, count - 1)] == 2)).any():
        after = after + closing
    after = np.unique(after[after < count])
    return after[opens[ids[after]] & (marks[after] == 0)]


def sentence_starts(points: np.ndarray, tokens: Tokens, starts: np.ndarray) -> np.ndarray:
    """Sorted numbers of the tokens that come first after the end of a sentence, closing quotes and brackets included.

    points: code points of the text, uint32 [N]; starts: where each of the joined texts does, and one past them.
    """
    is_mark = _IS_MARK.take(points)
    is_mark[starts[1:-1] - 1] = False  # the line break between two texts ends nothing
    marks = np.flatnonzero(is_mark)
    if not len(marks):
        return marks
    kinds = _CLASSES[points[marks]]
    follows = points[np.minimum(marks + 1, len(points) - 1)]
    at_end = marks + 1 == len(points)
    dots = kinds == _DOT
    ends = (kinds == _END) | (dots & (at_end | (follows == 32) | (follows == 10) | (follows == 13)))
    chained = ~dots | ends
    marks, ends = marks[chained], ends[chained]
    first_of_chain = np.flatnonzero(np.append(True, np.diff(marks) > 1)[: len(marks)])
    if not len(first_of_chain):
        return marks
    has_end = np.logical_or.reduceat(ends, first_of_chain)
    last_of_chain = marks[np.append(first_of_chain[1:], len(marks)) - 1][has_end]
    after = np.searchsorted(tokens.first, last_of_chain, side="right")
    after, last_of_chain = after[after < len(tokens.first)], last_of_chain[after < len(tokens.first)]
    outside = tokens.last[np.maximum(after - 1, 0)] <= last_of_chain  # not inside a token
    return np.unique(after[outside])


def sentence_tables(backend: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """What each id means for sentences where only ids are left, [V] each.

    Returns:
        kinds int8: 1 ends a sentence, 2 closes what was ended before it, 0 neither; opens bool: text that may begin a
        sentence, which a number behind a full stop does not.
    """
    size = max(backend.get_vocab().values()) + 1
    kinds, opens = np.zeros(size, np.int8), np.zeros(size, bool)
    for token, text in enumerate(backend.decode_batch([[token] for token in range(size)])):
        text = text.lstrip(" \u0120\u2581")  # what stands for a space where a tokenizer has no decoder
        marks = {int(_CLASSES[ord(character)]) for character in text}
        if text and 0 not in marks:
            kinds[token] = 2 if marks == {_CLOSE} else 1
        else:
            opens[token] = bool(text) and not text.startswith("##") and not text[0].isdigit()
    return kinds, opens
