"""Packed and remote files as streams: the bytes of plain ones, in the same order, in memory that stays as it is."""

import gzip
import io
import json
import shutil
import tracemalloc
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from data.files import DataError
from data.text import parallel_reader
from data.text.streams import Streamed, input_streams, unpacked_name
from data.unchanged_inputs import open_steady
from tests.data.json_corpora import make_corpus, run
from tests.data.packed import PACKERS, pack, zstd
from tests.data.preparing import contents, written

ORDERS = {"shuffle": [], "dedup": ["--dedup"], "order": ["--no-shuffle"], "parts": ["--dedup", "--no-merge"]}


def content(file):
    with file.open("rb") as handle:
        return handle.read()


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_packed_file_reads_as_what_is_in_it(tmp_path, suffix):
    plain = "".join(f"第{n}行\n" for n in range(300_000)).encode()
    path = written(tmp_path / f"a.txt{suffix}", PACKERS[suffix](plain) + PACKERS[suffix](b"more\n"))
    (file,) = input_streams(str(path), "--input_path", None)
    assert content(file) == plain + b"more\n" and file.counted().length == len(plain) + 5
    assert str(file) == str(path) and file.suffix == ".txt" and not file.counted().sought
    with file.open() as handle:
        assert handle.readline() == "第0行\n".encode() and next(handle) == "第1行\n".encode()


def test_memory_does_not_grow_with_a_packed_file(tmp_path):
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"0123456789abcde\n" * (1 << 16))
    tracemalloc.start()
    try:
        assert Streamed(str(path)).counted().length == 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_parquet_reads_as_json_lines(tmp_path, memory):
    texts = ["一\n二", None, "", '"', "x" * 100] * 500
    pq.write_table(pa.table({"body": texts, "n": range(2500)}), tmp_path / "a.parquet", row_group_size=700)
    plain = "".join(json.dumps({"body": t}, ensure_ascii=False) + "\n" for t in texts if t is not None).encode()
    (file,) = input_streams(str(tmp_path / "a.parquet"), "--input_path", "body")
    assert content(file) == plain and file.suffix == ".jsonl" and file.counted().length == len(plain)
    memory.put(str(tmp_path / "a.parquet"), "/bucket/a.parquet")
    (far,) = input_streams("memory://bucket/a.parquet", "--input_path", "body")
    assert content(far) == plain and str(far) == "memory://bucket/a.parquet"
    with pytest.raises(DataError, match=r"a\.parquet: must have the column 'text' once, got body, n"):
        content(Streamed(str(tmp_path / "a.parquet"), key="text"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"a\.parquet: must be Parquet, got a damaged one"):
        content(file)


def test_a_plain_file_elsewhere_is_read_from_any_place(memory, monkeypatch):
    plain = bytes(range(256)) * 10_000
    memory.pipe("/bucket/a", plain)
    (file,) = input_streams("memory://bucket/a", "--input_path", None)
    assert file.counted() == replace(file, length=len(plain), sought=True)
    monkeypatch.setattr(type(memory), "size", lambda *_: None)  # as of a server that does not tell
    assert file.counted() == replace(file, length=len(plain))
    with file.open() as one, file.open() as other:
        one.seek(1_000_001)
        other.seek(-3, io.SEEK_END)
        assert one.read(1_500_000) == plain[1_000_001:2_500_001]
        assert other.tell() == len(plain) - 3 and other.read() == plain[-3:]
        one.seek(5, io.SEEK_CUR)
        assert one.read() == plain[2_500_006:]


def test_the_order_is_that_of_unpacked_names(tmp_path, memory, capsys):
    for name in ("a.txt", "a-b/x.txt", "a.txt2", "b.txt"):
        written(tmp_path / "in" / name, name)
    plain = [str(file.relative_to(tmp_path)) for file in input_streams(str(tmp_path / "in"), "--input_path", None)]
    pack(tmp_path / "in" / "a.txt", ".gz")
    pack(tmp_path / "in" / "a-b" / "x.txt", ".zst")
    memory.put(str(tmp_path / "in"), "/bucket/in", recursive=True)
    for path in (str(tmp_path / "in"), "memory://bucket/in", f"file://{tmp_path}/in"):
        files = input_streams(path, "--input_path", None)
        assert [unpacked_name(str(file), None).split("/in/")[1] for file in files] == [n[3:] for n in plain]
        assert [content(file).decode() for file in files] == [name[3:] for name in plain]
        assert len(input_streams(path, "--input_path", None, ".txt")) == 3
    assert capsys.readouterr().err.count("a.txt2 (does not end in .txt)") == 3


def test_what_cannot_be_read_is_one_line(tmp_path, memory):
    def refused(match, path=tmp_path, key=None, suffix=""):
        with pytest.raises(UserError, match=match):
            list(map(content, input_streams(str(path), "--input_path", key, suffix)))

    whole = gzip.compress(b"x\n" * 100_000)
    written(tmp_path / "a.gz", whole[: len(whole) // 2])
    refused("a.gz: must be packed by gzip, got a damaged one")
    written(tmp_path / "a.gz", b"no gzip at all")
    refused("a.gz: must be packed by gzip, got a damaged one")
    written(tmp_path / "a.gz", whole)
    written(tmp_path / "a", "x\n")
    refused("inputs must be there once, got .*/a packed and unpacked")
    refused(
        "--input_path must hold files that are packed once", written(tmp_path / "p" / "a.parquet.gz", whole), "text"
    )
    refused("--input_path must name what is there|must name an existing file", "memory://bucket/nothing")
    refused("--input_path must be reachable through fsspec, got 'nofs://x/y'", "nofs://x/y")
    memory.pipe("/bucket/a.txt", b"x")
    refused("must hold at least a file ending in '.jsonl', got the folder", "memory://bucket", suffix=".jsonl")
    with pytest.raises(UserError, match="inputs must name what is there, got 'memory://bucket/gone'"):
        Streamed("/bucket/gone", "memory://bucket").open()


def test_a_change_while_it_is_read_is_told(tmp_path, memory):
    for write, file in (
        (lambda content: written(tmp_path / "a.gz", content), Streamed(str(tmp_path / "a.gz"))),
        (lambda content: memory.pipe("/bucket/a.gz", content), Streamed("/bucket/a.gz", "memory://bucket")),
    ):
        write(gzip.compress(b"x\n" * 9))
        before = file.stamp()
        with (
            pytest.raises(DataError, match=r"a\.gz: must stay as it is while it is read"),
            open_steady(file) as handle,
        ):
            handle.readline()
            write(gzip.compress(b"other content\n" * 9))
        with pytest.raises(DataError, match=r"a\.gz: must stay as it is while it is read"), open_steady(file, before):
            pass


@pytest.fixture
def sources(tmp_path, small_pieces, memory, monkeypatch):
    """Folders of the same documents: plain, packed and elsewhere, some packed there."""
    monkeypatch.setattr(parallel_reader, "_WRITTEN_CHARACTERS", 500)
    make_corpus(tmp_path / "in", 40)
    shutil.copytree(tmp_path / "in", tmp_path / "packed")
    pack(tmp_path / "packed" / "a" / "x", ".zst")
    pack(tmp_path / "packed" / "b.txt", ".gz")
    memory.put(str(tmp_path / "packed"), "/bucket/in", recursive=True)
    return {"plain": tmp_path / "in", "packed": tmp_path / "packed", "far": "memory://bucket/in"}


def steps(shares, *flags, **options):
    for step in ("read", "sort"):
        for index in range(shares):
            run(*flags, **options, step=step, shard_index=index, num_shards=shares)
    run(*flags, **options, step="join")


@pytest.mark.parametrize("order", ORDERS)
def test_documents_are_those_of_plain_files(sources, tmp_path, capsys, order):
    """By one run and by shares of steps, whose plan counts what is packed; no copy is made."""
    whole, lines = tmp_path / "plain.jsonl", []
    for name, source in sources.items():
        for suffix, work in (("", run), ("-steps", lambda *flags, **options: steps(3, *flags, **options))):
            output = tmp_path / f"{name}{suffix}.jsonl"
            work(*ORDERS[order], input_path=source, output_path=output)
            lines.append(capsys.readouterr().out.splitlines()[-1].replace(str(output), ""))
            assert (
                contents(output) == contents(whole) if "parts" in order else output.read_bytes() == whole.read_bytes()
            )
    assert len(set(lines)) == 1
    names = {"in", "packed", *(f"{name}{suffix}.jsonl" for name in sources for suffix in ("", "-steps"))}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_workers_share_packed_files(sources, tmp_path):
    run("--dedup", input_path=sources["plain"], output_path=tmp_path / "one.jsonl")
    run("--dedup", input_path=sources["packed"], output_path=tmp_path / "two.jsonl", workers=2)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_parquet_and_lines_give_one_result(tmp_path, small_pieces):
    texts = [f"第{n % 70}篇文章，北京大学。" for n in range(100)]
    pq.write_table(pa.table({"body": texts}), tmp_path / "a.parquet")
    lines = "".join(json.dumps({"body": text}, ensure_ascii=False) + "\n" for text in texts)
    written(tmp_path / "a.jsonl.zst", zstd(lines.encode()))
    for number, name in enumerate(("a.parquet", "a.jsonl.zst")):
        run("--dedup", json_field="body", input_path=tmp_path / name, output_path=tmp_path / f"{number}.jsonl")
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()


def test_lines_of_errors_are_those_of_what_is_packed(tmp_path):
    written(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "A"}\n{"text": 5}\n'))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:2: the value of 'text' must be a string"):
        run(json_field="text", input_path=tmp_path / "a.jsonl.gz", output_path=tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl.gz"]


def test_a_change_between_steps_is_told(sources, tmp_path):
    words = {"input_path": sources["packed"], "output_path": tmp_path / "out.jsonl", "num_shards": 2}
    run(step="read", shard_index=0, **words)
    written(sources["packed"] / "b.txt.gz", gzip.compress(b"other documents are here\n"))
    with pytest.raises(DataError, match=r"b\.txt\.gz: must stay as it is while it is read"):
        run(step="read", shard_index=1, **words)
