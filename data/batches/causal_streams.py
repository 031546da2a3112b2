"""Documents of token ids and what a causal language model is fed of them: segments of one stream, or windows.

A document of N tokens gives N inputs; their targets are its tokens from the second on and the end token, which is
never an input, and no target lies in a prompt. The stream holds all documents in a shuffled order, and its row i
the positions [iT, (i+1)T): as XLDataset of THUDM/Chinese-Transformer-XL (data_utils/datasets.py) has it, without its
empty last row. Windows cut each document on its own, for evaluation.

Letters: D documents, N tokens of one, T tokens of a segment, R rows, S streams (rows of one optimiser step).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from data.batches.causal_documents import Documents, ShardDocuments
from data.batches.masking import IGNORED
from data.batches.sampling import EvalBatches, TrainBatches, draw
from data.corpus.arrow_shards import CorpusError

logger = logging.getLogger(__name__)

# Streams of draws, apart from those of sampling and masking.
_DOCUMENT_ORDER, _SHARD_ORDER, _ORDER_IN_SHARD = 13, 20, 21
_KEPT = 256  # shards whose documents a process keeps numbered, a megabyte or so each: more than it has streams


def cut(documents: Documents, index: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Inputs start..stop of a document: input_ids, labels (-100 for no target) and position_ids, in the document."""
    length = int(documents.lengths[index])
    stop = min(stop, length)
    tokens = documents.tokens(index, start, min(stop + 1, length)).astype(np.int64)
    labels = np.append(tokens[1:], documents.end) if stop == length else tokens[1:]
    positions = np.arange(start, stop)
    labels = np.where(positions + 1 < documents.prompts[index], IGNORED, labels)
    return {"input_ids": tokens[: stop - start], "labels": labels, "position_ids": positions}


class Stream:
    """Documents end to end in an order, int64 [D]. tokens: of all of them."""

    def __init__(self, documents: Documents, order: np.ndarray):
        self._documents, self._order = documents, order
        self._ends = np.cumsum(documents.lengths[order])
        self.tokens = int(self._ends[-1]) if len(order) else 0

    def pieces(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """Inputs start..stop as what `cut` gives of each document that they lie in."""
        for rank in range(int(np.searchsorted(self._ends, start, side="right")), len(self._ends)):
            document, end = int(self._order[rank]), int(self._ends[rank])
            begin = end - int(self._documents.lengths[document])
            yield cut(self._documents, document, start - begin, min(stop, end) - begin)
            start = end
            if end >= stop:
                break


class StreamRows:
    """All rows of the stream of documents; see the module. lengths: SegmentLengths."""

    def __init__(self, documents: Documents, length: int, seed: int):
        self.documents, self._length = documents, length
        order = np.argsort(draw(seed, _DOCUMENT_ORDER, np.arange(len(documents.lengths))), kind="stable")
        self._stream = Stream(documents, order)
        self.lengths = SegmentLengths(self._stream.tokens, length)

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, indices) -> list[dict]:
        """Rows by index -> dicts: index, and the int64 arrays of `cut`, of all documents of the row end to end."""
        return [self._row(int(index)) for index in indices]

    def _row(self, index: int) -> dict:
        start = index * self._length
        pieces = list(self.pieces(start, start + int(self.lengths[index])))
        return {"index": index} | {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def pieces(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """As Stream.pieces."""
        return self._stream.pieces(start, stop)


class ShardStreamRows(StreamRows):
    """The same of a corpus of any size: shard after shard in a random order, the documents of each likewise.

    Where a document begins follows from the tokens of the shards before its own and from its own shard, so that no
    array goes over all rows or documents.
    """

    def __init__(self, documents: ShardDocuments, length: int, seed: int):
        self.documents, self._length, self._seed = documents, length, seed
        tokens = documents.tokens()
        self._order = np.argsort(draw(seed, _SHARD_ORDER, np.arange(len(tokens))), kind="stable")
        self._ends = np.cumsum(tokens[self._order])
        self.lengths = SegmentLengths(int(self._ends[-1]), length)
        self._streams: dict[int, Stream] = {}  # by rank, the oldest first

    def pieces(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        for rank in range(int(np.searchsorted(self._ends, start, side="right")), len(self._ends)):
            stream, end = self._shard_stream(rank), int(self._ends[rank])
            begin = end - stream.tokens
            yield from stream.pieces(start - begin, min(stop, end) - begin)
            start = end
            if end >= stop:
                break

    def _shard_stream(self, rank: int) -> Stream:
        if rank not in self._streams:
            number = int(self._order[rank])
            documents = self.documents.shard(number)
            draws = draw(self._seed, _ORDER_IN_SHARD, number, np.arange(len(documents.lengths)))
            stream = Stream(documents, np.argsort(draws, kind="stable"))
            if stream.tokens != int(self._ends[rank]) - int(self._ends[rank - 1] if rank else 0):
                raise self.documents.corpus.maps.damaged(number, "other tokens than its manifest says")
            while len(self._streams) >= _KEPT:
                del self._streams[next(iter(self._streams))]
            self._streams[rank] = stream
        return self._streams[rank]


def stream_rows(documents: Documents | ShardDocuments, length: int, seed: int) -> StreamRows:
    """Rows of the stream of documents, whichever kind they are of."""
    return (ShardStreamRows if isinstance(documents, ShardDocuments) else StreamRows)(documents, length, seed)


class SegmentLengths:
    """Tokens of the rows of a stream, which have all the same but for the last: what an array gives, in no memory."""

    def __init__(self, total: int, length: int):
        self._total, self._length = total, length

    def __len__(self) -> int:
        return -(-self._total // self._length)

    def __getitem__(self, places) -> np.ndarray:
        """int64 places -> int64 tokens."""
        return np.minimum(self._length, self._total - np.asarray(places, np.int64) * self._length)

    def max(self) -> int:
        return min(self._length, self._total)

    def mean(self) -> float:
        return self._total / len(self)


class Windows:
    """Windows of T tokens of each document, a new one every `stride`; each target belongs to the first that has it.

    Attributes: owners, starts, lengths int64, the document of each window, its first token there and its tokens.
    """

    def __init__(self, documents: Documents, length: int, stride: int):
        self.documents, self._length, self._stride = documents, length, stride
        counts = 1 + np.maximum(0, -(-(documents.lengths - length) // stride))
        self.owners = np.repeat(np.arange(len(counts)), counts)
        self.starts = stride * (np.arange(len(self.owners)) - np.repeat(np.cumsum(counts) - counts, counts))
        self.lengths = np.minimum(length, documents.lengths[self.owners] - self.starts)

    def __len__(self) -> int:
        return len(self.owners)

    def rows(self, indices) -> list[dict]:
        """As StreamRows.rows, with the key document; the window behind the last one is empty."""
        return [self._row(int(index)) for index in indices]

    def _row(self, index: int) -> dict:
        if index == len(self):
            nothing = np.zeros(0, np.int64)
            return {"document": 0, "input_ids": nothing, "labels": nothing, "position_ids": nothing}
        document, start = int(self.owners[index]), int(self.starts[index])
        row = cut(self.documents, document, start, start + self._length)
        if start:
            row["labels"][: self._length - self._stride] = IGNORED
        return {"document": document, **row}


class StreamBatches(TrainBatches):
    """Micro-batches whose rows go on where they ended: at step t, row b of S is the stream's t + b (R // S), modulo R.

    So a step's rows are S streams side by side, whatever the number of processes and micro-batches that share them.
    """

    def _indices(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        step, row = np.divmod(places, self.step_size)
        return np.divmod(step + row * (self.rows // self.step_size), self.rows)


class SegmentBatches:
    """Evaluation with a memory: documents side by side, one window of each after the other, then the next documents.

    Where a document has ended before its neighbours, the empty window stands. Documents of like length share batches,
    and batch b of documents goes to process b modulo processes.
    """

    def __init__(self, windows: Windows, batch_size: int, processes: int = 1, process: int = 0):
        documents, self._firsts, self._counts = np.unique(windows.owners, return_index=True, return_counts=True)
        order = documents[np.argsort(self._counts, kind="stable")]
        groups = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self._groups, self._nothing = groups[process::processes], len(windows)

    def __len__(self) -> int:
        return sum(int(self._counts[group].max()) for group in self._groups)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for group in self._groups:
            firsts, counts = self._firsts[group], self._counts[group]
            for rank in range(int(counts.max())):
                yield [(0, index) for index in np.where(rank < counts, firsts + rank, self._nothing).tolist()]


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
        position_ids, of each token in its document (0 at padding). Of windows also documents [B], and
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


def make_train_batches(args, rows: StreamRows, mem_len: int) -> TrainBatches:
    """This process's micro-batches of a whole run: streams with a memory, shuffled rows without.

    args: RunArguments, max_steps set. CorpusError when there are more streams than rows.
    """
    batches = (StreamBatches if mem_len else TrainBatches).of_run(args, len(rows))
    if mem_len and batches.step_size > len(rows):
        raise CorpusError(
            f"--per_device_train_batch_size x --gradient_accumulation_steps x processes, the streams, must be at most "
            f"the {len(rows)} segments of the training text, got {batches.step_size}; lower them"
        )
    logger.info("%d segments of %d tokens", len(rows), rows.lengths.max())
    return batches


def make_eval_batches(args, windows: Windows, mem_len: int) -> SegmentBatches | EvalBatches:
    """This process's share of the evaluation; args: RunArguments."""
    split_among = args.eval_batch_size, args.data_processes, args.data_process
    if mem_len:
        return SegmentBatches(windows, *split_among)
    return EvalBatches(windows.lengths, *split_among)
