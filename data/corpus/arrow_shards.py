"""One shard of a corpus, which is a file: written whole or not at all, mapped into memory, and checked.

A shard is one Arrow IPC stream with one record batch, so that every column is a single array in the memory map. Its
record (its counts) lies in the metadata of its schema: shard and record appear in one rename. While a corpus is made,
a journal in the folder has the CRC-32 of every shard.
"""

import ctypes
import json
import mmap
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from common.errors import UserError
from data.foreign import foreign_errors
from data.outputs import atomic_output

JOURNAL = ".checksums"  # lines of a name and the CRC-32 that the file has, or had when it was written before
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_RECORD_KEY = b"shard_record"
_END = b"\xff\xff\xff\xff\0\0\0\0"  # how every Arrow stream ends


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
        with (path.parent / JOURNAL).open("ab") as journal:
            journal.write(f"{path.name} {checksum(partial)}\n".encode())


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    crc, buffer = 0, memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = zlib.crc32(buffer[:count], crc)
    return crc


def _whole_shard(path: Path):
    cure = "copy it again, or remove it and run the command that made the corpus again"
    return foreign_errors(path, "a whole shard of a corpus", cure, CorpusError)


class _Map:
    """A file mapped into memory, read-only, without a descriptor: Python's mmap would keep one open for each shard.

    And without reading ahead: Arrow's own maps ask the disk for the whole file, of which a few rows are wanted.
    """

    def __init__(self, path: Path):
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            flags = ctypes.c_size_t(self.size), mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), ctypes.c_long(0)
            self.address = _LIBC.mmap(None, *flags)
        if self.address == ctypes.c_void_p(-1).value:
            self.address = None
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        _LIBC.madvise(ctypes.c_void_p(self.address), ctypes.c_size_t(self.size), mmap.MADV_RANDOM)

    def __del__(self):
        if self.address is not None:
            _LIBC.munmap(ctypes.c_void_p(self.address), ctypes.c_size_t(self.size))


def _source(path: Path, whole: bool) -> pa.NativeFile:
    if whole:
        return pa.memory_map(os.fsencode(path))
    mapped = _Map(path)
    return pa.BufferReader(pa.foreign_buffer(mapped.address, mapped.size, base=mapped))


def read_arrow(path: Path, whole: bool = True) -> tuple[dict, pa.RecordBatch, int]:
    """Map a file of `write_arrow` into memory: its record, its columns, its bytes. CorpusError when it is damaged.

    whole: check the columns as far as reading them must not lead outside of the file, which looks at the ends of all
    rows; otherwise the sizes of the columns, in a time that does not depend on them.
    """
    with _whole_shard(path), _source(path, whole) as source:  # the map outlives the open file
        size = source.size()
        if source.read_at(8, max(size - 8, 0)) != _END:
            raise ValueError(f"no end of an Arrow stream behind {size} bytes")
        stream = pa.ipc.open_stream(source, options=pa.ipc.IpcReadOptions(use_threads=False))
        record = json.loads((stream.schema.metadata or {})[_RECORD_KEY])
        batch = stream.read_next_batch()
        batch.validate(full=whole)
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
    return pa.ListArray.from_arrays(_array(offsets), _array(values))


def _array(values: np.ndarray) -> pa.Array:
    """The numbers themselves as a column: pa.array imports pandas, for 0.2 CPU-seconds and 40 MB a process."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


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
        "document": _array(np.asarray(documents, np.int64)),
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


def read_shard(path: Path, whole: bool = True) -> Shard:
    """Map a shard into memory. CorpusError when it is damaged, as far as a look at its rows' ends tells.

    whole: look at all of them; otherwise the reader looks at those of the rows that it reads.
    """
    record, batch, size = read_arrow(path, whole)
    kinds = {str(field.type) for field in batch.schema}
    with _whole_shard(path):
        if batch.schema.names != ["input_ids", "continuation", "document"] or not any(
            kinds == {f"list<item: {ids}>", "list<item: uint8>", "int64"} for ids in ("uint16", "uint32")
        ):
            raise ValueError(f"columns {', '.join(map(str, batch.schema))}")
        ids, marks, documents = batch.columns
        offsets, marked = _flat(ids.offsets), _flat(marks.offsets)
        if offsets[0] != 0 or offsets[-1] != len(ids.values) or (whole and not np.array_equal(offsets, marked)):
            raise ValueError("rows that end elsewhere than their tokens")
        if ids.values.null_count or marks.values.null_count or len(ids.values) != len(marks.values):
            raise ValueError("tokens without an id or a mark")
        documents = _flat(documents)
        if len(documents) and (documents[0] < 0 or (whole and np.diff(documents).min(initial=0) < 0)):
            raise ValueError("documents out of order")
        return Shard(record, _flat(ids.values), _flat(marks.values), offsets, documents, size)


def _flat(numbers: pa.Array) -> np.ndarray:
    """The map itself, without nulls; Array.to_numpy imports pandas, which takes a second and 40 MB."""
    buffer, dtype = numbers.buffers()[1], numbers.type.to_pandas_dtype()
    if not len(numbers):
        return np.zeros(0, dtype)
    return np.frombuffer(buffer, dtype, len(numbers), numbers.offset * np.dtype(dtype).itemsize)
