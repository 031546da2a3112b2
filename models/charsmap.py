"""sentencepiece's text normalisation, to the letter, as normalizers of the tokenizers library.

Source: google/sentencepiece, normalizer.cc. From the left, the longest entry of the model's table that matches is
replaced, and a user-defined symbol is kept; entries of several characters are the canonical compositions of Unicode,
from their fully decomposed forms alone (builder.cc). The library's own reader of the table, Precompiled, looks whole
grapheme clusters up and takes their shortest entry. So here it gets each character apart, and what the table would
have matched at once is composed afterwards. Two characters that the table deletes are the signs for that: JOIN stands
before a character that belongs to the match, END before one that follows it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from tokenizers import Regex, normalizers

END, JOIN = "\x01", "\x02"
# What may form an entry, a grapheme cluster or a composition with characters before it: marks, all that is no letter,
# digit or sign (so characters of a later Unicode), vowels and finals of Hangul, letters and signs that are like marks.
FOLLOWERS = r"\p{M}\p{Cf}\p{Cn}\p{Co}\x{1160}-\x{11FF}\x{D7B0}-\x{D7FF}\x{3131}-\x{318E}\x{FF9E}-\x{FFDC}"
FOLLOWERS += r"\x{E33}\x{EB3}\x{1F3FB}-\x{1F3FF}\x{16D63}\x{16D67}"
MOST_YOUNGER = 100  # entries, each of which costs a pass over the text
HANGUL = (range(0x1100, 0x1113), range(0x1161, 0x1176), range(0x11A8, 0x11C3))  # initials, vowels, finals
LEAF, HAS_LEAF = 1 << 31, 1 << 8  # in a unit of the trie: it is a value; it is a node with a value


def sentencepiece_normalizer(charsmap: bytes, symbols: list[str]) -> normalizers.Normalizer:
    """What a sentencepiece model with this table and these user-defined symbols makes of a text.

    Spaces go at both ends and beside another space. ValueError, to be put behind the model's name, for a table that is
    not of nmt_nfkc's kind and for a symbol that the table changes.
    """
    size = 4 + int.from_bytes(charsmap[:4], "little")
    units, texts = np.frombuffer(charsmap[4:size], "<u4").astype(np.int64), charsmap[size:]
    entries = dict(_walk(units, texts))
    several = [entry for entry in entries if len(entry) > 1]
    apart = {entry: "".join(entries.get(character, character) for character in entry) for entry in several}
    compose = normalizers.NFC().normalize_str
    younger = [entry for entry in several if compose(apart[entry]) != entries[entry]]  # than the library's Unicode
    follow = "".join({character for entry in several for character in entry[1:]})
    strange = normalizers.Replace(Regex(f"[{FOLLOWERS}]"), "").normalize_str(follow)
    if entries.get(END) != "" or entries.get(JOIN) != "" or strange or len(younger) > MOST_YOUNGER:
        raise ValueError("must have a normalisation table of nmt_nfkc's kind, got another one")
    units[[_base(units, 0) ^ ord(sign) for sign in (END, JOIN)]] = 0
    table = charsmap[:4] + units.astype("<u4").tobytes() + texts
    kinds = [{*map(chr, kind)} for kind in HANGUL]
    initial, vowel, final = ("".join(kind | {c for c in entries if entries[c] in kind}) for kind in kinds)
    matches = f"{_any_of(initial)}{_any_of(vowel)}{_any_of(final)}?|{pattern(several)}"
    # At the character before the first END of a cluster, or at any END, one match or symbol further:
    further = rf"(?:(?=[^{FOLLOWERS}][{FOLLOWERS}])|\G)(?>{matches}|(?m:.))"
    further = "|".join(filter(None, (pattern(symbols), further)))
    rules = normalizers.Sequence(
        [
            normalizers.Replace(Regex(rf"(?:{further})\K(?=[{FOLLOWERS}])"), END),
            normalizers.Replace(Regex(rf"(?<=[^{_escape(END)}])(?=[{FOLLOWERS}])"), JOIN),
            normalizers.Precompiled(table),
            normalizers.Replace(JOIN, ""),
            *(normalizers.Replace(apart[entry], entries[entry]) for entry in sorted(younger, key=len, reverse=True)),
            normalizers.NFC(),
            normalizers.Replace(END, ""),
            normalizers.Replace(Regex(r"\A +| +\z"), ""),  # Strip would take other white space too
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    for symbol in symbols:
        if rules.normalize_str(symbol) != symbol:
            raise ValueError(f"must have user-defined symbols that its table leaves as they are, got {symbol!r}")
    return rules


def _walk(units: np.ndarray, texts: bytes) -> Iterator[tuple[str, str]]:
    """Each entry but Hangul's, and what it becomes. units: of a Darts-clone trie, with the places of values in texts.

    Hangul's are all initials with all vowels with all finals or none, over 200,000, and not worth the walk.
    """
    labels = np.arange(1, 256)
    nodes = [(b"", 0)]
    while nodes:
        key, node = nodes.pop()
        base, value = _base(units, node), key
        if units[node] & HAS_LEAF:
            start = int(units[base]) & ~LEAF
            value = texts[start : texts.index(0, start)]
            yield key.decode("utf-8"), value.decode("utf-8")
        if len(value) == 3 and value.startswith(b"\xe1\x84") and ord(value.decode("utf-8")) in HANGUL[0]:
            continue
        children = labels[(units[base ^ labels] & (LEAF | 0xFF)) == labels]
        nodes += [(key + bytes([label]), base ^ label) for label in children.tolist()]


def _base(units: np.ndarray, node: int) -> int:
    """The children of a node are at this place, xor their byte; its value at the place itself."""
    unit = int(units[node])
    return node ^ (unit >> 10 << ((unit & 1 << 9) >> 6))


def pattern(entries: Iterable[str]) -> str:
    """A regular expression of which the longest match is the longest of these texts."""
    rests = defaultdict(set)
    for entry in entries:
        rests[entry[0]].add(entry[1:])
    alike = defaultdict(list)
    for character, rest in rests.items():
        alike[frozenset(rest)].append(character)
    branches = []
    for rest, characters in alike.items():
        more = f"(?:{pattern(sorted(filter(None, rest)))}){'?' if '' in rest else ''}" if any(rest) else ""
        branches.append(_any_of(characters) + more)
    return "|".join(branches)


def _any_of(characters: Iterable[str]) -> str:
    return f"[{''.join(map(_escape, sorted(characters)))}]"


def _escape(character: str) -> str:
    return rf"\x{{{ord(character):X}}}"
