"""Files that are packed, an empty file system in memory, and a corpus of JSON lines that lie in either."""

import bz2
import gzip
import json
from contextlib import contextmanager

import fsspec
import pyarrow as pa

import run_chinese_ref

TEXTS = [f"第{number}篇：北京大学研究生命起源，今天天气很好。" for number in range(200)]


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd}


def pack(path, suffix):
    """Put a packed file in the place of a plain one."""
    path.with_name(path.name + suffix).write_bytes(PACKERS[suffix](path.read_bytes()))
    path.unlink()


@contextmanager
def empty_memory():
    """fsspec's file system in memory, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


def write_lines(folder):
    """A folder of JSON lines in two files."""
    folder.mkdir()
    for name, texts in (("a", TEXTS[:120]), ("b", TEXTS[120:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def corpus(source, output, vocabulary, *flags):
    words = ["--input_path", source, "--output_dir", output, "--model_name", vocabulary, "--workers", 1]
    run_chinese_ref.main(list(map(str, [*words, "--max_seq_length", 64, *flags])))
