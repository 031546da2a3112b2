"""Packed and remote inputs give the bytes of local, unpacked ones; remote outputs appear whole."""

import bz2
import gzip
import json
import shutil

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import run_chinese_ref
from common.errors import UserError
from data import create_data, staging, train_tokenizer, trans_to_json
from data.corpus import preparation
from tests.runs import Killed

TEXTS = [f"第{number}篇：北京大学研究生命起源，今天天气很好。" for number in range(200)]


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd}


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


@pytest.fixture
def lines(tmp_path):
    """A folder of JSON lines."""
    folder = tmp_path / "lines"
    folder.mkdir()
    for name, texts in (("a", TEXTS[:120]), ("b", TEXTS[120:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def corpus(source, output, vocabulary):
    words = ["--input_path", str(source), "--output_dir", str(output), "--model_name", str(vocabulary)]
    run_chinese_ref.main([*words, "--max_seq_length", "64", "--workers", "1"])


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_give_the_corpus_of_unpacked_ones(lines, tmp_path, vocabulary, suffix):
    corpus(lines, tmp_path / "plain", vocabulary)
    packed = shutil.copytree(lines, tmp_path / "packed" / "lines")
    (packed / "a.jsonl").unlink()
    (packed / f"a.jsonl{suffix}").write_bytes(PACKERS[suffix]((lines / "a.jsonl").read_bytes()))
    corpus(packed, tmp_path / "out", vocabulary)
    assert content(tmp_path / "out") == content(tmp_path / "plain")
    assert not (tmp_path / "out.inputs").exists()
    corpus(packed, tmp_path / "out", vocabulary)  # is finished, and stays as it is


def test_a_killed_run_fetches_again_and_goes_on(lines, tmp_path, vocabulary, small_units, monkeypatch):
    """What it had fetched and made stays where kill -9 leaves it."""
    corpus(lines, tmp_path / "plain", vocabulary)
    (lines / "a.jsonl.zst").write_bytes(zstd((lines / "a.jsonl").read_bytes()))
    (lines / "a.jsonl").unlink()
    real, written, most = preparation.write_shard, [], [2]

    def write(path, *parts):
        if len(written) == most[0]:
            raise Killed
        written.append(path.name)
        return real(path, *parts)

    monkeypatch.setattr(preparation, "write_shard", write)
    with monkeypatch.context() as patch:
        patch.setattr(staging.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            corpus(lines, tmp_path / "out", vocabulary)
    assert (tmp_path / "out.inputs" / ".lock").is_file() and len(written) == 2
    most[0] = 1000
    corpus(lines, tmp_path / "out", vocabulary)
    assert len(set(written)) == len(written) > 4
    assert content(tmp_path / "out") == content(tmp_path / "plain") and not (tmp_path / "out.inputs").exists()


def test_members_end_to_end_and_one_file_are_read(lines, tmp_path, vocabulary):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "A"}\n') + gzip.compress(b'{"text": "B"}\n'))
    words = f"--input_path {tmp_path}/a.jsonl.gz --output_path {tmp_path}/out --json_field text --min_doc_length 0"
    trans_to_json.main([*words.split(), "--no-shuffle"])
    assert (tmp_path / "out.jsonl").read_text() == '{"text": "A"}\n{"text": "B"}\n'


def test_what_lies_elsewhere_gives_what_lies_here_gives(lines, tmp_path, memory, vocabulary):
    corpus(lines, tmp_path / "plain", vocabulary)
    memory.put(str(lines), "/bucket/lines", recursive=True)
    corpus("memory://bucket/lines", "memory://bucket/corpus", vocabulary)
    memory.get("/bucket/corpus", str(tmp_path / "got"), recursive=True)
    assert content(tmp_path / "got") == content(tmp_path / "plain")
    with pytest.raises(UserError, match="--output_dir must name a new folder or a file, got 'memory://bucket/corpus'"):
        corpus("memory://bucket/lines", "memory://bucket/corpus", vocabulary)
    corpus(f"file://{lines}", f"file://{tmp_path}/filed", vocabulary)
    assert content(tmp_path / "filed") == content(tmp_path / "plain")


def test_each_script_reads_and_writes_elsewhere(lines, tmp_path, memory, vocabulary):
    memory.put(str(lines), "/bucket/lines", recursive=True)
    with memory.open("/bucket/texts/a.txt.gz", "wb") as file:
        file.write(gzip.compress("\n\n".join(TEXTS).encode()))
    trans_to_json.main(["--input_path", "memory://bucket/texts", "--output_path", "memory://bucket/all.jsonl"])
    texts = [json.loads(line)["text"].rstrip("\n") for line in memory.cat("/bucket/all.jsonl").splitlines()]
    assert sorted(texts) == sorted(TEXTS)
    train_tokenizer.main(["--input_path", "memory://bucket/all.jsonl", "--output_dir", "memory://bucket/tokenizer"])
    train_tokenizer.main(["--input_path", str(lines), "--output_dir", str(tmp_path / "tokenizer")])
    assert memory.cat("/bucket/tokenizer/vocab.txt") == (tmp_path / "tokenizer" / "vocab.txt").read_bytes()
    files = [f"memory://bucket/lines/{name}.jsonl" for name in "ab"]
    words = f"--tokenizer_name {vocabulary} --max_seq_length 64 --preprocessing_num_workers 1".split()
    create_data.main(["--train_file", *files, "--output_dir", str(tmp_path / "far"), *words])
    create_data.main(["--train_file", *files, "--output_dir", str(tmp_path / "far"), *words])  # is finished
    files = [str(lines / f"{name}.jsonl") for name in "ab"]
    create_data.main(["--train_file", *files, "--output_dir", str(tmp_path / "near"), *words])
    far, near = content(tmp_path / "far"), content(tmp_path / "near")
    assert far.keys() == near.keys()
    assert all(far[name] == near[name] for name in far if name.endswith(".arrow")) and len(far) > 1


def test_parquet_becomes_lines(lines, tmp_path, vocabulary):
    corpus(lines / "a.jsonl", tmp_path / "plain", vocabulary)
    pq.write_table(pa.table({"text": TEXTS[:120], "n": list(range(120))}), tmp_path / "a.parquet", row_group_size=50)
    corpus(tmp_path / "a.parquet", tmp_path / "out", vocabulary)
    shards = [{name: b for name, b in content(tmp_path / f).items() if "arrow" in name} for f in ("out", "plain")]
    assert shards[0] == shards[1] and shards[0]
    words = f"--input_path {tmp_path}/a.parquet --json_key body --output_dir {tmp_path}/x --model_name {vocabulary}"
    with pytest.raises(UserError, match="must have the column 'body' once, got text, n"):
        run_chinese_ref.main(words.split())
    assert not (tmp_path / "x.inputs").exists() and not (tmp_path / "x").exists()


def test_bad_input_is_one_line_and_leaves_nothing(lines, tmp_path, memory, vocabulary):
    def refused(match, source=lines, output=tmp_path / "out"):
        with pytest.raises(UserError, match=match):
            corpus(source, output, vocabulary)
        assert not (tmp_path / "out").exists() and not memory.find("/")

    refused(r"--input_path must name what is there|must name an existing file", "memory://bucket/nothing")
    refused("--input_path must be reachable through fsspec, got 'nofs://x/y'", "nofs://x/y")
    refused("--output_dir must be reachable through fsspec", output="nofs://x/y")
    whole = gzip.compress((lines / "a.jsonl").read_bytes())
    (lines / "a.jsonl.gz").write_bytes(whole)
    refused("inputs must be there once, got .*a.jsonl.* packed and unpacked")
    (lines / "a.jsonl").unlink()
    (lines / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    refused("a.jsonl.gz: must be packed by gzip, got a damaged one")
    (lines / "a.jsonl.gz").write_bytes(b"no gzip at all")
    refused("a.jsonl.gz: must be packed by gzip, got a damaged one")
    (tmp_path / "out.inputs").mkdir()
    refused("--output_dir must leave room for .*out.inputs")
    shutil.rmtree(tmp_path / "out.inputs")
    with pytest.raises(UserError, match="must name local, unpacked files for work that many runs share"):
        words = f"--input_path {lines} --output_dir {tmp_path}/out --model_name {vocabulary}"
        run_chinese_ref.main([*words.split(), "--shard_index", "0", "--num_shards", "2"])


def test_a_damaged_upload_leaves_the_manifest_out(lines, tmp_path, memory, vocabulary, monkeypatch):
    """What says that a corpus is complete is sent last."""
    sent, real = [], shutil.copyfileobj

    def copy(source, sink, *size):
        sent.append(source.name)
        if source.name.endswith("manifest.json"):
            raise ConnectionError("gone")
        return real(source, sink, *size)

    monkeypatch.setattr(staging.shutil, "copyfileobj", copy)
    with pytest.raises(UserError, match="--output_dir must"):
        corpus(lines, "memory://bucket/corpus", vocabulary)
    assert sent[-1].endswith("manifest.json") and len(sent) > 1
    assert not memory.exists("/bucket/corpus/manifest.json")
