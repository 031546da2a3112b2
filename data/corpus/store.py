"""A prepared corpus: a folder of Arrow shards of token ids with word marks, and a manifest that says how it was made.

The manifest has the CRC-32 of every shard; while a corpus is made, a journal in the folder of the shards has them.

Letters: T tokens of a row, [CLS] and [SEP] included; R rows of the corpus; V entries of the vocabulary.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from data.corpus.arrow_shards import JOURNAL, CorpusError, id_dtype, shard_name
from data.corpus.manifest_form import manifest_fault, misfit
from data.corpus.shard_maps import ShardMaps
from data.outputs import atomic_output
from data.tokens.tokenizer_files import tokenizer_hash

FORMAT = 1  # raised whenever the same input and settings give other bytes
MANIFEST = "manifest.json"
_CHECKSUMS = "crc32"  # key of a manifest: of all but itself and `complete`, and of files


def known_checksums(folder: Path) -> dict[Path, set[int]]:
    """By file, what its checksum may be, of the manifest and the journals; files that they do not name are absent."""
    known: dict[Path, set[int]] = {}
    for name, crc in _load_manifest(folder, "--output_dir")[1].items():
        known.setdefault(folder / name, set()).add(crc)
    for journal in (folder / JOURNAL, *folder.glob(f"*/{JOURNAL}")):
        for line in journal.read_bytes().split(b"\n") if journal.is_file() else ():
            name, _, crc = line.decode(errors="replace").partition(" ")
            if crc.isdecimal():
                known.setdefault(journal.parent / name, set()).add(int(crc))
    return known


def drop_journals(folder: Path) -> None:
    """Remove the journals of a corpus whose manifest has the checksums."""
    for journal in (folder / JOURNAL, *folder.glob(f"*/{JOURNAL}")):
        journal.unlink(missing_ok=True)


def dataset_info(folder: Path, shards: list[str]) -> None:
    """Write the two small files with which datasets.load_from_disk opens the shards as a Dataset."""
    features = {}
    if shards:
        with pa.OSFile(os.fsencode(folder / shards[0])) as source, pa.ipc.open_stream(source) as stream:
            features = {field.name: _feature(field.type) for field in stream.schema}
    state = {
        "_data_files": [{"filename": name} for name in shards],
        "_fingerprint": hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    for name, content in (("dataset_info.json", {"features": features}), ("state.json", state)):
        with atomic_output(folder / name) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _feature(kind: pa.DataType) -> dict:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": str(kind), "_type": "Value"}


def write_manifest(folder: Path, manifest: dict, checksums: dict[str, int] | None = None) -> None:
    """checksums: of files in the folder, by their names there."""
    checksums = checksums or {}
    manifest = manifest | {_CHECKSUMS: {"manifest": _manifest_checksum(manifest, checksums), "files": checksums}}
    with atomic_output(folder / MANIFEST, parents=False) as partial:
        text = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
        partial.write_text(text, "utf-8", "backslashreplace")  # JSON's escapes for names of files that are not UTF-8


def _manifest_checksum(manifest: dict, checksums: dict[str, int]) -> int:
    return zlib.crc32(json.dumps([manifest | {"complete": True}, checksums], sort_keys=True).encode())


def read_manifest(folder: Path, flag: str) -> dict:
    """Read a manifest. CorpusError naming `flag` when the folder holds none, a damaged one or another format's."""
    return _load_manifest(folder, flag)[0]


def _load_manifest(folder: Path, flag: str) -> tuple[dict, dict[str, int]]:
    """The manifest, and the checksums of files by name, which are no part of it: those made before have none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CorpusError(
            f"{flag} must name a corpus folder, got {str(folder)!r}; make one with "
            "run_chinese_ref.py or data/create_data.py"
        )
    try:
        manifest = json.loads(path.read_bytes())
        fault = None if isinstance(manifest, dict) else f"a {type(manifest).__name__}"
    except (ValueError, RecursionError) as error:
        fault = str(error)
    if fault is None and manifest.get("format") != FORMAT:
        raise CorpusError(
            f"{flag} {path} must have corpus format {FORMAT}, got {manifest.get('format')!r:.60}; prepare the corpus "
            "again"
        )
    sums = {}
    if fault is None and _CHECKSUMS in manifest:
        sums = manifest.pop(_CHECKSUMS)
        fault = misfit(sums, {"manifest": int, "files": {}}, _CHECKSUMS)
        if fault is None and sums["manifest"] != _manifest_checksum(manifest, sums["files"]):
            fault = "another one than was written"
        sums = sums["files"] if fault is None else {}
    fault = fault or manifest_fault(manifest, shard_name)
    if fault is not None:
        raise CorpusError(
            f"{flag} {path} must be the manifest of a corpus, got a damaged one ({fault}); copy it again, or prepare "
            "the corpus again in a new folder"
        )
    return manifest, sums


class Corpus:
    """Random access to the rows of a finished corpus through memory maps; picklable, each process opens its own maps.

    Opening one takes a time and memory that do not grow with its rows: their numbers are those of the manifest.

    Attributes: folder, manifest, maps (ShardMaps).
    """

    def __init__(self, folder: str | Path, flag: str = "--train_dir"):
        """CorpusError naming `flag` when the folder is no corpus, or an unfinished or damaged one."""
        self.folder, self._flag = Path(folder), flag
        self.manifest, self._sums = _load_manifest(self.folder, flag)
        if not self.manifest["complete"]:
            raise CorpusError(
                f"{flag} {folder} must be a finished corpus, got one that is still being written or was stopped at; "
                "run the command that makes it again"
            )
        self._open(check=True)

    def _open(self, check: bool) -> None:
        self.maps = ShardMaps(self.folder, self._flag, self.manifest["shards"], self._sums, check)
        self._first_rows = np.cumsum([0, *self.maps.rows])

    def __getstate__(self) -> dict:
        return {name: self.__dict__[name] for name in ("folder", "_flag", "manifest", "_sums")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open(check=False)

    def __len__(self) -> int:
        return int(self._first_rows[-1])

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
        token = id_dtype(self.manifest["tokenizer"]["size"]).itemsize + 1
        return (self.maps.bytes / len(self) - 16) / token

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows by index -> their shards, and which rows of these they are."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}, got {indices.min()}..{indices.max()}")
        shards = np.searchsorted(self._first_rows, indices, side="right") - 1
        return shards, indices - self._first_rows[shards]

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """Tokens of rows by index, int64 [N] -> int64 [N]; reads nothing else."""
        shards, within = self._places(indices)
        lengths, order = np.empty(len(indices), np.int64), np.argsort(shards, kind="stable")
        numbers, firsts = np.unique(shards[order], return_index=True)
        for number, members in zip(numbers.tolist(), np.split(order, firsts[1:]), strict=True):
            offsets, rows = self.maps[number].offsets, within[members]
            lengths[members] = offsets[rows + 1] - offsets[rows]
        if lengths.min(initial=0) < 0:
            raise self.maps.damaged(int(shards[lengths.argmin()]), "rows that end before they begin")
        return lengths

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
            return rows + self._first_rows[shards]

        begins = before(documents)
        sizes = before(documents + 1) - begins
        return np.repeat(begins - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())

    def shards(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """By shard: index of its first row, ids and continuation of all its rows end to end, offsets [rows + 1]."""
        for first, shard in zip(self._first_rows.tolist(), self.maps.whole(), strict=False):
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
