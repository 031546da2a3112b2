"""Exact BERT WordPiece ids at many times the speed of the library that defines them.

A table gives each code point that the tokenizer always sets apart (Chinese characters, punctuation, white space) its
token; what remains, runs of letters, digits and marks, goes to the library itself once and is remembered. Both parts
are asked from the library's own normaliser, pre-tokeniser and model (https://github.com/huggingface/tokenizers), so
the ids are its ids by construction. Byte-level BPE and sentencepiece models never join over a space, so that each word
of theirs is asked once as well. Every other kind of tokenizer is called directly.

Strings such as [MASK] inside a text become the special token, as in the library.

Letters: N characters of a text, T tokens.
"""

import json
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from common.errors import UserError
from data.tokens.tokenizer_files import _GENERIC_CLASSES, split_frame

_SPACE, _REMOVED, _OTHER, _UNSEEN = -1, -2, -3, -4  # kinds of code points without a token of their own
_CACHED_RUN = 64  # characters of the longest run that is remembered
_CACHED_RUNS = 50_000  # then the memory starts anew and keeps the old one; about 15 MB each
_RARE = "\ua66e\u16a0\U00010330"  # characters that few vocabularies hold


class Tokens(NamedTuple):
    """Tokens of a text without specials; each array has T entries."""

    ids: np.ndarray  # int32
    first: np.ndarray  # int32, the first character of the token
    last: np.ndarray  # int32, its last character
    starts: np.ndarray  # bool, whether the token begins a pre-token (WordPiece: is not a ## piece)


def names_mask_token(name: str) -> bool:
    """Whether a folder that load_backend reads by itself says which token masks; BERT's classes know it."""
    path = Path(name) / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return settings.get("tokenizer_class") not in _GENERIC_CLASSES or bool(settings.get("mask_token"))


def check_backend(backend: Tokenizer, name: str, flag: str, has_mask: bool) -> None:
    """Print what is odd about the vocabulary of the tokenizer `name`. UserError naming `flag` when it cannot work."""
    tokens = {}
    for token, token_id in backend.get_vocab().items():
        if tokens.setdefault(token_id, token) != token:
            raise UserError(
                f"{flag} {name} must give each token an id of its own, got {token_id} for {tokens[token_id]!r} and "
                f"{token!r}; mend its vocabulary, in which an entry may stand twice"
            )
    try:
        leaves_trace = backend.encode(_RARE, add_special_tokens=False).ids
    except Exception as error:  # what tokenizers raises has no class of its own
        raise UserError(
            f"{flag} {name} must have a token for what it does not know, got: {error}; add its unknown token to the "
            "vocabulary"
        ) from None
    remarks = [] if leaves_trace else ["it has no unknown token: characters that it does not know are dropped"]
    if not has_mask:
        remarks.append("it has no mask token: a corpus made with it serves run_clm.py, and no masked language model")
    unused = max(tokens, default=-1) + 1 - len(tokens)
    if unused:
        remarks.append(f"{unused:,} of its {max(tokens) + 1:,} ids have no token, as where an entry stands twice")
    if (Path(name) / "vocab.txt").is_file():
        entries = len((Path(name) / "vocab.txt").read_bytes().splitlines())
        added = [f"{tokens[token_id]} as {token_id}" for token_id in sorted(tokens) if token_id >= entries]
        if added:
            remarks.append(f"not in its vocab.txt and added behind it: {', '.join(added[:8])}")
    for remark in remarks:
        print(f"{flag} {name}: {remark}", file=sys.stderr)


def _looks_at_single_characters(normalizer: dict) -> bool:
    """Whether the normaliser treats every character without regard to its neighbours.

    BERT's does, up to the order of combining marks, which never crosses a character that is set apart. NFKC before it
    composes letters with marks, but no longer matters once the accents are stripped.
    """
    if normalizer.get("type") == "Sequence":
        first, *rest = normalizer["normalizers"]
        if first["type"] != "NFKC" or len(rest) != 1:
            return False
        (normalizer,) = rest
        strips = normalizer.get("strip_accents")
        if not (normalizer.get("lowercase") if strips is None else strips):
            return False
    return normalizer.get("type") == "BertNormalizer"


_SPLITTERS = ("ByteLevel", "Metaspace", "WhitespaceSplit", "Whitespace", "BertPreTokenizer")
_LOCAL_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer")
_LOCAL_NORMALIZERS += ("Precompiled", "Nmt", "Replace", "Strip")
_PROBE = (
    "Hello",
    " world,",
    " it's",
    " a",
    " 3.14%",
    " ffi",
    " Ünïcode",
    " дом",
    " 日本語。",
    " don't",
    " x_y-z",
    " 2nd",
)


def _splits_at_spaces(backend: Tokenizer, settings: dict) -> bool:
    """Whether a text's tokens are those of its words, each taken with the space before it."""
    splitters = _flat(settings["pre_tokenizer"], "pretokenizers")
    if not splitters or not all(step["type"] in _SPLITTERS for step in splitters):
        return False
    if not all(step.get("use_regex", True) and step.get("split", True) for step in splitters):
        return False
    normalizers_ = _flat(settings["normalizer"], "normalizers")
    if not all(step["type"] in _LOCAL_NORMALIZERS for step in normalizers_) or settings["model"].get("dropout"):
        return False
    if normalizers_ and any(token["normalized"] for token in settings["added_tokens"]):
        return False
    whole, *parts = (backend.encode(text, add_special_tokens=False).ids for text in ("".join(_PROBE), *_PROBE))
    return whole == [token for part in parts for token in part]


def _flat(step: dict | None, key: str) -> list[dict]:
    """The steps of a normaliser or pre-tokeniser, sequences within sequences opened."""
    if step is None:
        return []
    return [inner for part in step[key] for inner in _flat(part, key)] if step["type"] == "Sequence" else [step]


def _unknown_id(backend: Tokenizer) -> int | None:
    if isinstance(backend.model, models.Unigram):
        return json.loads(backend.to_str())["model"]["unk_id"]
    token = backend.model.unk_token
    return None if token is None else backend.token_to_id(token)


class FastTokenizer:
    """Tokenises batches of texts; ids, without specials, are those of `backend.encode` on each text.

    Attributes: vocab_size, the highest id + 1; frame, the ids that the tokenizer sets before and after a text ([CLS]
    and [SEP]); unknown_id, of what stands for all that it does not know, None where it has no such token.
    """

    def __init__(self, backend: Tokenizer):
        self._backend = backend
        self.vocab_size = max(backend.get_vocab().values(), default=-1) + 1
        self.unknown_id = _unknown_id(backend)
        self.frame = split_frame(backend)
        self._added = [token.content for token in backend.get_added_tokens_decoder().values()]
        self._is_wordpiece = isinstance(backend.model, models.WordPiece)
        self._is_bert = self._splits_at_spaces = False
        if (
            type(backend.pre_tokenizer) is not pre_tokenizers.PreTokenizer
        ):  # RoFormer's is Python: nothing to look into
            settings = json.loads(backend.to_str())
            flags = ("normalized", "lstrip", "rstrip", "single_word")
            self._is_bert = (
                _looks_at_single_characters(settings["normalizer"] or {})
                and settings["pre_tokenizer"] == {"type": "BertPreTokenizer"}
                and self._is_wordpiece
                and not any(token[flag] for token in settings["added_tokens"] for flag in flags)
            )
            self._splits_at_spaces = not self._is_bert and _splits_at_spaces(backend, settings)
        self._table = np.full(0x110000, _UNSEEN, np.int32)
        self._runs = _RunCache(self._encode_run)

    def encode(self, texts: list[str], joined: str, points: np.ndarray) -> Tokens:
        """Tokens of all texts in order, with character positions in `joined`.

        joined: the texts joined by "\\n"; points: its code points, uint32 [N].
        """
        if any(token in joined for token in self._added) or not (self._is_bert or self._splits_at_spaces):
            return self._encode_by_library(texts)
        if self._splits_at_spaces:
            return self._encode_words(texts, joined, points)
        kinds = self._table.take(points)
        if len(kinds) and kinds.min() == _UNSEEN:
            self._learn(np.unique(points[kinds == _UNSEEN]).tolist())
            kinds = self._table.take(points)
        singles = np.flatnonzero(kinds >= 0).astype(np.int32)
        ids = kinds[singles]
        in_run = np.zeros(len(kinds) + 2, bool)
        np.less(kinds, _SPACE, out=in_run[1:-1])
        edges = np.flatnonzero(in_run[1:] != in_run[:-1]).astype(np.int32)
        if not len(edges):
            return Tokens(ids, singles, singles, np.ones(len(ids), bool))
        starts, pieces, counts = edges[::2], *self._runs.look_up(joined, edges[::2].tolist(), edges[1::2].tolist())
        origin = np.repeat(starts, counts)
        return _merge(singles, ids, origin, pieces)

    def _encode_words(self, texts: list[str], joined: str, points: np.ndarray) -> Tokens:
        """Look up what stands between spaces; a space belongs to the letter or digit behind it."""
        kinds = self._table.take(points)
        if len(kinds) and kinds.min() == _UNSEEN:
            for point in np.unique(points[kinds == _UNSEEN]).tolist():
                character = chr(point)
                self._table[point] = _SPACE if character.isspace() else int(character.isalnum())
            kinds = self._table.take(points)
        spaces = np.flatnonzero((points[1:-1] == ord(" ")) & (kinds[:-2] != _SPACE) & (kinds[2:] == 1)) + 1
        begins = np.cumsum([0] + [len(text) + 1 for text in texts])
        starts = np.concatenate([begins[:-1], spaces])
        order = np.argsort(starts, kind="stable")
        starts = starts[order]
        ends = np.append(starts[1:], begins[-1])
        ends[np.append(order[1:] < len(texts), True)] -= 1  # without the line break between texts
        pieces, counts = self._runs.look_up(joined, starts.tolist(), ends.tolist())
        nothing = np.zeros(0, np.int32)
        return _merge(nothing, nothing, np.repeat(starts, counts).astype(np.int32), pieces)

    def _learn(self, points: list[int]) -> None:
        """Ask the library how it treats each character between two letters; then it treats it so everywhere."""
        probe = "".join(f"a{chr(point)}a 0000 " for point in points)  # no character stands for the word 0000
        normalized = self._backend.normalizer.normalize_str(probe)
        pieces = [piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(normalized)]
        start = 0
        for point in points:
            end = pieces.index("0000", start)
            self._table[point] = self._kind_of(chr(point), pieces[start:end])
            start = end + 1

    def _kind_of(self, character: str, pieces: list[str]) -> int:
        """The token of a character, or its kind, from the pre-tokens of "a", the character and "a"."""
        if pieces == ["a", "a"]:
            return _SPACE
        if pieces == ["aa"]:
            return _REMOVED
        if len(pieces) == 3 and pieces[0] == pieces[2] == "a":
            ids = self._backend.encode(character, add_special_tokens=False).ids
            if len(ids) == 1:
                return ids[0]
        return _OTHER

    def _encode_run(self, run: str) -> array:
        """Four int32 for each token: id, first character, last character, whether the token begins a pre-token."""
        encoding = self._backend.encode(run, add_special_tokens=False)
        ids, offsets, table = encoding.ids, encoding.offsets, array("i")
        if self._is_wordpiece:
            before = None
            for token, (a, b), word in zip(ids, offsets, encoding.word_ids, strict=True):
                table.extend((token, a, max(b - 1, a), before != word))
                before = word
            return table
        # Other models keep whole sentences in one pre-token: there each token stands for itself. Spaces belong to the
        # word behind them, as far as there is one; some post-processors say so by their offsets and some do not.
        end = len(run) - 1
        for token, (a, b) in zip(ids, offsets, strict=True):
            while a <= end and run[a].isspace():
                a += 1
            first = min(a, end)
            table.extend((token, first, max(b - 1, first), True))
        return table

    def _encode_by_library(self, texts: list[str]) -> Tokens:
        tables, origins, position = [np.zeros((0, 4), np.int32)], [np.zeros(0, np.int32)], 0
        for text in texts:
            tables.append(np.frombuffer(self._encode_run(text), np.int32).reshape(-1, 4))
            origins.append(np.full(len(tables[-1]), position, np.int32))
            position += len(text) + 1
        nothing = np.zeros(0, np.int32)
        return _merge(nothing, nothing, np.concatenate(origins), np.concatenate(tables))


class _RunCache(dict):
    """Runs of letters -> the bytes of their token table, asked from the library once."""

    def __init__(self, encode: Callable[[str], array]):
        super().__init__()
        self._encode = encode
        self._before: dict[str, bytes] = {}  # of the last time that the memory was full: what is frequent stays known

    def __missing__(self, run: str) -> bytes:
        table = self._before.get(run)
        if table is None:
            table = self._encode(run).tobytes()
        if len(run) <= _CACHED_RUN:
            self[run] = table
        return table

    def look_up(self, text: str, starts: list[int], ends: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Token tables of text[start:end], one after the other (int32 [T, 4]), and the number of tokens of each."""
        if len(self) > _CACHED_RUNS:
            self._before = dict(self)
            self.clear()
        tables = [self[text[start:end]] for start, end in zip(starts, ends, strict=True)]
        counts = np.fromiter(map(len, tables), np.int64, len(tables)) // 16
        return np.frombuffer(b"".join(tables), np.int32).reshape(-1, 4), counts


def _merge(singles: np.ndarray, ids: np.ndarray, origin: np.ndarray, pieces: np.ndarray) -> Tokens:
    """Put one-character tokens (positions and ids) and the tokens of runs in the order of the text."""
    in_run = np.searchsorted(singles, origin) + np.arange(len(origin))
    total = len(singles) + len(origin)
    is_single = np.ones(total, bool)
    is_single[in_run] = False
    merged = Tokens(*(np.empty(total, np.int32) for _ in range(3)), np.ones(total, bool))
    merged.ids[is_single], merged.ids[in_run] = ids, pieces[:, 0]
    merged.first[is_single], merged.first[in_run] = singles, origin + pieces[:, 1]
    merged.last[is_single], merged.last[in_run] = singles, origin + pieces[:, 2]
    merged.starts[in_run] = pieces[:, 3]
    return merged
