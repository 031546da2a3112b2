"""The shards of a finished corpus in memory: mapped when first asked for, checked at once or in the background.

A small corpus is checked whole when it is opened. Of a larger one only the sizes of the files are compared then, so
that opening takes a time and memory that do not grow with its rows; a shard is checked where all of it is read, and
`check_in_background` gets to every one.
"""

import logging
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

from data.corpus.arrow_shards import CorpusError, Shard, check_sum, read_shard

logger = logging.getLogger(__name__)

SMALL = 1 << 30  # bytes of a corpus that is read whole when it is opened: a second or two
BACKGROUND_RATE = 32 << 20  # bytes a second that a process reads of a larger one to check it
_THREADS = 8  # that read shards to check them
_MOST_MAPS = 16_384  # shards that a process maps at a time; Linux allows it 65,530 maps of all kinds


class ShardMaps:
    """Read-only maps of the shards of a corpus.

    Attributes: rows, int of each shard; bytes of all of them; is_small.
    """

    def __init__(self, folder: Path, flag: str, described: list[dict], sums: dict[str, int], check: bool):
        """described: the manifest's `shards`; sums: checksums by name; check: read a small corpus whole.

        CorpusError naming `flag` for a file that is gone or of another size, and what the check finds.
        """
        self._folder, self._flag, self._described, self._sums = folder, flag, described, sums
        self._mapped: dict[int, Shard] = {}  # the oldest first
        self._checked: set[int] = set()
        self._highest: int | None = None  # id of the tokenizer, once it is known
        self._damage: CorpusError | None = None  # what the background has met
        self._files = [self._file(shard) for shard in described]
        self.rows = [
            shard["blocks"] if "blocks" in shard else len(self._read(number, whole=False).documents)
            for number, shard in enumerate(described)
        ]
        self.bytes = sum(before.st_size for _, before in self._files)
        self.is_small = self.bytes <= SMALL
        if check and self.is_small:
            with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)))) as pool:  # crc32 lets others run
                self._mapped = dict(enumerate(pool.map(self._check, range(len(self._files)))))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Shard:
        """A shard, whose file is as long as it was: to read on in one that was cut short would end the process."""
        if self._damage is not None:
            raise self._damage
        path, before = self._files[number]
        is_new = number not in self._mapped
        if is_new:
            shard = self._read(number, whole=False)
        try:
            now = os.stat(path)
        except OSError:  # removed, but still there for us
            now = before
        is_same = os.path.samestat(now, before)
        if (is_new and not is_same) or (is_same and now.st_size != before.st_size):
            raise CorpusError(
                f"{self._flag} {self._folder} must stay as it is while it is read, got {os.path.basename(path)} with "
                f"{now.st_size} bytes that had {before.st_size}; copy the folder again and run the same command again"
            )
        if is_new:
            while len(self._mapped) >= _MOST_MAPS:
                del self._mapped[next(iter(self._mapped))]
            self._mapped[number] = shard
        return self._mapped[number]

    def whole(self) -> Iterator[Shard]:
        """All shards, each of them checked by now."""
        for number in range(len(self)):
            shard = self[number]
            if number not in self._checked:
                self._check(number)
            yield shard

    def expect_ids(self, highest: int) -> None:
        """CorpusError for a higher id: now in a small corpus, in a larger one where its shards are checked."""
        self._highest = highest
        if self.is_small:
            for number in range(len(self)):
                self._check_ids(number, self[number])
        else:
            self._checked.clear()

    def check_in_background(self, share: int, of: int) -> None:
        """Check each `of`-th shard from number `share` on in a thread, unless opening has checked them.

        What it meets is raised where the next rows are read. It reads BACKGROUND_RATE bytes a second.
        """
        if self.is_small:
            return
        logger.info(
            "%s holds %.0f GB: its checksums are compared while the run goes on, %.0f GB by this process at %d MB/s",
            *(self._folder, self.bytes / 1e9, self.bytes / of / 1e9, BACKGROUND_RATE >> 20),
        )
        Thread(target=self._check_share, args=(range(share, len(self), of),), daemon=True).start()

    def damaged(self, number: int, what: str) -> CorpusError:
        return CorpusError(
            f"{self._files[number][0]} must be a whole shard of a corpus, got a damaged one ({what}); copy it again, "
            "or remove it and run the command that made the corpus again"
        )

    def _file(self, shard: dict) -> tuple[str, os.stat_result]:
        path = os.path.join(self._folder, shard["file"])
        try:
            before = os.stat(path)
        except OSError:
            before = None
        if before is None or not stat.S_ISREG(before.st_mode) or before.st_size != shard["bytes"]:
            raise CorpusError(
                f"{self._flag} {self._folder} must hold {shard['file']} with {shard['bytes']} bytes, got "
                f"{before.st_size if before else 'no such file'}; copy the folder again"
            )
        return path, before

    def _read(self, number: int, whole: bool) -> Shard:
        shard = read_shard(Path(self._files[number][0]), whole)
        rows = len(shard.documents)
        if (described := self._described[number].get("blocks", rows)) != rows:
            raise self.damaged(number, f"{rows} rows instead of {described}")
        return shard

    def _check(self, number: int) -> Shard:
        """Read all of a shard. CorpusError when it is not as it was written, as far as that is known."""
        path, shard = Path(self._files[number][0]), self._read(number, whole=True)
        if path.name in self._sums:
            check_sum(path, {self._sums[path.name]})
        before = next((each for each in range(number - 1, -1, -1) if self.rows[each]), None)
        last = 0 if before is None else int(self._read(before, whole=False).documents[-1])
        if shard.documents.min(initial=last) < last:
            raise CorpusError(
                f"{self._flag} {self._folder} must hold documents one after the other, got shards of several corpora; "
                "copy the folder again"
            )
        self._check_ids(number, shard)
        self._checked.add(number)
        return shard

    def _check_ids(self, number: int, shard: Shard) -> None:
        if self._highest is not None and (shard.ids.max(initial=0) > self._highest or shard.marks.max(initial=0) > 1):
            raise CorpusError(
                f"{self._files[number][0]} must hold ids up to {self._highest} and marks of 0 and 1, got "
                f"{shard.ids.max()} and {shard.marks.max()}; prepare the corpus again"
            )

    def _check_share(self, numbers: range) -> None:
        for number in numbers:
            begun = time.monotonic()
            try:
                if number not in self._checked:
                    self._check(number)
            except CorpusError as error:
                self._damage = error
                return
            time.sleep(max(0, self._files[number][1].st_size / BACKGROUND_RATE - (time.monotonic() - begun)))
        logger.info("%s: all %d checksums that this process compares are right", self._folder, len(numbers))
