"""Documents of token ids and what a causal language model is fed of them: segments of one stream, or windows.

A document of N tokens gives N inputs; their targets are its tokens from the second on and the end token, which is
never an input, and no target lies in a prompt. The stream holds all documents in a shuffled order, and its sample i
the places [iT, (i+1)T): as XLDataset of THUDM/Chinese-Transformer-XL (data_utils/datasets.py) has it, without its
empty last sample. Windows cut each document on its own, for evaluation.

Letters: D documents, N tokens of one, T tokens of a segment, R samples, S streams (rows of one optimiser step).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from data.collators import IGNORED
from data.corpus import Corpus, CorpusError
from data.masking import draw
from data.sampling import TrainBatches
from data.tokenization import split_frame

_DOCUMENT_ORDER, _HELD_OUT = 13, 14  # streams of draws, apart from those of sampling and masking
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

    def tokens(self, number: int, start: int, stop: int) -> np.ndarray:
        """Tokens start..stop of one document."""
        first = self._starts[number]
        return self._ids[first + start : first + stop]

    def targets(self) -> int:
        """How many targets all documents have together."""
        return int((self.lengths - np.maximum(self.prompts - 1, 0)).sum())


class Chosen(Documents):
    """Some of the documents, by their numbers."""

    def __init__(self, documents: Documents, numbers: np.ndarray):
        self._documents, self._numbers = documents, numbers
        self.lengths, self.prompts = documents.lengths[numbers], documents.prompts[numbers]
        self.end, self.digest = documents.end, documents.digest

    def tokens(self, number: int, start: int, stop: int) -> np.ndarray:
        return self._documents.tokens(int(self._numbers[number]), start, stop)


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
        places, *columns = zip(*batch, strict=True)
        for where, prompt, text in zip(places, *map(encode, map(list, columns)), strict=True):
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

    def tokens(self, number: int, start: int, stop: int) -> np.ndarray:
        shift = int(self._starts[number]) - len(self._begin)
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


def cut(documents: Documents, number: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Inputs start..stop of a document: input_ids, labels (-100 for no target) and position_ids, in the document."""
    length = int(documents.lengths[number])
    stop = min(stop, length)
    found = documents.tokens(number, start, min(stop + 1, length)).astype(np.int64)
    labels = np.append(found[1:], documents.end) if stop == length else found[1:]
    places = np.arange(start, stop)
    labels = np.where(places + 1 < documents.prompts[number], IGNORED, labels)
    return {"input_ids": found[: stop - start], "labels": labels, "position_ids": places}


class StreamRows:
    """All samples of the stream of documents; see the module. lengths int64 [R], tokens of each."""

    def __init__(self, documents: Documents, length: int, seed: int):
        self.documents, self._length = documents, length
        self._order = np.argsort(draw(seed, _DOCUMENT_ORDER, np.arange(len(documents.lengths))), kind="stable")
        self._ends = np.cumsum(documents.lengths[self._order])
        total = int(self._ends[-1])
        self.lengths = np.minimum(length, total - np.arange(0, total, length))

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, indices) -> list[dict]:
        """Samples by number -> dicts: sample, and the int64 arrays of `cut`, of all its documents end to end."""
        return [self._row(int(index)) for index in indices]

    def _row(self, index: int) -> dict:
        at, stop = index * self._length, index * self._length + int(self.lengths[index])
        pieces = []
        for place in range(int(np.searchsorted(self._ends, at, side="right")), len(self._ends)):
            number, end = self._order[place], int(self._ends[place])
            begin = end - int(self.documents.lengths[number])
            pieces.append(cut(self.documents, number, at - begin, min(stop, end) - begin))
            at = end
            if end >= stop:
                break
        return {"sample": index} | {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


class Windows:
    """Windows of T tokens of each document, a new one every `stride`; each target belongs to the first that has it.

    Attributes: numbers, starts, lengths int64, the document of each window, its first token there and its tokens.
    """

    def __init__(self, documents: Documents, length: int, stride: int):
        self.documents, self._length, self._stride = documents, length, stride
        counts = 1 + np.maximum(0, -(-(documents.lengths - length) // stride))
        self.numbers = np.repeat(np.arange(len(counts)), counts)
        self.starts = stride * (np.arange(len(self.numbers)) - np.repeat(np.cumsum(counts) - counts, counts))
        self.lengths = np.minimum(length, documents.lengths[self.numbers] - self.starts)

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, indices) -> list[dict]:
        """As StreamRows.rows, with the key document; the window behind the last one is empty."""
        return [self._row(int(index)) for index in indices]

    def _row(self, index: int) -> dict:
        if index == len(self):
            nothing = np.zeros(0, np.int64)
            return {"document": 0, "input_ids": nothing, "labels": nothing, "position_ids": nothing}
        number, start = int(self.numbers[index]), int(self.starts[index])
        row = cut(self.documents, number, start, start + self._length)
        if start:
            row["labels"][: self._length - self._stride] = IGNORED
        return {"document": number, **row}


class StreamBatches(TrainBatches):
    """Micro-batches whose rows go on where they ended: at step t, row b of S reads sample t + b (R // S), modulo R.

    So a step's rows are S streams side by side, whatever the number of processes and micro-batches that share them.
    """

    def _indices(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        step, row = np.divmod(places, self.step_size)
        return np.divmod(step + row * (len(self.rows) // self.step_size), len(self.rows))


class SegmentBatches:
    """Evaluation with a memory: documents side by side, one window of each after the other, then the next documents.

    Where a document has ended before its neighbours, the empty window stands. Documents of like length share batches,
    and batch b of documents goes to process b modulo processes.
    """

    def __init__(self, windows: Windows, batch_size: int, processes: int = 1, process: int = 0):
        numbers, self._firsts, self._counts = np.unique(windows.numbers, return_index=True, return_counts=True)
        order = numbers[np.argsort(self._counts, kind="stable")]
        groups = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self._groups, self._nothing = groups[process::processes], len(windows)

    def __len__(self) -> int:
        return sum(int(self._counts[group].max()) for group in self._groups)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for group in self._groups:
            firsts, counts = self._firsts[group], self._counts[group]
            for number in range(int(counts.max())):
                yield [(0, row) for row in np.where(number < counts, firsts + number, self._nothing).tolist()]


@dataclass(frozen=True)
class CausalCollator:
    """Rows of `cut` -> one micro-batch, padded on the right.

    Attributes:
        pad_token_id: fills input_ids.
        length: T; None for the longest row of the batch.
    """

    pad_token_id: int
    length: int | None = None

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """int64 [B, T]: input_ids; attention_mask; labels, the targets of these very positions, -100 for none;
        position_ids, the place of each token in its document (0 at padding). Of windows also documents [B], and
        fresh (bool): whether they are the first ones of their documents.
        """
        lengths = np.array([len(row["input_ids"]) for row in rows])
        real = np.arange(self.length or lengths.max()) < lengths[:, None]
        arrays = {"attention_mask": real.astype(np.int64)}
        for name, fill in (("input_ids", self.pad_token_id), ("labels", IGNORED), ("position_ids", 0)):
            arrays[name] = np.full(real.shape, fill, np.int64)
            arrays[name][real] = np.concatenate([row[name] for row in rows])
        if "document" in rows[0]:
            arrays["documents"] = np.array([row["document"] for row in rows])
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if "document" in rows[0]:
            batch["fresh"] = bool(rows[-1]["position_ids"][0] == 0)  # the last document of a batch is the longest
        return batch
