"""A prepared corpus: a folder of Arrow shards of token ids with word marks, and a manifest that says how it was made.

Each shard is one Arrow IPC stream with one record batch, so that every column is a single array in the memory map.
The record of a shard (its counts) lies in the metadata of its schema: shard and record appear in one rename.

Letters: T tokens of a row, [CLS] and [SEP] included; R rows of the corpus; V entries of the vocabulary.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from common.errors import UserError
from data.outputs import atomic_output
from data.tokenization import tokenizer_hash

FORMAT = 1  # raised whenever the same input and settings give other bytes
MANIFEST = "manifest.json"
_RECORD_KEY = b"shard_record"


class CorpusError(UserError):
    """A corpus folder cannot be used as asked; the message starts with the flag that named it."""


def id_dtype(vocab_size: int) -> np.dtype:
    """Smallest of the two unsigned types of `input_ids` that holds every id of the vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def shard_name(number: int) -> str:
    return f"data-{number:05d}.arrow"


def write_arrow(path: Path, columns: dict[str, pa.Array], record: dict) -> None:
    """Write one shard whole or not at all: the columns as one record batch, the record in the schema's metadata."""
    schema = pa.schema([(name, column.type) for name, column in columns.items()])
    schema = schema.with_metadata({_RECORD_KEY: json.dumps(record, sort_keys=True).encode()})
    with atomic_output(path) as partial, pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
        out.write_batch(pa.record_batch(list(columns.values()), schema=schema))


def read_record(path: Path) -> dict:
    """Read the record of a shard without its columns."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return json.loads(stream.schema.metadata[_RECORD_KEY])


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


def read_shard(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Map a shard into memory: input_ids and continuation of all rows end to end, offsets [rows + 1], documents."""
    with pa.memory_map(str(path)) as source:  # the map outlives the open file, so shards cost no descriptors
        batch = pa.ipc.open_stream(source).read_next_batch()
    ids, marks = batch.column("input_ids"), batch.column("continuation")
    flat = (ids.values.to_numpy(), marks.values.to_numpy(), ids.offsets.to_numpy())
    return *flat, batch.column("document").to_numpy()


def dataset_info(folder: Path, shards: list[str]) -> None:
    """Write the two small files with which datasets.load_from_disk opens the shards as a Dataset."""
    features = {}
    if shards:
        with pa.OSFile(str(folder / shards[0])) as source, pa.ipc.open_stream(source) as stream:
            features = {field.name: _feature(field.type) for field in stream.schema}
    state = {
        "_data_files": [{"filename": name} for name in shards],
        "_fingerprint": hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:16],
        "_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False,
        "_split": None,
    }  # fmt: skip
    for name, content in (("dataset_info.json", {"features": features}), ("state.json", state)):
        with atomic_output(folder / name) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _feature(kind: pa.DataType) -> dict:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": str(kind), "_type": "Value"}


def write_manifest(folder: Path, manifest: dict) -> None:
    with atomic_output(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path, flag: str) -> dict:
    """Read a manifest. CorpusError naming `flag` when the folder holds none or one of another format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CorpusError(
            f"{flag} must name a corpus folder, got {str(folder)!r}; make one with "
            "run_chinese_ref.py or data/create_data.py"
        )
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise CorpusError(
            f"{flag} {folder} must have corpus format {FORMAT}, got {manifest.get('format')}; prepare the corpus again"
        )
    return manifest


class Corpus:
    """Random access to the rows of a finished corpus through memory maps; picklable, each process opens its own maps.

    Attributes: folder, manifest, lengths int32 [R] (specials included), documents int64 [R] (number of the source
    document, not decreasing).
    """

    def __init__(self, folder: str | Path, flag: str = "--train_dir"):
        """CorpusError naming `flag` when the folder is no corpus, or an unfinished or damaged one."""
        self.folder, self._flag = Path(folder), flag
        self.manifest = read_manifest(self.folder, flag)
        if not self.manifest["complete"]:
            raise CorpusError(
                f"{flag} {folder} must be a finished corpus, got one that is still being written or was stopped at; "
                "run the command that makes it again"
            )
        self._open()

    def _open(self) -> None:
        self._ids, self._marks, self._offsets, documents = [], [], [], [np.zeros(0, np.int64)]
        for shard in self.manifest["shards"]:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise CorpusError(
                    f"{self._flag} {self.folder} must hold {shard['file']} with {shard['bytes']} bytes, got "
                    f"{path.stat().st_size if path.is_file() else 'no such file'}; copy the folder again"
                )
            ids, marks, offsets, owners = read_shard(path)
            self._ids.append(ids)
            self._marks.append(marks)
            self._offsets.append(offsets)
            documents.append(owners)
        self.documents = np.concatenate(documents)
        self.lengths = np.concatenate([np.zeros(0, np.int32), *map(np.diff, self._offsets)])
        self._first_rows = np.cumsum([0] + [len(offsets) - 1 for offsets in self._offsets])

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "_flag": self._flag, "manifest": self.manifest}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, indices) -> list[dict]:
        """Rows by number [N] -> N dicts: sample (int), input_ids and continuation (read-only views [T] of the map)."""
        indices = np.asarray(indices, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}, got {indices.min()}..{indices.max()}")
        shards = np.searchsorted(self._first_rows, indices, side="right") - 1
        locals_ = indices - self._first_rows[shards]
        found = []
        for index, shard, local in zip(indices.tolist(), shards.tolist(), locals_.tolist(), strict=True):
            span = slice(*self._offsets[shard][local : local + 2].tolist())
            row = {"input_ids": self._ids[shard][span], "continuation": self._marks[shard][span]}
            found.append({"sample": index, **row})
        return found

    def shards(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """By shard: number of its first row, ids and continuation of all its rows end to end, offsets [rows + 1]."""
        yield from zip(self._first_rows.tolist(), self._ids, self._marks, self._offsets, strict=False)

    @property
    def is_grouped(self) -> bool:
        """Whether rows were cut from one stream of all documents, so that they begin anywhere and none is padded."""
        return self.manifest.get("settings", {}).get("line_by_line") is False

    @property
    def has_lines(self) -> bool:
        """Whether each row is a line of its document."""
        return bool(self.manifest.get("settings", {}).get("keep_lines"))

    def check_tokenizer(self, backend: Tokenizer, flag: str = "--tokenizer_name") -> None:
        """CorpusError naming `flag` unless the corpus was made with this tokenizer."""
        made = self.manifest["tokenizer"]
        if tokenizer_hash(backend) != made["hash"]:
            raise CorpusError(
                f"{flag} must be the tokenizer that made {self.folder} ({made['name']}, {made['size']} entries), got "
                f"another one with {backend.get_vocab_size()} entries; name that one or prepare the corpus again"
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
        numbers = np.unique(self.documents)
        if len(numbers) < 2 or not 0 < share < 1:
            raise CorpusError(
                f"--validation_split must lie between 0 and 1 and the corpus hold two documents or more, got {share} "
                f"and {len(numbers)} documents in {self.folder}; change the share or give --validation_dir"
            )
        count = min(max(round(share * len(numbers)), 1), len(numbers) - 1)
        held = np.random.default_rng(seed).permutation(numbers)[:count]
        is_held = np.isin(self.documents, held)
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)

    def token_counts(self) -> np.ndarray:
        """How often each id occurs, specials included: int64 [V]."""
        counts = np.zeros(self.manifest["tokenizer"]["size"], np.int64)
        for ids in self._ids:
            counts += np.bincount(ids, minlength=len(counts))
        return counts
