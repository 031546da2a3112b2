"""Documents as token ids: tokenised from prompts and texts, or the rows of a corpus folder joined again.

Letters: D documents, N tokens of one.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from common.errors import UserError
from data.batches.corpora import open_corpus, split_at_places
from data.batches.sampling import draw
from data.corpus.arrow_shards import CorpusError
from data.corpus.store import AllBut, Corpus
from data.text.prompts import read_documents
from data.tokens.tokenizer_files import split_frame

_HELD_OUT = 14  # a stream of draws, apart from those of sampling and masking
_BATCH = 1000  # texts that are tokenised at once


class Documents:
    """Documents in memory.

    Attributes: lengths int64 [D], at least 1 each; prompts int64 [D], how many of the first tokens are a prompt;
    end, id of the end token; digest, of all that and of the tokens.
    """

    def __init__(self, ids: np.ndarray, lengths: np.ndarray, prompts: np.ndarray, end: int):
        self.lengths, self.prompts, self.end = np.asarray(lengths, np.int64), np.asarray(prompts, np.int64), end
        self._ids, self._starts = ids, np.cumsum(self.lengths) - self.lengths
        hashed = hashlib.sha256(str(end).encode())
        for array in (ids, self.lengths, self.prompts):
            hashed.update(np.ascontiguousarray(array).tobytes())
        self.digest = hashed.hexdigest()

    def tokens(self, index: int, start: int, stop: int) -> np.ndarray:
        """Tokens start..stop of one document."""
        first = self._starts[index]
        return self._ids[first + start : first + stop]

    def targets(self) -> int:
        """How many targets all documents have together."""
        return int((self.lengths - np.maximum(self.prompts - 1, 0)).sum())


class Chosen(Documents):
    """Some of the documents, by their indices."""

    def __init__(self, documents: Documents, indices: np.ndarray):
        self._documents, self._indices = documents, indices
        self.lengths, self.prompts = documents.lengths[indices], documents.prompts[indices]
        self.end, self.digest = documents.end, documents.digest

    def tokens(self, index: int, start: int, stop: int) -> np.ndarray:
        return self._documents.tokens(int(self._indices[index]), start, stop)


def encode_documents(
    pairs: Iterable[tuple[str, str, str]], encode: Callable[[list[str]], list[list[int]]], begin: list[int], end: int
) -> Documents:
    """Tokenise (where, prompt, text) triples; prompt and text on their own, as they stand side by side in the model.

    encode: texts -> token ids, without special tokens; begin: ids before every document. CorpusError starting with
    `where` when a text has no tokens.
    """
    parts, lengths, prompts = [np.zeros(0, np.int32)], [], []
    pairs = iter(pairs)
    while batch := list(islice(pairs, _BATCH)):
        sources, *columns = zip(*batch, strict=True)
        for where, prompt, text in zip(sources, *map(encode, map(list, columns)), strict=True):
            if not text:
                raise CorpusError(f"{where}: the text must have at least one token, got none; leave the document out")
            parts.append(np.array([*begin, *prompt, *text], np.int32))
            lengths.append(len(parts[-1]))
            prompts.append(len(begin) + len(prompt))
    return Documents(np.concatenate(parts), np.array(lengths), np.array(prompts), end)


class JoinedRows(Documents):
    """The documents that rows of a corpus folder give, without the special tokens around these, joined again."""

    def __init__(self, corpus: Corpus, rows, lengths: np.ndarray, documents: np.ndarray, frames: "Frames"):
        """rows: int64 [R] or AllBut, increasing, all that these documents have; lengths, documents: of each, [R]."""
        self._corpus, self._rows, self.end, self.digest = corpus, rows, frames.end, frames.digest(corpus)
        self._begin, self._inner = np.array(frames.begin, np.int32), slice(frames.before, -frames.after or None)
        sizes = lengths.astype(np.int64) - frames.before - frames.after
        self._row_ends = np.cumsum(sizes)  # counted through the rows
        self._row_starts = self._row_ends - sizes
        firsts = np.flatnonzero(np.diff(documents, prepend=-1))
        self._starts = self._row_starts[firsts]
        self.lengths = len(self._begin) + np.diff(self._starts, append=self._row_ends[-1:])
        self.prompts = np.full(len(self.lengths), len(self._begin))

    def tokens(self, index: int, start: int, stop: int) -> np.ndarray:
        shift = int(self._starts[index]) - len(self._begin)
        low, high = shift + max(start, len(self._begin)), shift + stop
        parts = [self._begin[start:stop]]
        if low < high:
            first, last = np.searchsorted(self._row_ends, low, side="right"), np.searchsorted(self._row_ends, high)
            rows = self._corpus.rows(self._rows[np.arange(first, last + 1)])
            inner = [row["input_ids"][self._inner] for row in rows]
            origin = int(self._row_starts[first])
            parts.append(np.concatenate(inner)[low - origin : high - origin])
        return np.concatenate(parts)


@dataclass(frozen=True)
class Frames:
    """What stands around a document: begin, ids before it; end, the last target; before, after: how many special
    tokens a row of a corpus has on either side of its own."""

    begin: list[int]
    end: int
    before: int
    after: int

    @classmethod
    def of(cls, begin: list[int], end: int, backend) -> "Frames":
        return cls(begin, end, *map(len, split_frame(backend)))

    def digest(self, corpus: Corpus) -> str:
        """Of a corpus's documents."""
        described = json.dumps([corpus.manifest, self.begin, self.end], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()


class CorpusDocuments(JoinedRows):
    """The documents of a corpus folder; takes some 70 bytes a row."""

    def __init__(self, corpus: Corpus, begin: list[int], end: int, backend):
        """CorpusError when the rows do not keep documents apart."""
        check_apart(corpus)
        super().__init__(corpus, AllBut(len(corpus)), corpus.lengths, corpus.documents, Frames.of(begin, end, backend))


class ShardDocuments:
    """The documents of a corpus folder of any size, those of a shard at a time, without held-out ones.

    Attributes: corpus; digest, of what they are made of.
    """

    def __init__(self, corpus: Corpus, frames: Frames, held_out: np.ndarray | None = None):
        """held_out: rows that are left out, int64, increasing, all of their documents.

        CorpusError when the rows do not keep documents apart.
        """
        check_apart(corpus)
        self.corpus, self._frames, self.digest = corpus, frames, frames.digest(corpus)
        self._held_out = np.zeros(0, np.int64) if held_out is None else held_out
        self._held_edges = np.searchsorted(self._held_out, corpus.first_rows)

    def split(self, share: float) -> tuple["ShardDocuments", JoinedRows]:
        """Hold out about a share of the documents: (the others, those), always the same ones."""
        _, rows = split_at_places(self.corpus, share)
        lengths, documents = self.corpus.lengths_of(rows), self.corpus.documents_of(rows)
        held_out = JoinedRows(self.corpus, rows, lengths, documents, self._frames)
        return ShardDocuments(self.corpus, self._frames, rows), held_out

    def _held_in(self, number: int) -> np.ndarray:
        return self._held_out[slice(*self._held_edges[number : number + 2].tolist())]

    def shard(self, number: int) -> JoinedRows:
        """The documents of a shard."""
        shard, first = self.corpus.maps[number], int(self.corpus.first_rows[number])
        rows = np.setdiff1d(np.arange(len(shard.documents)), self._held_in(number) - first, assume_unique=True)
        lengths = np.diff(shard.offsets)[rows]
        if lengths.min(initial=0) < 0:
            raise self.corpus.maps.damaged(number, "rows that end before they begin")
        return JoinedRows(self.corpus, first + rows, lengths, shard.documents[rows], self._frames)

    def tokens(self) -> np.ndarray:
        """Inputs that the documents of each shard give, int64 [shards]: by the manifest where it tells."""
        frame, begin = self._frames.before + self._frames.after, len(self._frames.begin)
        tokens = np.zeros(len(self.corpus.maps), np.int64)
        for number, described in enumerate(self.corpus.manifest["shards"]):
            if {"tokens", "documents", "dropped_documents"} <= described.keys():
                documents = described["documents"] - described["dropped_documents"]
                tokens[number] = described["tokens"] + begin * documents
            else:
                shard = self.corpus.maps[number]
                documents = len(np.unique(shard.documents)) if begin else 0
                tokens[number] = int(shard.offsets[-1]) - frame * len(shard.documents) + begin * documents
            if len(held := self._held_in(number)):
                owners = len(np.unique(self.corpus.documents_of(held)))
                tokens[number] -= self.corpus.lengths_of(held).sum() - frame * len(held) + begin * owners
        return tokens


def check_apart(corpus: Corpus) -> None:
    """CorpusError when the rows do not keep documents apart."""
    if corpus.is_grouped:
        raise CorpusError(
            f"--train_dir {corpus.folder} must keep documents apart, got rows that run across them; prepare it "
            "with --line_by_line true"
        )


def split(documents: Documents, share: float) -> tuple[Documents, Documents]:
    """Hold out a share of the documents: (the others, those), at least one on either side, always the same ones."""
    count = len(documents.lengths)
    held = min(max(round(share * count), 1), count - 1)
    if count < 2 or not 0 < share < 1:
        raise CorpusError(
            f"--validation_split must lie between 0 and 1 and there must be two documents or more, got {share} and "
            f"{count}; change the share or give --validation_file"
        )
    order = np.argsort(draw(_HELD_OUT, np.arange(count)), kind="stable")
    return Chosen(documents, np.sort(order[held:])), Chosen(documents, np.sort(order[:held]))


def load_documents(
    flags, tokenizer, begin: list[int], end: int, by_shard: bool
) -> tuple[Documents | ShardDocuments | None, Documents | None]:
    """Training documents and held-out ones, None for those that are not asked for.

    by_shard: whether those of a corpus that is not small are a shard's at a time.

    flags: an object with train_file, train_dir, validation_file, validation_split, doc_spliter and text_column as the
    user typed them, each None for none; begin, end: as for Documents and encode_documents. ValueError naming the flag.
    """

    def encode(texts):
        return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]

    def load(path, flag):
        texts = read_documents(path, flag, flags.doc_spliter, flags.text_column)
        documents = encode_documents(texts, encode, begin, end)
        if not len(documents.lengths):
            raise CorpusError(f"{flag} {path} must hold at least one document, got none; check the file")
        return documents

    train = held_out = None
    if flags.train_file:
        train = load(flags.train_file, "--train_file")
    elif flags.train_dir:
        corpus = open_corpus(flags.train_dir, "--train_dir", tokenizer.backend_tokenizer)
        if by_shard and not corpus.maps.is_small:
            train = ShardDocuments(corpus, Frames.of(begin, end, tokenizer.backend_tokenizer))
        else:
            train = CorpusDocuments(corpus, begin, end, tokenizer.backend_tokenizer)
    if flags.validation_split is not None:
        share = flags.validation_split
        train, held_out = train.split(share) if isinstance(train, ShardDocuments) else split(train, share)
    elif flags.validation_file:
        held_out = load(flags.validation_file, "--validation_file")
    return train, held_out


def text_frame(tokenizer) -> tuple[list[int], int]:
    """Ids that stand before every document, and the one after it: eos, or else what the tokenizer ends a text with.

    ValueError when there is none.
    """
    begin, after = split_frame(tokenizer.backend_tokenizer)
    if tokenizer.eos_token_id is not None:
        return begin, tokenizer.eos_token_id
    if not after:
        raise UserError("--tokenizer_name must have an end token (eos_token), got none; set it in its config")
    return begin, after[-1]
