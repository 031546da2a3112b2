"""Sort documents by a 128-bit key on disk, in memory that does not grow with their number.

A shuffle is a sort by random keys, the removal of duplicates one by keyed hashes of the content. Documents go to
buckets by the leading bits of the key; each bucket is sorted by (high, low, position) when it is read, so the order
of the whole depends on the keys alone, not on the number of buckets, nor on which process wrote what first.
"""

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

BUCKET_BYTES = 32 << 20  # what a bucket is meant to hold
RECORD = np.dtype([(name, "<u8") for name in ("high", "low", "position", "characters", "length")])


def random_keys(records: np.ndarray, seed: int) -> None:
    """Fill the keys with a hash (splitmix64) of (seed, position)."""
    start = np.frombuffer(_seed_bytes(seed), "<u8")[0]
    for name, stream in (("high", 0), ("low", 1)):
        value = (records["position"] * np.uint64(2) + np.uint64(stream)) * np.uint64(0x9E3779B97F4A7C15) + start
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        records[name] = value ^ (value >> np.uint64(31))


def content_keys(records: np.ndarray, payloads: list[bytes], seed: int) -> None:
    """Fill the keys with a hash (BLAKE2b) of (seed, payload): equal payloads get equal keys."""
    key = _seed_bytes(seed)
    digests = b"".join(hashlib.blake2b(payload, digest_size=16, key=key).digest() for payload in payloads)
    pairs = np.frombuffer(digests, "<u8").reshape(-1, 2)
    records["high"], records["low"] = pairs[:, 0], pairs[:, 1]


def position_keys(records: np.ndarray, total: int) -> None:
    """Fill the keys so that they order as the positions, spread over all buckets; positions are below `total`."""
    records["high"] = records["position"] * np.uint64((1 << 64) // max(total, 2))
    records["low"] = 0


def _seed_bytes(seed: int) -> bytes:
    return hashlib.blake2b(str(seed).encode(), digest_size=32).digest()


def sorted_indices(records: np.ndarray, distinct: bool) -> np.ndarray:
    """Return the indices that sort by (high, low, position); with `distinct` those of the first of each key only."""
    order = np.lexsort((records["position"], records["low"], records["high"]))
    if not distinct or not len(order):
        return order
    high, low = records["high"][order], records["low"][order]
    return order[np.append(True, (high[1:] != high[:-1]) | (low[1:] != low[:-1]))]


class Buckets:
    """A folder of `count` buckets that several processes may fill and one then empties."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.dropped = folder, count, 0
        folder.mkdir(exist_ok=True)

    def add(self, records: np.ndarray, payloads: list[bytes]) -> None:
        """Append documents: RECORD [N] with their keys set, and their bytes."""
        records["length"] = [len(payload) for payload in payloads]
        bucket_of = (records["high"] >> np.uint64(32)) * np.uint64(self.count) >> np.uint64(32)
        order = np.argsort(bucket_of, kind="stable")
        edges = np.flatnonzero(np.diff(bucket_of[order])) + 1
        for members in np.split(order, edges) if len(order) else []:
            # A file per process: nothing to lock. A block is its number of records, the records and the payloads.
            name = f"{bucket_of[members[0]]:06d}.{os.getpid()}"
            with (self.folder / name).open("ab") as file:
                file.write(np.int64(len(members)).tobytes() + records[members].tobytes())
                file.writelines(payloads[i] for i in members.tolist())

    def take(self, distinct: bool) -> Iterator[tuple[np.ndarray, Iterator[bytes]]]:
        """Yield (RECORD [N], their payloads) of each bucket that is not empty, in order, and delete it.

        `distinct` keeps only the first record of each key and adds the number of the others to `dropped`. Payloads
        are read from disk as they are asked for.
        """
        for paths in self.files().values():
            maps = []
            for path in paths:
                with path.open("rb") as file:
                    maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                path.unlink()  # the map keeps the content
            records, payloads, dropped = sorted_documents(maps, distinct)
            self.dropped += dropped
            yield records, payloads

    def files(self) -> dict[int, list[Path]]:
        """The files of each bucket that is not empty, by number, in order."""
        names: dict[int, list[Path]] = {}
        for path in sorted(self.folder.iterdir()):
            names.setdefault(int(path.stem), []).append(path)
        return names


def sorted_documents(
    contents: Sequence[memoryview | mmap.mmap], distinct: bool
) -> tuple[np.ndarray, Iterator[bytes | memoryview], int]:
    """The documents of a bucket from what its files hold: RECORD [N] in order, their payloads, how many were dropped.

    `distinct` keeps only the first record of each key. Payloads are read as they are asked for.
    """
    blocks, sources, starts = [], [], []
    for number, content in enumerate(contents):
        for records, start in _blocks(content):
            blocks.append(records)
            sources.append(np.full(len(records), number))
            starts.append(start + np.append(0, np.cumsum(records["length"])[:-1]).astype(np.int64))
    records = np.concatenate(blocks)
    keep = sorted_indices(records, distinct)
    kept = records[keep]
    begin, source = np.concatenate(starts)[keep], np.concatenate(sources)[keep]
    ends = (begin + kept["length"].astype(np.int64)).tolist()
    spans = zip(source.tolist(), begin.tolist(), ends, strict=True)
    return kept, (contents[i][a:b] for i, a, b in spans), len(records) - len(keep)


def _blocks(content: memoryview | mmap.mmap) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (records, where their payloads begin) of each block of a bucket file."""
    at = 0
    while at < len(content):
        count = int.from_bytes(content[at : at + 8], "little")
        at += 8 + count * RECORD.itemsize
        records = np.frombuffer(content[at - count * RECORD.itemsize : at], RECORD)
        yield records, at
        at += int(records["length"].sum())
