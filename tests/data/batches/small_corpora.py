"""Corpora of a few short rows, with a shard or more, for the tests of what is made of their rows."""

import numpy as np

from data.batches.sampling import PlainRows
from data.corpus.arrow_shards import shard_name, write_shard
from data.corpus.manifest import FORMAT, write_manifest
from data.corpus.store import AllBut, Corpus
from data.tokens.tokenizer_files import tokenizer_hash


def framed(backend, text):
    return backend.encode(text).ids


def write(folder, backend, documents, shards=1, **manifest_settings):
    """A corpus of documents, each a list of texts that are the rows; continuation marks are those of ##."""
    rows = [(number, framed(backend, text)) for number, texts in enumerate(documents) for text in texts]
    folder.mkdir()
    described = []
    for number, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        ids = [token for row in part for token in rows[row][1]]
        marks = [backend.id_to_token(token).startswith("##") for token in ids]
        lengths = np.array([len(rows[row][1]) for row in part], np.int64)
        path = folder / shard_name(number)
        owners = np.array([rows[row][0] for row in part])
        write_shard(path, np.array(ids, np.uint16), np.array(marks, np.uint8), lengths, owners, {})
        described.append({"file": path.name, "bytes": path.stat().st_size, "blocks": len(part)})
    tokenizer = {"name": "tiny", "size": backend.get_vocab_size(), "hash": tokenizer_hash(backend)}
    manifest = {"format": FORMAT, "complete": True, "tokenizer": tokenizer, "shards": described}
    write_manifest(folder, manifest | {"settings": manifest_settings})
    return Corpus(folder)


def random_documents(seed, count=40):
    rng = np.random.default_rng(seed)
    sentences = ["我爱北京。", "你好吗？", "研究生命起源，", "“今天气很好！”", "天安门", "abc 3.14 cafe.", "云计算；"]

    def row():
        return "".join(rng.choice(sentences, rng.integers(1, 5)))

    return [[row() for _ in range(rng.integers(1, 4))] for _ in range(count)]


def every(corpus):
    return PlainRows(corpus, AllBut(len(corpus)))
