"""Documents sorted by runs on any machines with one disk between them, in steps that the runs share by number.

Share i of the first step reads its part of the input into its part of every bucket; share j of the last sorts some of
the buckets, of which it reads what all shares have of them. What a share writes is a folder, there when it is whole.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from common.errors import UserError
from data.outputs import atomic_folder
from data.shares import leave, share_of, take
from data.text.external_sort import Buckets, position_keys, sorted_documents
from data.text.parallel_reader import Counts, Job, read_all
from data.text.raw_documents import Unit

READ, REORDER, SORT = "read", "reorder", "sort"  # reorder: between the two, where duplicates go and the order stays
_TOLD = "share.json"
_BLOCK, _DOCUMENTS = 1 << 20, 256


@dataclass(frozen=True)
class SharedSort:
    """What all runs must know. `shares` of each step lie in `folder`; parts: a file for each bucket that is not empty.

    UserError where a share of an earlier step is missing or damaged.
    """

    folder: Path
    job: Job
    units: list[Unit]
    shares: int
    parts: bool

    def run(self, step: str, index: int, workers: int, log_interval: float) -> None:
        """Do one share of a step, where it is not done."""
        if (self._share(step, index) / _TOLD).is_file():
            return
        fill: Callable[[Path], dict] = {
            READ: lambda folder: self._read(folder, index, workers, log_interval),
            REORDER: lambda folder: self._reorder(folder, index),
            SORT: lambda folder: self._sort(folder, index),
        }[step]
        with atomic_folder(self._share(step, index)) as folder:
            leave(folder / _TOLD, fill(folder))

    def _share(self, step: str, index: int) -> Path:
        return self.folder / f"{step}-{index:05d}"

    @property
    def _reorders(self) -> bool:
        return self.job.dedup and not self.job.shuffle

    def require(self, step: str) -> None:
        """UserError naming a share of this step that is missing."""
        for index in range(self.shares):
            if not (self._share(step, index) / _TOLD).is_file():
                raise UserError(
                    f"--step {step} must be done by all {self.shares} shares first, got number {index} missing in "
                    f"{self.folder}; run the same command with {self._again(step, index)}"
                )

    def told(self, step: str) -> list[dict]:
        """What all shares of a step have told."""
        self.require(step)
        return [take(self._share(step, index) / _TOLD) for index in range(self.shares)]

    def _again(self, step: str, index: int) -> str:
        return f"--step {step} --shard_index {index} --num_shards {self.shares}"

    def _read(self, folder: Path, index: int, workers: int, log_interval: float) -> dict:
        buckets = Buckets(folder / "filling", self.job.bucket_count)
        units = share_of(self.units, index, self.shares)
        counts = read_all(replace(self.job, folder=buckets.folder), units, workers, log_interval)
        _pack(buckets, folder)
        return {"counts": counts.plain()}

    def _reorder(self, folder: Path, index: int) -> dict:
        buckets, duplicates = Buckets(folder / "filling", self.job.bucket_count), 0
        for _, records, payloads, dropped in self._buckets(READ, index):
            position_keys(records, self.job.total)
            buckets.add(records, list(payloads))
            duplicates += dropped
            del records, payloads  # before the next bucket is read
        _pack(buckets, folder)
        return {"duplicates": duplicates}

    def _sort(self, folder: Path, index: int) -> dict:
        files, told, digest = [], {"documents": 0, "characters": 0, "duplicates": 0}, xxh3_64()
        for number, records, payloads, dropped in self._buckets(REORDER if self._reorders else READ, index):
            name = f"{number:06d}" if self.parts else "all"
            if not files or self.parts:
                files.append([name, 0, 0])
                digest.reset()
            with (folder / name).open("ab") as file:
                for block in _blocks(payloads):
                    digest.update(block)
                    file.write(block)
                _to_disk(file)
                files[-1][1:] = file.tell(), digest.intdigest()
            sums = len(records), int(records["characters"].sum()), dropped
            del records, payloads  # before the next bucket is read
            told = {key: told[key] + more for key, more in zip(told, sums, strict=True)}
        return {"files": files, **told}

    def _buckets(self, step: str, index: int) -> Iterator[tuple[int, np.ndarray, Iterator[bytes], int]]:
        """Number, records, payloads and duplicates of each bucket of a share that is not empty."""
        self.require(step)
        numbers = share_of(range(self.job.bucket_count), index, self.shares)
        tables = []
        for number in range(self.shares):
            with (self._share(step, number) / "table").open("rb") as file:
                file.seek(16 * numbers.start)
                tables.append(np.frombuffer(file.read(16 * (len(numbers) + 1)), "<u8").reshape(-1, 2).tolist())
        for place, number in enumerate(numbers):
            contents = []
            for share, table in enumerate(tables):
                (begin, digest), (end, _) = table[place : place + 2]
                if begin < end:
                    contents.append(self._content(step, share, begin, end, digest))
            if contents:
                yield number, *sorted_documents(contents, self.job.dedup)

    def _content(self, step: str, index: int, begin: int, end: int, digest: int) -> memoryview:
        """A share's part of a bucket; what is taken of it is no copy."""
        path, content = self._share(step, index) / "buckets", b""
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(begin)
            content = file.read(end - begin)
        if xxh3_64_intdigest(content) != digest:
            raise UserError(
                f"{path} must hold what was written, got a bucket lost or damaged; remove {path.parent} and run the "
                f"same command with {self._again(step, index)}"
            )
        return memoryview(content)

    def join(self, target: Path) -> tuple[Counts, int, int]:
        """Lay what was sorted end to end in the file `target`, or as parts into a new folder.

        Returns the counts of all that was read, with the duplicates that sorting has found, documents and characters.
        """
        counts, told = Counts(), self.told(SORT)
        for share in self.told(READ):
            counts.add(Counts.of_plain(share["counts"]))
        counts.duplicates += sum(share["duplicates"] for share in told)
        if self._reorders:
            counts.duplicates += sum(share["duplicates"] for share in self.told(REORDER))
        files = [(index, *file) for index, share in enumerate(told) for file in share["files"]]
        if self.parts:
            target.mkdir()
            for number, (index, name, size, _) in enumerate(files):
                self._link(index, name, size, target / f"part-{number:05d}.jsonl")
        else:
            with target.open("wb") as out:
                for index, name, _, digest in files:
                    self._append(index, name, digest, out)
                _to_disk(out)
        return counts, sum(share["documents"] for share in told), sum(share["characters"] for share in told)

    def _link(self, index: int, name: str, size: int, target: Path) -> None:
        source = self._share(SORT, index) / name
        if not source.is_file() or source.stat().st_size != size:
            raise self._lost(source, index)
        try:
            os.link(source, target)
        except OSError:  # a file system without links
            shutil.copyfile(source, target)

    def _append(self, index: int, name: str, digest: int, out) -> None:
        source, now = self._share(SORT, index) / name, xxh3_64()
        with suppress(FileNotFoundError), source.open("rb") as file:
            while block := file.read(_BLOCK):
                now.update(block)
                out.write(block)
        if now.intdigest() != digest:
            raise self._lost(source, index)

    def _lost(self, path: Path, index: int) -> UserError:
        return UserError(
            f"{path} must hold what was written, got it lost or damaged; remove {path.parent} and run the same command"
            f" with {self._again(SORT, index)}"
        )


def _blocks(payloads: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces, without holding all of them."""
    while block := b"".join(islice(payloads, _DOCUMENTS)):
        yield block


def _pack(buckets: Buckets, folder: Path) -> None:
    """Lay the buckets end to end in one file, so that a share has few files however many buckets there are.

    Where each begins, with its checksum, lies in another: uint64 [count + 1, 2]. Empties `buckets`.
    """
    files, table = buckets.files(), []
    with (folder / "buckets").open("wb") as out:
        for number in range(buckets.count):
            begin, digest = out.tell(), xxh3_64()
            for path in files.get(number, []):
                with path.open("rb") as file:
                    while block := file.read(_BLOCK):
                        digest.update(block)
                        out.write(block)
                path.unlink()
            table.append((begin, digest.intdigest()))
        table.append((out.tell(), 0))
        _to_disk(out)
    with (folder / "table").open("wb") as out:
        out.write(np.array(table, "<u8").tobytes())
        _to_disk(out)
    buckets.folder.rmdir()


def _to_disk(file) -> None:
    file.flush()
    os.fsync(file.fileno())
