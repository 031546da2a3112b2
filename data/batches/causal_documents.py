"""Documents as token ids: tokenised from prompts and texts, or the rows of a corpus folder joined again.

Letters: D documents, N tokens of one.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np

from common.errors import UserError
from data.batches.sampling import draw
from data.corpus.arrow_shards import CorpusError
from data.corpus.store import Corpus
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


class CorpusDocuments(Documents):
    """The documents of a corpus folder: its rows without the special tokens around them, joined again."""

    def __init__(self, corpus: Corpus, begin: list[int], end: int, backend):
        """CorpusError when the rows do not keep documents apart, or have no text."""
        if corpus.is_grouped:
            raise CorpusError(
                f"--train_dir {corpus.folder} must keep documents apart, got rows that run across them; prepare it "
                "with --line_by_line true"
            )
        before, after = split_frame(backend)
        self._corpus, self._begin = corpus, np.array(begin, np.int32)
        self._inner = slice(len(before), -len(after) or None)
        sizes = corpus.lengths.astype(np.int64) - len(before) - len(after)
        self._row_ends = np.cumsum(sizes)  # counted through the corpus
        self._row_starts = self._row_ends - sizes
        firsts = np.flatnonzero(np.diff(corpus.documents, prepend=-1))
        if not len(firsts):
            raise CorpusError(f"--train_dir {corpus.folder} must hold text, got an empty corpus; prepare it again")
        self._starts = self._row_starts[firsts]
        self.lengths = len(begin) + np.diff(self._starts, append=self._row_ends[-1])
        self.prompts, self.end = np.full(len(self.lengths), len(begin)), end
        described = json.dumps([corpus.manifest, begin, end], sort_keys=True)
        self.digest = hashlib.sha256(described.encode()).hexdigest()

    def tokens(self, index: int, start: int, stop: int) -> np.ndarray:
        shift = int(self._starts[index]) - len(self._begin)
        low, high = shift + max(start, len(self._begin)), shift + stop
        parts = [self._begin[start:stop]]
        if low < high:
            first, last = np.searchsorted(self._row_ends, low, side="right"), np.searchsorted(self._row_ends, high)
            inner = [row["input_ids"][self._inner] for row in self._corpus.rows(np.arange(first, last + 1))]
            origin = int(self._row_starts[first])
            parts.append(np.concatenate(inner)[low - origin : high - origin])
        return np.concatenate(parts)


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


def load_documents(flags, tokenizer, begin: list[int], end: int) -> tuple[Documents | None, Documents | None]:
    """Training documents and held-out ones, None for those that are not asked for.

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
        corpus = Corpus(flags.train_dir)
        corpus.check_tokenizer(tokenizer.backend_tokenizer)
        train = CorpusDocuments(corpus, begin, end, tokenizer.backend_tokenizer)
    if flags.validation_split is not None:
        train, held_out = split(train, flags.validation_split)
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
