"""Damaged inputs of the data scripts are taken or told in one line that names the file, within seconds and memory."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet
import pytest

import run_chinese_ref
from data import trans_to_json
from data.corpus import store
from data.corpus.arrow_shards import checksum, shard_name
from data.corpus.manifest import write_manifest
from data.corpus.store import Corpus
from data.corpus.table_inputs import open_dataset, open_files
from data.tasks.rows import read_rows
from data.tokens.tokenizer_files import load_backend
from tests.fuzzing import LONG, SHORT, damaged_files, storm

AMOUNTS = [SHORT, pytest.param(LONG, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def corpus(write_corpus, bert_folder, tmp_path_factory):
    """(folder, the tokenizer's backend)."""
    tokenizer = bert_folder()
    return write_corpus(tmp_path_factory.mktemp("damage") / "corpus", tokenizer), load_backend(str(tokenizer), None)


def read_corpus(folder, backend):
    corpus = Corpus(folder)
    corpus.check_tokenizer(backend)
    corpus.rows(range(0, len(corpus), 7))
    corpus.token_counts()
    corpus.split_documents(0.2, seed=1)


@pytest.mark.parametrize("count", AMOUNTS)
@pytest.mark.parametrize("checked", [True, False])
def test_manifests(corpus, tmp_path, count, checked):
    """checked: whether the manifest holds its checksum, as those of today do."""
    folder, backend = shutil.copytree(corpus[0], tmp_path / "corpus"), corpus[1]
    file = folder / "manifest.json"
    manifest = json.loads(file.read_bytes())
    manifest |= {"settings": {"max_seq_length": 40, "line_by_line": True}, "inputs": []}
    manifest.pop("crc32")
    original = json.dumps(manifest).encode() if not checked else file.read_bytes()
    counts = storm(lambda: read_corpus(folder, backend), file, damaged_files(original, count), naming=str(folder))
    assert counts["refused"] > count / 3


@pytest.mark.parametrize("count", AMOUNTS)
@pytest.mark.parametrize(("summed", "small"), [(True, True), (False, True), (True, False), (False, False)])
def test_shards(corpus, tmp_path, monkeypatch, count, summed, small):
    """summed: whether the manifest has the checksum of the shard, as those of today have; small: checked at once."""
    monkeypatch.setattr(store, "SMALL", 1 << 30 if small else 0)
    folder, backend = shutil.copytree(corpus[0], tmp_path / "corpus"), corpus[1]
    file, manifest = folder / shard_name(0), json.loads((folder / "manifest.json").read_bytes())
    manifest.pop("crc32")
    sums, original = {file.name: checksum(file)} if summed else {}, file.read_bytes()
    inputs = [content for content in damaged_files(original, count) if content != original]

    def read():
        manifest["shards"][0]["bytes"] = file.stat().st_size
        write_manifest(folder, manifest, sums)
        read_corpus(folder, backend)

    counts = storm(read, file, inputs, naming=str(folder))
    assert counts["taken"] <= (0 if summed else count / 2)


TEXTS = ["研究生命起源", None, 'a "quoted" text, and\nlines', "", "北京大学 \\u4e00", "x" * 300]


@pytest.mark.parametrize("count", AMOUNTS)
@pytest.mark.parametrize("script", ["run_chinese_ref", "trans_to_json"])
def test_json_lines(bert_folder, tmp_path, count, script):
    file, out = tmp_path / "in.jsonl", tmp_path / "out"
    lines = (json.dumps({"id": number, "text": text or "空"}) for number, text in enumerate(TEXTS))
    original = "".join(f"{line}\n" for line in lines).encode()
    flags = ["--json_field=text", f"--output_path={out}", "--no-merge", "--min_doc_length=0"]
    if script == "run_chinese_ref":
        flags = [f"--model_name={bert_folder()}", f"--output_dir={out}", "--segmenter=basic", "--workers=1"]
    main = {"run_chinese_ref": run_chinese_ref, "trans_to_json": trans_to_json}[script].main

    def read():
        shutil.rmtree(out, ignore_errors=True)
        main([f"--input_path={file}", *flags])

    counts = storm(read, file, damaged_files(original, count))
    assert counts["taken"] and counts["refused"]


def read_texts(source):
    _, units = source.scan()
    return [source.text(content, where) for unit in units for _, content, where in source.raw(unit)]


@pytest.mark.parametrize("count", AMOUNTS)
@pytest.mark.parametrize("reader", ["corpus", "tasks"])
@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_parquet(tmp_path, count, reader, compression):
    file, table = tmp_path / "in.parquet", pa.table({"id": range(60), "text": TEXTS * 10})
    pa.parquet.write_table(table, file, row_group_size=25, compression=compression)

    def read():
        if reader == "tasks":
            return list(read_rows(file))
        return read_texts(open_files([file], "text", str(tmp_path / "cache")))

    assert len(read()) == (60 if reader == "tasks" else 40)
    counts = storm(read, file, damaged_files(file.read_bytes(), count))
    assert counts["refused"] > count / 3


@pytest.mark.parametrize("count", AMOUNTS)
@pytest.mark.parametrize("reader", ["corpus", "tasks"])
@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
def test_saved_data_sets(tmp_path, count, reader, name):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"id": list(range(60)), "text": TEXTS * 10}).save_to_disk(folder)

    def read():
        if reader == "tasks":
            return list(read_rows(folder))
        return read_texts(open_dataset(str(folder), None, "text", None))

    assert len(read()) == (60 if reader == "tasks" else 40)
    storm(read, folder / name, damaged_files((folder / name).read_bytes(), count), naming="saved")
