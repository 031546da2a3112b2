"""Outputs elsewhere appear whole, from single runs and from runs that share the work; inputs may lie there, too."""

import gzip
import json
import shutil

import pytest

from common.errors import UserError
from data import create_data, staging, train_tokenizer, trans_to_json
from tests.data.json_corpora import run
from tests.data.packed import TEXTS, corpus
from tests.data.preparing import contents


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
    assert contents(tmp_path / "got") == contents(tmp_path / "plain")
    with pytest.raises(UserError, match="--output_dir must name a new folder or a file, got 'memory://bucket/corpus'"):
        corpus("memory://bucket/lines", "memory://bucket/corpus", vocabulary)
    corpus(f"file://{lines}", f"file://{tmp_path}/filed", vocabulary)
    assert contents(tmp_path / "filed") == contents(tmp_path / "plain")


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
    far, near = contents(tmp_path / "far"), contents(tmp_path / "near")
    assert far.keys() == near.keys()
    assert all(far[name] == near[name] for name in far if name.endswith(".arrow")) and len(far) > 1


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


def all_of(files):
    """What lies in memory, by path."""
    return {path: files.cat(path) for path in files.find("/")}


def test_runs_that_share_the_work_send_once_from_their_folder(lines, tmp_path, memory, vocabulary, small_units):
    corpus(lines, tmp_path / "plain", vocabulary)
    words = (lines, "memory://bucket/corpus", vocabulary, "--work_dir", tmp_path / "work")
    for index in range(2):
        corpus(*words, "--num_shards", 2, "--shard_index", index)
        assert not memory.find("/") and (tmp_path / "work" / "corpus.sending").is_dir()
    corpus(*words, "--merge")
    memory.get("/bucket/corpus", str(tmp_path / "got"), recursive=True)
    assert contents(tmp_path / "got") == contents(tmp_path / "plain") and not list((tmp_path / "work").iterdir())
    with pytest.raises(UserError, match="--output_dir must name a new folder or a file"):
        corpus(*words, "--merge")


def test_steps_send_what_the_last_one_has_joined(lines, tmp_path, memory, monkeypatch):
    run(input_path=lines, json_field="text", output_path=tmp_path / "plain.jsonl")
    words = {
        "input_path": lines,
        "json_field": "text",
        "output_path": "memory://bucket/all",
        "work_dir": tmp_path / "work",
    }
    for step in ("read", "sort"):
        for index in range(2):
            run(step=step, shard_index=index, num_shards=2, **words)
    with monkeypatch.context() as patch:
        patch.setattr(staging, "_send", lambda *_: 1 / 0)  # killed before all is sent
        with pytest.raises(ZeroDivisionError):
            run(step="join", **words)
    assert not memory.find("/")
    run(step="join", **words)
    assert all_of(memory) == {"/bucket/all.jsonl": (tmp_path / "plain.jsonl").read_bytes()}
    assert not list((tmp_path / "work").iterdir())


def test_a_single_run_goes_on_in_its_folder(lines, tmp_path, memory, vocabulary, monkeypatch):
    words = (lines, "memory://bucket/corpus", vocabulary, "--work_dir", tmp_path / "work")
    real = shutil.copyfileobj

    def copy(source, *more):
        if source.name.endswith("manifest.json"):
            raise ConnectionError("gone")
        return real(source, *more)

    with monkeypatch.context() as patch:
        patch.setattr(staging.shutil, "copyfileobj", copy)
        with pytest.raises(UserError, match="--output_dir must"):
            corpus(*words)
    corpus(*words)
    corpus(lines, tmp_path / "plain", vocabulary)
    memory.get("/bucket/corpus", str(tmp_path / "got"), recursive=True)
    assert contents(tmp_path / "got") == contents(tmp_path / "plain") and not list((tmp_path / "work").iterdir())


def test_what_a_run_has_sent_is_not_its_input(lines, memory):
    memory.put(str(lines), "/bucket/lines", recursive=True)
    sent = []
    for _ in range(2):
        run(input_path="memory://bucket/lines", json_field="text", output_path="memory://bucket/lines/all")
        sent.append(memory.cat("/bucket/lines/all.jsonl"))
    assert sent[0] == sent[1] and sent[0].count(b"\n") == len(TEXTS)


def test_a_folder_to_work_in_must_fit_the_output(lines, tmp_path, memory, vocabulary):
    with pytest.raises(UserError, match="--output_dir elsewhere needs a folder that all runs of shared work see"):
        corpus(lines, "memory://bucket/corpus", vocabulary, "--num_shards", 2, "--shard_index", 0)
    with pytest.raises(UserError, match="--work_dir is for an --output_path with a scheme, got the local"):
        run(input_path=lines, json_field="text", output_path=tmp_path / "all.jsonl", work_dir=tmp_path / "work")
    assert not memory.find("/") and [path.name for path in tmp_path.iterdir()] == ["lines"]
