"""A prepared corpus: a folder of Arrow shards of token ids with word marks, and a manifest that says how it was made.

Each shard is one Arrow IPC stream with one record batch, so that every column is a single array in the memory map.
The record of a shard (its counts) lies in the metadata of its schema: shard and record appear in one rename. The
manifest has the CRC-32 of every shard; while a corpus is made, a journal in the folder of the shards has them.

Letters: T tokens of a row, [CLS] and [SEP] included; R rows of the corpus; V entries of the vocabulary.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from common.errors import UserError
from data.foreign import foreign_errors
from data.outputs import atomic_output
from data.tokens.tokenizer_files import tokenizer_hash

FORMAT = 1  # raised whenever the same input and settings give other bytes
MANIFEST = "manifest.json"
_RECORD_KEY = b"shard_record"
_CHECKSUMS = "crc32"  # key of a manifest: of all but itself and `complete`, and of files
_JOURNAL = ".checksums"  # lines of a name and the CRC-32 that the file has, or had when it was written before
_END = b"\xff\xff\xff\xff\0\0\0\0"  # how every Arrow stream ends
_MOST = 1 << 24  # entries of a vocabulary and tokens of a row: what is more comes from a damaged manifest
_THREADS = 8  # that read shards to check them
_FORM = {  # of the keys of a manifest; more of them may be there
    "complete": bool,
    "tokenizer": {"name": str, "hash": str, "size": int},
    "inputs": [{"file": str, "bytes": int, "sha256": str}],
    "settings": {},
    "shards": [{"file": str, "bytes": int}],
}


class CorpusError(UserError):
    """A corpus folder cannot be used as asked; the message starts with the flag that named it, or the file in it."""


def id_dtype(vocab_size: int) -> np.dtype:
    """Smallest of the two unsigned types of `input_ids` that holds every id of the vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def shard_name(number: int) -> str:
    return f"data-{number:05d}.arrow"


def write_arrow(path: Path, columns: dict[str, pa.Array], record: dict) -> None:
    """Write one shard whole or not at all: the columns as one record batch, the record in the schema's metadata."""
    schema = pa.schema([(name, column.type) for name, column in columns.items()])
    schema = schema.with_metadata({_RECORD_KEY: json.dumps(record, sort_keys=True).encode()})
    with atomic_output(path, parents=False) as partial:
        with pa.OSFile(os.fsencode(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
            out.write_batch(pa.record_batch(list(columns.values()), schema=schema))
        with (path.parent / _JOURNAL).open("ab") as journal:
            journal.write(f"{path.name} {checksum(partial)}\n".encode())


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    crc, buffer = 0, memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = zlib.crc32(buffer[:count], crc)
    return crc


def known_checksums(folder: Path) -> dict[Path, set[int]]:
    """By file, what its checksum may be, of the manifest and the journals; files that they do not name are absent."""
    known: dict[Path, set[int]] = {}
    for name, crc in _load_manifest(folder, "--output_dir")[1].items():
        known.setdefault(folder / name, set()).add(crc)
    for journal in (folder / _JOURNAL, *folder.glob(f"*/{_JOURNAL}")):
        for line in journal.read_bytes().split(b"\n") if journal.is_file() else ():
            name, _, crc = line.decode(errors="replace").partition(" ")
            if crc.isdecimal():
                known.setdefault(journal.parent / name, set()).add(int(crc))
    return known


def drop_journals(folder: Path) -> None:
    """Remove the journals of a corpus whose manifest has the checksums."""
    for journal in (folder / _JOURNAL, *folder.glob(f"*/{_JOURNAL}")):
        journal.unlink(missing_ok=True)


def _whole_shard(path: Path):
    cure = "copy it again, or remove it and run the command that made the corpus again"
    return foreign_errors(path, "a whole shard of a corpus", cure, CorpusError)


def read_arrow(path: Path) -> tuple[dict, pa.RecordBatch, int]:
    """Map a file of `write_arrow` into memory: its record, its columns, its bytes. CorpusError when it is damaged.

    The columns are checked as far as reading them must not lead outside of the file.
    """
    with _whole_shard(path), pa.memory_map(os.fsencode(path)) as source:  # the map outlives the open file
        size = source.size()
        if source.read_at(8, max(size - 8, 0)) != _END:
            raise ValueError(f"no end of an Arrow stream behind {size} bytes")
        stream = pa.ipc.open_stream(source, options=pa.ipc.IpcReadOptions(use_threads=False))
        record = json.loads((stream.schema.metadata or {})[_RECORD_KEY])
        batch = stream.read_next_batch()
        batch.validate(full=True)
        if not isinstance(record, dict) or any(column.null_count for column in batch.columns):
            raise ValueError("a record or columns of another form")
    return record, batch, size


def check_sum(path: Path, known: set[int] | None) -> int:
    """Return the checksum of a file. CorpusError when it is none of those that are known, if any are."""
    with _whole_shard(path):
        crc = checksum(path)
        if known is not None and crc not in known:
            raise ValueError("another checksum than it was written with")
    return crc


def list_array(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    """Rows of `lengths` items over the flat `values`, without a copy of the values."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def write_shard(
    path: Path,
    input_ids: np.ndarray,
    continuation: np.ndarray,
    lengths: np.ndarray,
    documents: np.ndarray,
    record: dict,
) -> None:
    """Write one shard of a corpus.

    input_ids: uint16 or uint32 [sum of lengths], specials included; continuation: uint8, same shape, 1 where a token
    continues the word of the token before it; lengths: int [rows]; documents: int [rows], number of the source
    document of each row; record: counts of this shard, anything JSON holds.
    """
    columns = {
        "input_ids": list_array(input_ids, lengths),
        "continuation": list_array(np.asarray(continuation, np.uint8), lengths),
        "document": pa.array(np.asarray(documents, np.int64)),
    }
    write_arrow(path, columns, record)


class Shard(NamedTuple):
    """A shard in memory, mapped: read-only columns, all rows end to end; bytes of the file."""

    record: dict
    ids: np.ndarray  # uint16 or uint32 [sum of lengths]
    marks: np.ndarray  # uint8, likewise
    offsets: np.ndarray  # int32 [rows + 1]
    documents: np.ndarray  # int64 [rows], not decreasing
    bytes: int


def read_shard(path: Path) -> Shard:
    """Map a shard into memory. CorpusError when it is damaged, as far as a look at its rows' ends tells."""
    record, batch, size = read_arrow(path)
    kinds = {str(field.type) for field in batch.schema}
    with _whole_shard(path):
        if batch.schema.names != ["input_ids", "continuation", "document"] or not any(
            kinds == {f"list<item: {ids}>", "list<item: uint8>", "int64"} for ids in ("uint16", "uint32")
        ):
            raise ValueError(f"columns {', '.join(map(str, batch.schema))}")
        ids, marks, documents = batch.columns
        offsets = ids.offsets.to_numpy()
        if not np.array_equal(offsets, marks.offsets) or offsets[0] != 0 or offsets[-1] != len(ids.values):
            raise ValueError("rows that end elsewhere than their tokens")
        if ids.values.null_count or marks.values.null_count or len(ids.values) != len(marks.values):
            raise ValueError("tokens without an id or a mark")
        documents = documents.to_numpy()
        if len(documents) and (documents[0] < 0 or np.diff(documents).min(initial=0) < 0):
            raise ValueError("documents out of order")
        return Shard(record, ids.values.to_numpy(), marks.values.to_numpy(), offsets, documents, size)


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
        fault = _misfit(sums, {"manifest": int, "files": {}}, _CHECKSUMS)
        if fault is None and sums["manifest"] != _manifest_checksum(manifest, sums["files"]):
            fault = "another one than was written"
        sums = sums["files"] if fault is None else {}
    fault = fault or _manifest_fault(manifest)
    if fault is not None:
        raise CorpusError(
            f"{flag} {path} must be the manifest of a corpus, got a damaged one ({fault}); copy it again, or prepare "
            "the corpus again in a new folder"
        )
    return manifest, sums


def _manifest_fault(manifest: dict) -> str | None:
    """What is wrong in a manifest, None for nothing."""
    needed = {"complete", "tokenizer", *(["shards"] if manifest.get("complete") else [])}
    for key in needed - manifest.keys():
        return f"without {key}"
    for key in _FORM.keys() & manifest.keys():
        if fault := _misfit(manifest[key], _FORM[key], key):
            return fault
    for index, shard in enumerate(manifest.get("shards", [])):
        if shard["file"] != shard_name(index):
            return f"shards[{index}].file is not {shard_name(index)}"
    for where, value in (
        ("tokenizer.size", manifest["tokenizer"]["size"]),
        ("settings.max_seq_length", manifest.get("settings", {}).get("max_seq_length", 1)),
    ):
        if type(value) is not int or not 0 < value <= _MOST:
            return f"{where} is {value!r:.60}"
    return None


def _misfit(value, form, where: str) -> str | None:
    """Where a JSON value has another form: a type, or a container whose keys are needed or whose items are alike."""
    if isinstance(form, type):
        fits = type(value) is form and (form is not int or 0 <= value < 1 << 63)
        return None if fits else f"{where} is {value!r:.60}"
    if type(value) is not type(form):
        return f"{where} is {value!r:.60}"
    if isinstance(form, list):
        faults = (_misfit(item, form[0], f"{where}[{index}]") for index, item in enumerate(value))
    else:
        faults = (
            _misfit(value[key], form[key], f"{where}.{key}") if key in value else f"{where} without {key}"
            for key in form
        )
    return next(filter(None, faults), None)


class Corpus:
    """Random access to the rows of a finished corpus through memory maps; picklable, each process opens its own maps.

    Attributes: folder, manifest, lengths int32 [R] (specials included), documents int64 [R] (number of the source
    document, not decreasing).
    """

    def __init__(self, folder: str | Path, flag: str = "--train_dir"):
        """CorpusError naming `flag` when the folder is no corpus, or an unfinished or damaged one."""
        self.folder, self._flag = Path(folder), flag
        self.manifest, sums = _load_manifest(self.folder, flag)
        if not self.manifest["complete"]:
            raise CorpusError(
                f"{flag} {folder} must be a finished corpus, got one that is still being written or was stopped at; "
                "run the command that makes it again"
            )
        self._open()
        self._check(sums)

    def _open(self) -> None:
        self._shards, self._files = [], []
        for shard in self.manifest["shards"]:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise CorpusError(
                    f"{self._flag} {self.folder} must hold {shard['file']} with {shard['bytes']} bytes, got "
                    f"{path.stat().st_size if path.is_file() else 'no such file'}; copy the folder again"
                )
            self._shards.append(read_shard(path))
            self._files.append((os.fspath(path), path.stat()))
        self.documents = np.concatenate([np.zeros(0, np.int64), *(shard.documents for shard in self._shards)])
        self.lengths = np.concatenate([np.zeros(0, np.int32), *(np.diff(shard.offsets) for shard in self._shards)])
        self._first_rows = np.cumsum([0] + [len(shard.documents) for shard in self._shards])

    def _check(self, sums: dict[str, int]) -> None:
        """Read all shards of known checksums once. CorpusError when one is not as it was written."""
        names = [shard["file"] for shard in self.manifest["shards"] if shard["file"] in sums]
        with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)))) as pool:  # crc32 lets others run
            list(pool.map(check_sum, (self.folder / name for name in names), ({sums[name]} for name in names)))
        if np.diff(self.documents).min(initial=0) < 0:
            raise CorpusError(
                f"{self._flag} {self.folder} must hold documents one after the other, got shards of several corpora; "
                "copy the folder again"
            )

    def _still_whole(self, shard: int) -> None:
        """CorpusError when a shard was cut short since it was opened; to read on would end the process.

        One that was removed or replaced is still there for us.
        """
        path, before = self._files[shard]
        try:
            now = os.stat(path)
        except OSError:
            return
        if os.path.samestat(now, before) and now.st_size != before.st_size:
            raise CorpusError(
                f"{self._flag} {self.folder} must stay as it is while it is read, got {os.path.basename(path)} with "
                f"{now.st_size} bytes that had {before.st_size}; copy the folder again and run the same command again"
            )

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "_flag": self._flag, "manifest": self.manifest}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, indices) -> list[dict]:
        """Rows by index [N] -> N dicts: index (int), input_ids and continuation (read-only views [T] of the map)."""
        indices = np.asarray(indices, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}, got {indices.min()}..{indices.max()}")
        shards = np.searchsorted(self._first_rows, indices, side="right") - 1
        locals_ = indices - self._first_rows[shards]
        rows = []
        for shard in np.unique(shards).tolist():
            self._still_whole(shard)
        for index, shard, local in zip(indices.tolist(), shards.tolist(), locals_.tolist(), strict=True):
            mapped = self._shards[shard]
            span = slice(*mapped.offsets[local : local + 2].tolist())
            rows.append({"index": index, "input_ids": mapped.ids[span], "continuation": mapped.marks[span]})
        return rows

    def shards(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """By shard: index of its first row, ids and continuation of all its rows end to end, offsets [rows + 1]."""
        for index, shard in enumerate(self._shards):
            self._still_whole(index)
            yield int(self._first_rows[index]), shard.ids, shard.marks, shard.offsets

    @property
    def is_grouped(self) -> bool:
        """Whether rows were cut from one stream of all documents, so that they begin anywhere and none is padded."""
        return self.manifest.get("settings", {}).get("line_by_line") is False

    @property
    def has_lines(self) -> bool:
        """Whether each row is a line of its document."""
        return bool(self.manifest.get("settings", {}).get("keep_lines"))

    def check_tokenizer(self, backend: Tokenizer, flag: str = "--tokenizer_name") -> None:
        """CorpusError naming `flag` unless the corpus was made with this tokenizer and holds ids of it alone."""
        maker = self.manifest["tokenizer"]
        if tokenizer_hash(backend) != maker["hash"]:
            raise CorpusError(
                f"{flag} must be the tokenizer that made {self.folder} ({maker['name']}, {maker['size']} entries), "
                f"got another one with {backend.get_vocab_size()} entries; name that one or prepare the corpus again"
            )
        highest = max(backend.get_vocab().values(), default=-1)
        for number, (_, ids, marks, _) in enumerate(self.shards()):
            if ids.max(initial=0) > highest or marks.max(initial=0) > 1:
                raise CorpusError(
                    f"{self.folder / shard_name(number)} must hold ids up to {highest} and marks of 0 and 1, got "
                    f"{ids.max()} and {marks.max()}; prepare the corpus again"
                )

    def split_documents(self, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Split off a share of the documents, whole: (training rows, validation rows), int64, each sorted.

        At least one document lies on either side. CorpusError when the corpus has fewer than two, or its rows hold
        parts of several.
        """
        if self.is_grouped:
            raise CorpusError(
                f"--validation_split must have rows of one document each, got {self.folder}, whose rows were joined; "
                "give it to create_data.py instead, and here --validation_dir with the folder validation of its output"
            )
        documents = np.unique(self.documents)
        if len(documents) < 2 or not 0 < share < 1:
            raise CorpusError(
                f"--validation_split must lie between 0 and 1 and the corpus hold two documents or more, got {share} "
                f"and {len(documents)} documents in {self.folder}; change the share or give --validation_dir"
            )
        count = min(max(round(share * len(documents)), 1), len(documents) - 1)
        held = np.random.default_rng(seed).permutation(documents)[:count]
        is_held = np.isin(self.documents, held)
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)

    def token_counts(self) -> np.ndarray:
        """How often each id occurs, specials included: int64 [V]."""
        highest = max((int(ids.max(initial=0)) for _, ids, _, _ in self.shards()), default=0)
        counts = np.zeros(max(self.manifest["tokenizer"]["size"], highest + 1), np.int64)
        for _, ids, _, _ in self.shards():
            counts += np.bincount(ids, minlength=len(counts))
        return counts
