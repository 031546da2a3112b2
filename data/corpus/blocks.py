"""From texts (documents, or lines) to rows of a corpus: word marks, and blocks that end with a sentence if one does.

A word is the smallest span that neither the segmenter nor the tokenizer splits: a token begins a word where the
segmenter has a boundary and the tokenizer a pre-token. Nothing is lost: the blocks of a text hold all its tokens.

Letters: N characters of the batch, T tokens, R rows (blocks).
"""

from typing import NamedTuple

import numpy as np

from data.corpus.sentences import sentence_starts
from data.tokens.fast_tokenizer import FastTokenizer, Tokens
from data.tokens.word_segmenters import Segmenter


class Blocks(NamedTuple):
    """Rows of one batch. Tokens of all rows lie one after the other, without specials."""

    ids: np.ndarray  # int32 [T]
    continuation: np.ndarray  # bool [T]: the token continues the word of the token before it in the row
    lengths: np.ndarray  # int64 [R]
    texts: np.ndarray  # int64 [R], index of the text in the batch
    spans: np.ndarray  # int32 [R, 2], characters of the joined texts
    kept: np.ndarray  # bool [texts], False for the texts that were dropped
    dropped_tokens: int
    words: int
    cut_words: int  # words longer than a block


def make_blocks(
    texts: list[str], tokenizer: FastTokenizer, segmenter: Segmenter, capacity: int, min_chars: int
) -> tuple[Blocks, str]:
    """Cut a batch of texts into blocks of at most `capacity` tokens; also return them joined, as `spans` count.

    Documents shorter than `min_chars` characters (surrounding white space aside) are dropped whole.
    """
    joined = "\n".join(texts)
    points = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
    tokens = tokenizer.encode(texts, joined, points)
    starts = np.cumsum([0] + [len(text) + 1 for text in texts])
    bounds = np.searchsorted(tokens.first, starts)  # tokens of text i: bounds[i]:bounds[i + 1]
    continuation = mark_words(tokens, segmenter.word_numbers(joined, points))
    continuation[bounds[:-1][bounds[:-1] < len(continuation)]] = False
    sizes = np.diff(bounds)
    kept = np.array([len(text.strip()) >= min_chars for text in texts], bool) & (sizes > 0)
    words = int(np.count_nonzero(~continuation & np.repeat(kept, sizes)))
    is_long = kept & (sizes > capacity)
    sentences = sentence_starts(points, tokens, starts) if is_long.any() else None
    edges, owners, cut_words = _pack(bounds, kept, capacity, continuation, sentences)
    continuation[edges[:, 0]] = False
    lengths = edges[:, 1] - edges[:, 0]
    ids = tokens.ids
    spans = np.stack([tokens.first[edges[:, 0]], tokens.last[edges[:, 1] - 1] + 1], axis=1)
    if not kept.all():
        chosen = np.repeat(kept, sizes)
        ids, continuation = ids[chosen], continuation[chosen]
    dropped = int(sizes[~kept].sum())
    return Blocks(ids, continuation, lengths, owners, spans, kept, dropped, words, cut_words), joined


def mark_words(tokens: Tokens, word_numbers: np.ndarray) -> np.ndarray:
    """bool [T]: whether a token continues the word of the token before it.

    word_numbers: int32 [N], the segmenter's word of each character.
    """
    marks = ~tokens.starts
    marks[1:] |= word_numbers[tokens.last[:-1]] == word_numbers[tokens.first[1:]]
    marks[:1] = False
    return marks


def _pack(
    bounds: np.ndarray, kept: np.ndarray, capacity: int, continuation: np.ndarray, sentences: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Token ranges of the blocks (int64 [R, 2]), the text of each, and the number of words that had to be cut.

    sentences: where they start, None when every text fits into a block.
    """
    if sentences is None:
        owners = np.flatnonzero(kept)
        return np.stack([bounds[owners], bounds[owners + 1]], axis=1), owners, 0
    sentences = sentences[~continuation[sentences]]
    edges, owners, cut_words = [], [], 0
    for text in np.flatnonzero(kept).tolist():
        start, end = int(bounds[text]), int(bounds[text + 1])
        while end - start > capacity:
            limit = start + capacity
            cut = _last_cut(sentences, continuation, start, limit)
            cut_words += bool(continuation[cut] and not continuation[start])
            edges.append((start, cut))
            owners.append(text)
            start = cut
        edges.append((start, end))
        owners.append(text)
    return np.array(edges, np.int64), np.array(owners, np.int64), cut_words


def _last_cut(sentences: np.ndarray, continuation: np.ndarray, start: int, limit: int) -> int:
    """The last place in start + 1 .. limit where a sentence begins, else a word, else `limit`."""
    before = int(np.searchsorted(sentences, limit, side="right"))
    if before and sentences[before - 1] > start:
        return int(sentences[before - 1])
    words = np.flatnonzero(~continuation[start + 1 : limit + 1])
    return start + 1 + int(words[-1]) if len(words) else limit


def join_rows(flat: np.ndarray, lengths: np.ndarray, before: list[int], after: list[int]) -> np.ndarray:
    """Put the same items before and after each row: flat [T] -> [T + R * (items before and after)], same dtype."""
    framed = lengths + len(before) + len(after)
    joined = np.empty(len(flat) + int((framed - lengths).sum()), flat.dtype)
    inside = np.ones(len(joined), bool)
    ends = np.cumsum(framed)
    for offset, item in enumerate(before):
        joined[ends - framed + offset], inside[ends - framed + offset] = item, False
    for offset, item in enumerate(reversed(after), 1):
        joined[ends - offset], inside[ends - offset] = item, False
    joined[inside] = flat
    return joined
