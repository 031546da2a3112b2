"""data/trans_to_json.py: every document once, ordered by the seed alone, in an output that is whole."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data import trans_to_json
from data.files import DataError
from data.outputs import temporary_folder
from data.text import raw_documents
from tests.data.json_corpora import make_corpus, read, run

ROOT = Path(__file__).parents[2]


def test_documents_keep_their_newlines_and_must_exceed_the_least_length(tmp_path):
    (tmp_path / "x").write_text("123456789\n\n1234567890\n\nab\ncd\nefghi\n", newline="\n")
    run("--no-shuffle", input_path=tmp_path, output_path=tmp_path / "out")
    assert (tmp_path / "out.jsonl").read_text() == '{"text": "1234567890\\n"}\n{"text": "ab\\ncd\\nefghi\\n"}\n'


def test_order_of_the_inputs_is_kept_without_shuffle(tmp_path, small_pieces):
    texts = make_corpus(tmp_path / "in")
    run("--no-shuffle", input_path=tmp_path / "in", output_path=tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == texts


@pytest.mark.parametrize("flags", [(), ("--dedup",), ("--no-shuffle", "--dedup")], ids=" ".join)
def test_result_depends_on_the_seed_alone(tmp_path, monkeypatch, flags):
    texts = make_corpus(tmp_path / "in")
    results = []
    for workers, seed, unit, bucket in (
        (1, 5, 1000, 3000),
        (1, 5, 700, 1 << 20),
        (3, 5, 2000, 3000),
        (1, 6, 1000, 3000),
    ):
        monkeypatch.setattr(raw_documents, "UNIT_BYTES", unit)
        monkeypatch.setattr(trans_to_json, "BUCKET_BYTES", bucket)
        run(*flags, input_path=tmp_path / "in", output_path=tmp_path / "o.jsonl", workers=workers, seed=seed)
        results.append(read(tmp_path / "o.jsonl"))
    expected = list(dict.fromkeys(texts)) if "--dedup" in flags else texts
    assert results[0] == results[1] == results[2]
    if "--no-shuffle" in flags:
        assert results[0] == results[3] == expected
    else:
        assert results[0] != results[3]
        assert sorted(results[0]) == sorted(results[3]) == sorted(expected) != results[0] != expected


def test_shuffle_is_even(tmp_path, small_pieces):
    (tmp_path / "x").write_text("".join(f"{i:011d}\n" for i in range(4000)))
    run(input_path=tmp_path / "x", output_path=tmp_path / "o", doc_spliter="line")
    order = [int(text) for text in read(tmp_path / "o.jsonl")]
    quarters = [sum(place < 1000 for place in order[i : i + 1000]) for i in range(0, 4000, 1000)]
    assert all(abs(quarter - 250) < 60 for quarter in quarters)  # 4 standard deviations
    assert abs(sum(b > a for a, b in itertools.pairwise(order)) - 2000) < 75


@pytest.mark.parametrize("flags", [(), ("--no-shuffle",)], ids=" ".join)
def test_parts_together_are_the_merged_file(tmp_path, small_pieces, flags):
    make_corpus(tmp_path / "in")
    run(*flags, input_path=tmp_path / "in", output_path=tmp_path / "out.jsonl")
    for _ in range(2):  # parts of an earlier run are replaced
        run("--no-merge", *flags, input_path=tmp_path / "in", output_path=tmp_path / "parts")
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) > 5
    assert b"".join(part.read_bytes() for part in parts) == (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "parts" / "notes.txt").touch()
    with pytest.raises(ValueError, match="--output_path must"):
        run("--no-merge", input_path=tmp_path / "in", output_path=tmp_path / "parts")


def test_nothing_of_its_own_is_read_back_and_nothing_is_left(tmp_path):
    folder = tmp_path / "in"
    make_corpus(folder)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    run(input_path=folder, output_path=folder / "out.jsonl")
    first = (folder / "out.jsonl").read_bytes()
    with temporary_folder(folder / "out.jsonl") as left:  # as a killed run leaves it
        (left / "result").write_bytes(first)
        shutil.copytree(left, folder / ".out.jsonl.12345678.partial")
    for output in ("out.jsonl", "again.jsonl"):
        run(input_path=folder, output_path=folder / output)
        assert (folder / output).read_bytes() == first
    run("--no-merge", input_path=folder, output_path=folder / "parts")
    run(input_path=folder, output_path=folder / "out.jsonl")
    assert (folder / "out.jsonl").read_bytes() == first
    outputs = {folder / "out.jsonl", folder / "again.jsonl", folder / "parts/part-00000.jsonl"}
    assert {path for path in folder.rglob("*") if path.is_file()} == outputs | set(before)
    assert all((path.stat().st_mtime_ns, path.read_bytes()) == old for path, old in before.items())


def test_what_a_user_has_beside_the_output_stays(tmp_path):
    (tmp_path / "in").write_text("一二三四五六七八九十一\n", encoding="utf-8")
    mine = tmp_path / ".out.jsonl.partial" / "thesis.txt"
    mine.parent.mkdir()
    mine.touch()
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "disk" / "target")
    run(input_path=tmp_path / "in", output_path=tmp_path / "out")
    assert mine.exists() and (tmp_path / "out.jsonl").is_symlink()
    assert read(tmp_path / "disk" / "target") == ["一二三四五六七八九十一\n"]
    parts = tmp_path / "parts"
    run("--no-merge", input_path=tmp_path / "in", output_path=parts)
    run("--no-merge", input_path=tmp_path / "in", output_path=parts)
    for name, text in (("part-00000.jsonl", '{"text": "mine", "id": 1}\n'), ("part-00002.jsonl", '{"text": "a"}\n')):
        shutil.copytree(parts, tmp_path / name)
        (tmp_path / name / name).write_text(text)
        with pytest.raises(ValueError, match="nothing but parts of this script"):
            run("--no-merge", input_path=tmp_path / "in", output_path=tmp_path / name)


def test_json_lines_are_read_by_one_key_and_written_under_another(tmp_path):
    texts = ["第一篇文章，有\u2028和\r\n两种换行", "第二篇文章有十个字以上", "😀" * 11]
    lines = [json.dumps({"id": 1, "content": text}, ensure_ascii=i == 1) for i, text in enumerate(texts)]
    (tmp_path / "wiki_00").write_text("\n\n".join(lines), encoding="utf-8", newline="\n")
    run("--no-shuffle", input_path=tmp_path, output_path=tmp_path / "o", json_field="content", json_key='te"xt')
    assert read(tmp_path / "o.jsonl", 'te"xt') == texts


def test_encodings(tmp_path):
    text = "简体中文文本，共有十余字\n"
    for encoding in ("gb18030", "utf-8-sig", "big5hkscs"):
        (tmp_path / "x").write_bytes(text.replace("简", "簡").replace("体", "體").encode(encoding))
        run(input_path=tmp_path / "x", output_path=tmp_path / "o", encoding=encoding)
        assert read(tmp_path / "o.jsonl") == ["簡體中文文本，共有十余字\n"]
    for encoding in ("utf-16", "klingon"):
        with pytest.raises(ValueError, match="--encoding must"):
            run(input_path=tmp_path / "x", output_path=tmp_path / "o", encoding=encoding)


def test_half_a_character_of_another_encoding_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"a text of some length\n\nhalf a character +2AA- of UTF-7\n")
    with pytest.raises(DataError, match=r"x:3: must be utf-7.*surrogates not allowed"):
        run(input_path=tmp_path / "x", output_path=tmp_path / "o", encoding="utf-7")


def test_evaluation_texts_are_dropped_and_counted(tmp_path, capsys):
    (tmp_path / "dev.tsv").write_text("label\ttext\n1\t这家酒店的早餐，很不错！下次还来\n", encoding="utf-8")
    (tmp_path / "x").write_text(
        "这家酒店的早餐很不错 下次还来。\n这家酒店的早餐很不错，下次再来\n这家酒店的早餐很不错，下次再来\n短\n",
        encoding="utf-8",
    )
    options = {"input_path": tmp_path / "x", "output_path": tmp_path / "o", "doc_spliter": "line"}
    run("--dedup", **options, exclude=tmp_path / "dev.tsv")
    out = capsys.readouterr().out
    assert f"{tmp_path / 'dev.tsv'}: 1 of 2 lines found in 1 documents" in out
    assert "1 documents, 15 characters" in out
    assert "1 duplicates, 1 excluded, 1 too short, 0 skipped" in out
    assert read(tmp_path / "o.jsonl") == ["这家酒店的早餐很不错，下次再来"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input_path=nowhere"], "--input_path must name an existing"),
        (["--workers=0"], "--workers must be at least 1"),
        (["--min_doc_length=-1"], "--min_doc_length must be at least 0"),
        (["--exclude=nowhere"], "--exclude must name an existing"),
        (["--json_field=text", "--doc_spliter=line"], "--doc_spliter must be left out"),
        (["--input_path=empty"], "--input_path must hold a document"),
        (["--doc_spliter= "], "--doc_spliter must not begin"),
        (["--output_path=."], "--output_path must name a file"),
        (["--output_path=in.jsonl", "--input_path=in.jsonl"], "--output_path must differ"),
        (["--min_doc_length=99"], "--input_path must hold a document"),
    ],
)
def test_wrong_flags_are_named(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("一二三四五六七八九十一\n", encoding="utf-8")
    Path("empty").touch()
    with pytest.raises(ValueError, match=message):
        run("--input_path=in.jsonl", "--output_path=o", *flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "in.jsonl"]


def start(folder, output, *flags):
    command = [sys.executable, "trans_to_json.py", "--input_path", folder, "--output_path", output, *flags]
    return subprocess.Popen(command, cwd=ROOT / "data", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def group_members(pid):
    """Processes started by `pid` that still run, by the parents they had."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rsplit(")", 1)[1].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            processes.append(int(path.parent.name))
    return processes


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize(
    "sign", [signal.SIGKILL, *(pytest.param(sign, marks=pytest.mark.slow) for sign in (signal.SIGTERM, signal.SIGINT))]
)
def test_a_stopped_run_leaves_no_output_and_no_process(tmp_path, sign):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text("又一篇文章，够长了吧。\n" * 300_000, encoding="utf-8")
    output = tmp_path / "o.jsonl"
    process = start(folder, output, "--doc_spliter", "line", "--workers", "2")
    partial = ".o.jsonl.*.partial"
    while not (list(tmp_path.glob(f"{partial}/buckets/*")) or process.poll() is not None):
        time.sleep(0.01)
    workers = group_members(process.pid)
    assert process.poll() is None
    assert len(workers) >= 2
    process.send_signal(sign)
    process.wait(30)
    assert not output.exists()
    if sign != signal.SIGKILL:
        assert not list(tmp_path.glob(partial))
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    (folder / "a").write_text("又一篇文章，够长了吧。\n", encoding="utf-8")
    (folder / "b").unlink()
    run(input_path=folder, output_path=output, doc_spliter="line")
    assert read(output) == ["又一篇文章，够长了吧。"]
    assert not list(tmp_path.glob(partial))


def test_runs_as_a_file_from_both_folders(tmp_path):
    (tmp_path / "x").write_text("一二三四五六七八九十一\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for folder, script in ((ROOT, "data/trans_to_json.py"), (ROOT / "data", "trans_to_json.py")):
        command = [sys.executable, script, "--input_path", tmp_path / "x", "--output_path", tmp_path / "o"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("1 documents, 12 characters")
    command[-1] = tmp_path / "absent" / "..."
    command[3] = tmp_path / "absent"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("trans_to_json.py: --input_path must")


PEAK = """
import sys
from pathlib import Path
from data.trans_to_json import main
main(sys.argv[1:])
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its peak memory in /proc")
@pytest.mark.parametrize("flags", [(), ("--dedup",), ("--dedup", "--no-shuffle")], ids=" ".join)
def test_memory_does_not_grow_with_the_corpus(tmp_path, flags):
    """At 400 MB at most 100 MB more than at 2 MB; one document repeated often must not fill one bucket either."""
    draw = random.Random(0)
    piece = "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(500_000))
    peaks = []
    for megabytes in (2, 400):
        with (tmp_path / "x").open("w", encoding="utf-8") as file:
            for i in range(megabytes * 200):
                at = draw.randrange(490_000)
                file.write(f"{piece[at : at + 830]}{i}\n\n{piece[:830]}\n\n")
        command = [sys.executable, "-c", PEAK, "--input_path", tmp_path / "x", "--output_path", tmp_path / "o", *flags]
        peaks.append(int(subprocess.check_output(command, cwd=ROOT, stderr=subprocess.DEVNULL).split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 100, peaks
    assert peaks[1] < 200, peaks
