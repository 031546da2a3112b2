"""Damaged inputs of the data scripts are taken or told in one line that names the file, within seconds and memory."""

import json
import shutil

import pytest

from data.corpus import Corpus, shard_name
from data.tokenization import load_backend
from tests.fuzzing import LONG, SHORT, damaged_files, storm

AMOUNTS = [SHORT, pytest.param(LONG, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def corpus(write_corpus, bert_folder, tmp_path_factory):
    """(folder with sealed shards, the tokenizer's backend)."""
    tokenizer = bert_folder()
    return write_corpus(tmp_path_factory.mktemp("damage") / "corpus", tokenizer), load_backend(str(tokenizer), None)


def read_corpus(folder, backend):
    found = Corpus(folder)
    found.check_tokenizer(backend)
    found.rows(range(0, len(found), 7))
    found.token_counts()
    found.split_documents(0.2, seed=1)


@pytest.mark.parametrize("count", AMOUNTS)
@pytest.mark.parametrize("checked", [True, False])
def test_manifests(corpus, tmp_path, count, checked):
    """checked: whether the manifest holds its checksum, as those of today do."""
    folder, backend = shutil.copytree(corpus[0], tmp_path / "corpus"), corpus[1]
    file = folder / "manifest.json"
    manifest = json.loads(file.read_bytes())
    manifest |= {"settings": {"max_seq_length": 40, "line_by_line": True}, "inputs": []}
    manifest.pop("manifest_crc32")
    original = json.dumps(manifest).encode() if not checked else file.read_bytes()
    counts = storm(lambda: read_corpus(folder, backend), file, damaged_files(original, count), naming=str(folder))
    assert counts["refused"] > count / 3


@pytest.mark.parametrize("count", AMOUNTS)
@pytest.mark.parametrize("sealed", [True, False])
def test_shards(corpus, tmp_path, count, sealed):
    """sealed: whether shards end with a checksum, as those of today do."""
    folder, backend = shutil.copytree(corpus[0], tmp_path / "corpus"), corpus[1]
    file, manifest = folder / shard_name(0), json.loads((folder / "manifest.json").read_bytes())
    manifest.pop("manifest_crc32")
    manifest |= {"checksums": "crc32"} if sealed else {}
    original = file.read_bytes() if sealed else file.read_bytes()[:-8]
    inputs = [content for content in damaged_files(original, count) if content != original]

    def read():
        manifest["shards"][0]["bytes"] = file.stat().st_size
        (folder / "manifest.json").write_text(json.dumps(manifest))
        read_corpus(folder, backend)

    counts = storm(read, file, inputs, naming=str(folder))
    assert counts["taken"] <= (0 if sealed else count / 2)
