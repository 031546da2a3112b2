"""A finished corpus: rows of token ids with word marks by index, from shards that are mapped when first asked for.

A small corpus is checked whole when it is opened. Of a larger one only the sizes of the files are compared then, so
that opening takes a time and memory that do not grow with its rows; a shard is checked where all of it is read, and
`check_in_background` gets to every one.

Letters: T tokens of a row, [CLS] and [SEP] included; R rows of the corpus; N of them that are used; V entries of the
vocabulary.
"""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Thread

import numpy as np
from tokenizers import Tokenizer

from data.corpus.arrow_shards import CorpusError, Shard, check_sum, id_dtype, read_shard
from data.corpus.manifest import load_manifest
from data.tokens.tokenizer_files import tokenizer_hash

logger = logging.getLogger(__name__)

SMALL = 1 << 30  # bytes of a corpus that is read whole when it is opened: a second or two
BACKGROUND_RATE = 32 << 20  # bytes a second that a process reads of a larger one to check it
_THREADS = 8  # that read shards to check them
_MOST_MAPS = 16_384  # shards that a process maps at a time; Linux allows it 65,530 maps of all kinds


class Corpus:
    """Random access to the rows of a finished corpus through memory maps; picklable, each process opens its own maps.

    Opening one takes a time and memory that do not grow with its rows: their numbers are those of the manifest.

    Attributes: folder, manifest, maps (ShardMaps), first_rows (int64 [shards + 1], the first of each and R).
    """

    def __init__(self, folder: str | Path, flag: str = "--train_dir"):
        """CorpusError naming `flag` when the folder is no corpus, or an unfinished or damaged one."""
        self.folder, self._flag = Path(folder), flag
        self.manifest, self._sums = load_manifest(self.folder, flag)
        if not self.manifest["complete"]:
            raise CorpusError(
                f"{flag} {folder} must be a finished corpus, got one that is still being written or was stopped at; "
                "run the command that makes it again"
            )
        self._open(check=True)

    def _open(self, check: bool) -> None:
        self.maps = ShardMaps(self.folder, self._flag, self.manifest["shards"], self._sums, check)
        self.first_rows = np.cumsum([0, *self.maps.rows])

    def __getstate__(self) -> dict:
        return {name: self.__dict__[name] for name in ("folder", "_flag", "manifest", "_sums")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open(check=False)

    def __len__(self) -> int:
        return int(self.first_rows[-1])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, specials included: int32 [R]. Reads all shards."""
        return np.concatenate([np.zeros(0, np.int32), *(np.diff(shard.offsets) for shard in self.maps.whole())])

    @cached_property
    def documents(self) -> np.ndarray:
        """Number of the source document of each row, not decreasing: int64 [R]. Reads all shards."""
        return np.concatenate([np.zeros(0, np.int64), *(shard.documents for shard in self.maps.whole())])

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row; of a corpus that is not small what it was prepared for, if it says so."""
        prepared = self.manifest.get("settings", {}).get("max_seq_length")
        return int(self.lengths.max(initial=0)) if self.maps.is_small or prepared is None else prepared

    @property
    def description(self) -> str:
        """What it was made of, in words, for a model card."""
        files = [Path(source["file"]).name for source in self.manifest.get("inputs", [])]
        more = f" and {len(files) - 3} more files" if len(files) > 3 else ""
        return f"{len(self):,} rows of {', '.join(files[:3]) or 'unknown files'}{more}, prepared in `{self.folder}`."

    @property
    def mean_length(self) -> float:
        """Tokens of a row on average, by the sizes of the files: a token has an id and a mark, a row 16 bytes."""
        return (self.maps.bytes / len(self) - 16) / self.token_bytes

    @property
    def token_bytes(self) -> int:
        """Of a token's id and mark in a file."""
        return id_dtype(self.manifest["tokenizer"]["size"]).itemsize + 1

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows by index -> their shards, and which rows of these they are."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}, got {indices.min()}..{indices.max()}")
        shards = np.searchsorted(self.first_rows, indices, side="right") - 1
        return shards, indices - self.first_rows[shards]

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens of rows by index, int64 [N] -> int64 [N]; reads nothing else."""
        lengths = self._of_each(indices, lambda shard, rows: shard.offsets[rows + 1] - shard.offsets[rows])
        if lengths.min(initial=0) < 0:
            shards, _ = self._places(indices)
            raise self.maps.damaged(int(shards[lengths.argmin()]), "rows that end before they begin")
        return lengths

    def documents_of(self, indices: np.ndarray) -> np.ndarray:
        """Numbers of the source documents of rows by index, int64 [N] -> int64 [N]; reads nothing else."""
        return self._of_each(indices, lambda shard, rows: shard.documents[rows])

    def _of_each(self, indices: np.ndarray, read: Callable[[Shard, np.ndarray], np.ndarray]) -> np.ndarray:
        """What `read` gives of rows by index, int64 [N], a shard at a time."""
        shards, within = self._places(indices)
        numbers, order = np.empty(len(indices), np.int64), np.argsort(shards, kind="stable")
        mapped, firsts = np.unique(shards[order], return_index=True)
        for number, members in zip(mapped.tolist(), np.split(order, firsts)[1:], strict=True):
            numbers[members] = read(self.maps[number], within[members])
        return numbers

    def rows(self, indices) -> list[dict]:
        """Rows by index [N] -> N dicts: index (int), input_ids and continuation (read-only views [T] of the map)."""
        indices = np.asarray(indices, np.int64)
        shards, within = self._places(indices)
        mapped, rows = {number: self.maps[number] for number in np.unique(shards).tolist()}, []
        for index, number, local in zip(indices.tolist(), shards.tolist(), within.tolist(), strict=True):
            shard = mapped[number]
            begin, end = shard.offsets[local : local + 2].tolist()
            if not 0 <= begin <= end:
                raise self.maps.damaged(number, "rows that end before they begin")
            rows.append({"index": index, "input_ids": shard.ids[begin:end], "continuation": shard.marks[begin:end]})
        for number in mapped:  # one that was cut short meanwhile had zeros there
            self.maps[number]
        return rows

    @property
    def last_document(self) -> int:
        """The highest number of a source document, -1 without rows."""
        filled = np.flatnonzero(self.maps.rows)
        return int(self.maps[int(filled[-1])].documents[-1]) if len(filled) else -1

    def rows_of(self, documents: np.ndarray) -> np.ndarray:
        """Indices of all rows of documents by number, int64, both increasing. A look into each shard."""
        filled = np.flatnonzero(self.maps.rows)
        firsts = np.array([self.maps[number].documents[0] for number in filled.tolist()])

        def before(documents: np.ndarray) -> np.ndarray:
            """How many rows are of documents below each of these."""
            shards = filled[np.maximum(np.searchsorted(firsts, documents) - 1, 0)]
            rows = np.empty(len(documents), np.int64)
            for number in np.unique(shards).tolist():
                here = shards == number
                rows[here] = np.searchsorted(self.maps[number].documents, documents[here])
            return rows + self.first_rows[shards]

        begins = before(documents)
        sizes = before(documents + 1) - begins
        return np.repeat(begins - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())

    def shards(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """By shard: index of its first row, ids and continuation of all its rows end to end, offsets [rows + 1]."""
        for first, shard in zip(self.first_rows.tolist(), self.maps.whole(), strict=False):
            yield first, shard.ids, shard.marks, shard.offsets

    @property
    def is_grouped(self) -> bool:
        """Whether rows were cut from one stream of all documents, so that they begin anywhere and none is padded."""
        return self.manifest.get("settings", {}).get("line_by_line") is False

    @property
    def has_lines(self) -> bool:
        """Whether each row is a line of its document."""
        return bool(self.manifest.get("settings", {}).get("keep_lines"))

    def check_tokenizer(self, backend: Tokenizer, flag: str = "--tokenizer_name") -> None:
        """CorpusError naming `flag` unless the corpus was made with this tokenizer and holds ids of it alone.

        The ids of a corpus that is not small are looked at where its shards are checked.
        """
        maker = self.manifest["tokenizer"]
        if tokenizer_hash(backend) != maker["hash"]:
            raise CorpusError(
                f"{flag} must be the tokenizer that made {self.folder} ({maker['name']}, {maker['size']} entries), "
                f"got another one with {backend.get_vocab_size()} entries; name that one or prepare the corpus again"
            )
        self.maps.expect_ids(max(backend.get_vocab().values(), default=-1))

    def split_documents(self, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Split off a share of the documents, whole: (training rows, validation rows), int64, each sorted.

        At least one document lies on either side. CorpusError when the corpus has fewer than two, or its rows hold
        parts of several.
        """
        self.check_splittable()
        documents = np.unique(self.documents)
        if len(documents) < 2 or not 0 < share < 1:
            raise self.unsplittable(share, len(documents))
        count = min(max(round(share * len(documents)), 1), len(documents) - 1)
        held = np.random.default_rng(seed).permutation(documents)[:count]
        is_held = np.isin(self.documents, held)
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)

    def check_splittable(self) -> None:
        """CorpusError when rows hold parts of several documents."""
        if self.is_grouped:
            raise CorpusError(
                f"--validation_split must have rows of one document each, got {self.folder}, whose rows were joined; "
                "give it to create_data.py instead, and here --validation_dir with the folder validation of its output"
            )

    def unsplittable(self, share: float, documents: int) -> CorpusError:
        return CorpusError(
            f"--validation_split must lie between 0 and 1 and the corpus hold two documents or more, got {share} and "
            f"{documents} documents in {self.folder}; change the share or give --validation_dir"
        )

    def token_counts(self) -> np.ndarray:
        """How often each id occurs, specials included: int64 [V]."""
        highest = max((int(ids.max(initial=0)) for _, ids, _, _ in self.shards()), default=0)
        counts = np.zeros(max(self.manifest["tokenizer"]["size"], highest + 1), np.int64)
        for _, ids, _, _ in self.shards():
            counts += np.bincount(ids, minlength=len(counts))
        return counts


class AllBut:
    """The numbers below `rows` without some of them, in order: what an array of N numbers gives, in no memory.

    without: int64, increasing, of the numbers that are left out.
    """

    def __init__(self, rows: int, without: Sequence[int] | np.ndarray = ()):
        without = np.asarray(without, np.int64)
        self._rows = rows
        self._before = without - np.arange(len(without))  # how many numbers are kept below each

    def __len__(self) -> int:
        return self._rows - len(self._before)

    @property
    def without(self) -> np.ndarray:
        """int64, increasing, of the numbers that are left out."""
        return self._before + np.arange(len(self._before))

    def __getitem__(self, places) -> np.ndarray:
        """int64 places in 0..N-1 -> int64 numbers."""
        places = np.asarray(places, np.int64)
        return places + np.searchsorted(self._before, places, side="right")

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[np.arange(len(self))].astype(dtype or np.int64, copy=False)


class RowLengths:
    """Tokens of the used rows of a corpus: what an int64 array of N gives, read from the shards when asked for.

    indices: N numbers of rows of the corpus, an array or AllBut. is_small: whether all may be read at once.
    """

    def __init__(self, corpus: Corpus, indices: np.ndarray | AllBut):
        self._corpus, self._indices, self.is_small = corpus, indices, corpus.maps.is_small

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, places) -> np.ndarray:
        """int64 places in 0..N-1 -> int64 tokens."""
        return self._corpus.lengths_of(self._indices[places])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if self.is_small or isinstance(self._indices, AllBut):
            lengths = self._corpus.lengths[np.asarray(self._indices)]
        else:  # some of many rows
            lengths = self._corpus.lengths_of(self._indices)
        return lengths.astype(dtype or np.int64, copy=False)

    def max(self) -> int:
        """Tokens of the longest used row; of a corpus that is not small those that no row has more of."""
        return int(np.asarray(self).max()) if self.is_small else self._corpus.longest

    def mean(self) -> float:
        """Tokens of a used row on average; of a corpus that is not small those of any row."""
        return float(np.asarray(self).mean()) if self.is_small else self._corpus.mean_length


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

    def size_of(self, number: int) -> int:
        """Bytes of a shard."""
        return self._files[number][1].st_size

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
        return map(self.checked, range(len(self)))

    def checked(self, number: int) -> Shard:
        """A shard that is checked by now."""
        shard = self[number]
        if number not in self._checked:
            self._check(number)
        return shard

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
