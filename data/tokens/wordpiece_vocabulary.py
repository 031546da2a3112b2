"""Learn a WordPiece vocabulary: the frequent characters, then merges of the most frequent pair of pieces.

The same criterion as the WordPiece trainer of the tokenizers library (pairs by count, as in byte-pair encoding,
Sennrich et al. 2016, section 3.2), which was not used because its vocabulary differs from run to run: it numbers
pieces in the order of a randomly seeded hash map. Here equal counts are decided by the pieces themselves, and the
characters are chosen so that they fit into the wanted size.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer
from tqdm import tqdm

from data.files import parse_text
from data.text.streams import Streamed
from data.unchanged_inputs import open_steady

Pair = tuple[str, str]
_IDEOGRAPHS = re.compile("[\u4e00-\u9fff]+")


def read_texts(files: Sequence[Path | Streamed], key: str) -> Iterator[str]:
    """Yield the text under `key` of every JSON line that is not blank. DataError with file:line."""
    lengths = [file.length if isinstance(file, Streamed) else file.stat().st_size for file in files]
    size = None if None in lengths else sum(lengths)  # of packed files nobody knows it
    with tqdm(total=size, desc="reading", unit="B", unit_scale=True, mininterval=1) as bar:
        for path in files:
            with open_steady(path) as file:
                for number, line in enumerate(file, 1):
                    bar.update(len(line))
                    if line.strip():
                        yield parse_text(line, key, f"{path}:{number}")


def count_words(texts: Iterable[str], backend: Tokenizer) -> tuple[Counter[str], int]:
    """Count what the normaliser and the pre-tokeniser of `backend`, which are BERT's, make of the texts.

    Words that BERT's WordPiece turns into one unknown token for their length are counted together: (the others, how
    many of these there are).
    """
    words: Counter[str] = Counter()
    chunks: Counter[str] = Counter()
    longest, too_long = backend.model.max_input_chars_per_word, 0
    for text in texts:
        # Ideographs are words of their own and change nothing around them: counted here, the library sees the rest.
        words.update("".join(_IDEOGRAPHS.findall(text)))
        chunks.update(backend.normalizer.normalize_str(_IDEOGRAPHS.sub(" ", text)).split())
    for chunk, count in chunks.items():  # the pre-tokeniser never joins over white space, so ask once a chunk
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(chunk):
            if len(word) <= longest:
                words[word] += count
            else:
                too_long += count
    return words, too_long


def count_characters(words: Mapping[str, int]) -> tuple[Counter[str], set[str]]:
    """Return how often each character occurs, and those that occur behind the first place of a word."""
    characters: Counter[str] = Counter()
    inner = set()
    for word, count in words.items():
        for character in word:
            characters[character] += count
        inner.update(word[1:])
    return characters, inner


def choose_alphabet(characters: Counter[str], inner: set[str], size: int, least: int, limit: int | None) -> list[str]:
    """Return the most frequent characters, sorted, at most `limit`, each occurring at least `least` times.

    Their tokens fit into `size`: a character takes one, and another (with ##) where it stands within words.
    """
    chosen = []
    for character, count in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        size -= 2 if character in inner else 1
        if size < 0 or count < least or len(chosen) == limit:
            break
        chosen.append(character)
    return sorted(chosen)


def learn_pieces(words: Mapping[str, int], alphabet: list[str], inner: set[str], size: int, least: int) -> list[str]:
    """Return at most `size` pieces: the alphabet, its ## forms, then merged pieces in the order they were found.

    A pair is merged while it occurs at least `least` times. Words with a character outside the alphabet are left out:
    WordPiece turns them into one unknown token.
    """
    pieces = dict.fromkeys([*alphabet, *(f"##{character}" for character in alphabet if character in inner)])
    merges = _Merges(words, set(alphabet))
    while len(pieces) < size:
        pair = merges.most_frequent(least)
        if pair is None:
            break
        pieces[merges.merge(pair)] = None
    return list(pieces)


class _Merges:
    """Words as sequences of pieces, and where each pair of neighbours stands in them."""

    def __init__(self, words: Mapping[str, int], alphabet: set[str]) -> None:
        known = sorted(word for word in words if len(word) > 1 and alphabet.issuperset(word))
        self.words = [[word[0], *(f"##{character}" for character in word[1:])] for word in known]
        self.weights = [words[word] for word in known]
        self.counts: Counter[Pair] = Counter()
        self.words_of: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, word in enumerate(self.words):
            for pair in pairwise(word):
                self._count(pair, index, 1)
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def most_frequent(self, least: int) -> Pair | None:
        """Return the pair with the highest count, of equal ones the first by its pieces; None below `least`."""
        while self.heap:
            count, pair = heapq.heappop(self.heap)
            if self.counts[pair] < least:
                continue
            if self.counts[pair] == -count:
                return pair
            heapq.heappush(self.heap, (-self.counts[pair], pair))  # its count fell since it was pushed
        return None

    def merge(self, pair: Pair) -> str:
        """Join the pair in all words, from the left; return the new piece."""
        (first, second), piece = pair, pair[0] + pair[1].removeprefix("##")
        changed: set[Pair] = set()
        for index in self.words_of.pop(pair):
            word, at = self.words[index], 0
            while first in word[at:-1]:
                at = word.index(first, at)
                if word[at + 1] == second:
                    for other, sign in self._neighbours(word, at, piece):
                        self._count(other, index, sign)
                        changed.add(other)
                    word[at : at + 2] = [piece]
                at += 1
        del self.counts[pair]
        for other in changed - {pair}:
            heapq.heappush(self.heap, (-self.counts[other], other))
        return piece

    def _neighbours(self, word: list[str], at: int, piece: str) -> Iterator[tuple[Pair, int]]:
        """The pairs that go (-1) and come (1) when the two pieces at a place become one."""
        if at:
            yield (word[at - 1], word[at]), -1
            yield (word[at - 1], piece), 1
        if at + 2 < len(word):
            yield (word[at + 1], word[at + 2]), -1
            yield (piece, word[at + 2]), 1

    def _count(self, pair: Pair, index: int, sign: int) -> None:
        self.counts[pair] += sign * self.weights[index]
        if sign > 0:
            self.words_of[pair].add(index)
