"""Packed and remote inputs give the corpus of local, unpacked ones, also in shares, and their copies are removed."""

import gzip
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import run_chinese_ref
from common.errors import UserError
from data import create_data
from data.corpus import copied_inputs, preparation, shares
from data.corpus.arrow_shards import CorpusError
from data.files import DataError
from tests.data.packed import PACKERS, TEXTS, corpus, pack, zstd
from tests.data.preparing import contents
from tests.runs import Killed


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_give_the_corpus_of_unpacked_ones(lines, tmp_path, vocabulary, suffix):
    corpus(lines, tmp_path / "plain", vocabulary)
    packed = shutil.copytree(lines, tmp_path / "packed" / "lines")
    (packed / "a.jsonl").unlink()
    (packed / f"a.jsonl{suffix}").write_bytes(PACKERS[suffix]((lines / "a.jsonl").read_bytes()))
    corpus(packed, tmp_path / "out", vocabulary)
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")
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
        patch.setattr(copied_inputs.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            corpus(lines, tmp_path / "out", vocabulary)
    assert (tmp_path / "out.inputs" / ".lock").is_file() and len(written) == 2
    most[0] = 1000
    corpus(lines, tmp_path / "out", vocabulary)
    assert len(set(written)) == len(written) > 4
    assert contents(tmp_path / "out") == contents(tmp_path / "plain") and not (tmp_path / "out.inputs").exists()


def test_parquet_becomes_lines(lines, tmp_path, vocabulary):
    corpus(lines / "a.jsonl", tmp_path / "plain", vocabulary)
    pq.write_table(pa.table({"text": TEXTS[:120], "n": list(range(120))}), tmp_path / "a.parquet", row_group_size=50)
    corpus(tmp_path / "a.parquet", tmp_path / "out", vocabulary)
    shards = [{name: b for name, b in contents(tmp_path / f).items() if "arrow" in name} for f in ("out", "plain")]
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


def in_shares(script, count, *words):
    for index in reversed(range(count)):
        script(*words, "--shard_index", index, "--num_shards", count)
    script(*words, "--merge")


@pytest.fixture
def packed(lines, tmp_path):
    """The folder of JSON lines, one of them packed."""
    folder = shutil.copytree(lines, tmp_path / "packed" / "lines")
    pack(folder / "a.jsonl", ".zst")
    return folder


@pytest.fixture
def copies(monkeypatch):
    """What was unpacked."""
    real, names = copied_inputs._unpack, []
    monkeypatch.setattr(
        copied_inputs, "_unpack", lambda source, name, *more: (names.append(name), real(source, name, *more))
    )
    return names


@pytest.mark.parametrize("count", [1, 3])
def test_shares_copy_once_and_equal_a_single_run(
    lines, packed, copies, tmp_path, vocabulary, small_units, memory, count
):
    corpus(lines, tmp_path / "plain", vocabulary)
    memory.put(str(packed), "/bucket/lines", recursive=True)
    for number, source in enumerate((packed, "memory://bucket/lines")):
        output = tmp_path / f"out{number}"
        copies.clear()
        in_shares(lambda *flags, s=source, o=output: corpus(s, o, vocabulary, *flags), count)
        assert contents(output) == contents(tmp_path / "plain") and not (tmp_path / f"out{number}.inputs").exists()
        assert len(copies) == 1 + number  # once each, of the two files elsewhere
        corpus(source, output, vocabulary, "--merge")  # is finished
        assert contents(output) == contents(tmp_path / "plain") and not (tmp_path / f"out{number}.inputs").exists()


def test_shares_at_the_same_time_do_not_disturb_each_other(lines, packed, copies, tmp_path, vocabulary, small_units):
    corpus(lines, tmp_path / "plain", vocabulary)
    words = (packed, tmp_path / "out", vocabulary)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda index: corpus(*words, "--num_shards", 3, "--shard_index", index), range(3)))
    corpus(*words, "--merge")
    assert contents(tmp_path / "out") == contents(tmp_path / "plain") and len(copies) == 1


def test_shares_of_other_inputs_and_a_missing_copy_are_told(lines, packed, tmp_path, vocabulary, small_units):
    one = ("--num_shards", 2, "--shard_index")
    corpus(packed, tmp_path / "out", vocabulary, *one, 0)
    before = contents(tmp_path / "out.inputs")
    with pytest.raises(UserError, match="--input_path must be the same as when"):
        corpus(lines, tmp_path / "out", vocabulary, *one, 1)
    with pytest.raises(CorpusError, match="must not have been begun in shares"):
        corpus(packed, tmp_path / "out", vocabulary)
    assert contents(tmp_path / "out.inputs") == before and len(before) == 3
    shutil.rmtree(tmp_path / "out.inputs")
    with pytest.raises(UserError, match=r"a\.jsonl"):
        corpus(packed, tmp_path / "out", vocabulary, *one, 1)


def test_a_plan_that_fails_leaves_no_copy(packed, tmp_path, vocabulary):
    (packed / "b.jsonl.gz").write_bytes(b"no gzip")
    (packed / "b.jsonl").unlink()
    with pytest.raises(DataError, match=r"b\.jsonl\.gz: must be packed by gzip"):
        corpus(packed, tmp_path / "out", vocabulary, "--num_shards", 2, "--shard_index", 1)
    assert not (tmp_path / "out.inputs").exists()


def test_a_killed_plan_copies_again(lines, packed, copies, tmp_path, vocabulary, small_units, monkeypatch):
    corpus(lines, tmp_path / "plain", vocabulary)

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shares, "leave", die)
        patch.setattr(copied_inputs.CopiedInputs, "drop", lambda self: None)
        with pytest.raises(Killed):
            corpus(packed, tmp_path / "out", vocabulary, "--num_shards", 2, "--shard_index", 1)
    assert (tmp_path / "out.inputs" / "0").is_dir()
    in_shares(lambda *flags: corpus(packed, tmp_path / "out", vocabulary, *flags), 2)
    assert len(copies) == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "plain") and not (tmp_path / "out.inputs").exists()


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_shares_of_several_packed_files_equal_a_single_run(tmp_path, vocabulary, small_tables, suffix):
    """Of a table, which is converted when it is planned, no copy stays."""
    files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for file, texts in zip(files, (TEXTS[:120], TEXTS[120:]), strict=True):
        rows = ["text", *texts] if suffix == "csv" else [json.dumps({"text": text}) for text in texts]
        file.write_text("".join(f"{row}\n" for row in rows))

    def create(output, paths, *flags):
        words = ["--tokenizer_name", vocabulary, "--train_file", *paths, "--output_dir", output, "--line_by_line"]
        create_data.main(list(map(str, [*words, "--preprocessing_num_workers", 1, *flags])))

    create(tmp_path / "plain", files)
    for file in files:
        pack(file, ".gz")
    packed = [f"{file}.gz" for file in files]
    create(tmp_path / "alone", packed)
    create(tmp_path / "out", packed, "--num_shards", 2, "--shard_index", 1)
    assert (tmp_path / "out.inputs").exists() == (suffix == "jsonl")
    in_shares(lambda *flags: create(tmp_path / "out", packed, *flags), 2)
    assert not (tmp_path / "out.inputs").exists()
    plain, alone = contents(tmp_path / "plain"), contents(tmp_path / "alone")
    assert contents(tmp_path / "out") == alone and alone.keys() == plain.keys()
    names = [name for name in plain if name.endswith(".arrow")]
    assert len(names) > 3 and all(alone[name] == plain[name] for name in names)
    named = [file["file"] for file in json.loads(alone["manifest.json"])["inputs"]]
    assert named == ([f"0/a.{suffix}", f"1/b.{suffix}"] if suffix == "jsonl" else [""])
