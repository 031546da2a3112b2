"""What disks, other processes and kills do to the data scripts: one line, and the same command ends the work."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

import run_chinese_ref
from common.errors import UserError
from data import create_data, outputs, train_tokenizer, trans_to_json
from data.corpus import preparation, sources
from data.corpus.arrow_shards import CorpusError, shard_name, write_shard
from data.corpus.store import Corpus
from data.files import DataError
from data.text import parallel_reader, prompts, raw_documents
from data.tokens import wordpiece_vocabulary as vocabularies

ROOT = Path(__file__).parent.parent
WORDS = ["研究", "生命", "起源", "北京", "大学", "，", "手机", "OK"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of JSON lines."""
    rng, path = random.Random(0), tmp_path_factory.mktemp("source") / "in.jsonl"
    texts = ["".join(rng.choices(WORDS, k=rng.randint(10, 60))) for _ in range(80)]
    path.write_text("".join(f"{json.dumps({'text': text}, ensure_ascii=False)}\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def scripts(bert_folder, monkeypatch):
    """name -> (main, flags of the input, flags of the output, its name, where in mid-run, in what)."""
    monkeypatch.setattr(sources, "UNIT_BYTES", 3000)
    monkeypatch.setattr(raw_documents, "UNIT_BYTES", 3000)
    tokenizer = str(bert_folder())
    chinese = ["--model_name", tokenizer, "--segmenter", "basic", "--workers", "1", "--input_path"]
    created = ["--tokenizer_name", tokenizer, "--preprocessing_num_workers", "1", "--train_file"]
    return {
        "run_chinese_ref": (run_chinese_ref.main, chinese, "--output_dir", preparation, "make_blocks"),
        "create_data": (create_data.main, created, "--output_dir", preparation, "make_blocks"),
        "trans_to_json": (
            trans_to_json.main,
            ["--json_field=text", "--input_path"],
            "--output_path",
            parallel_reader,
            "Buckets",
        ),
        "train_tokenizer": (train_tokenizer.main, ["--input_path"], "--output_dir", vocabularies, "parse_text"),
    }


SCRIPTS = pytest.mark.parametrize("name", ["run_chinese_ref", "create_data", "trans_to_json", "train_tokenizer"])


def contents(place):
    files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


def in_mid_run(monkeypatch, module, name, act):
    """Let `act` happen before the second call of a function."""
    real, calls = getattr(module, name), []

    def called(*args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            act()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, called)


def replace(path):
    """Other content of the same size in a new file of the same name."""
    path.with_suffix(".new").write_bytes(path.read_bytes().replace("研究".encode(), "北京".encode()))
    path.with_suffix(".new").rename(path)


CHANGES = {
    "shrinks": (lambda path: os.truncate(path, path.stat().st_size // 3), "must stay as it is while it is read"),
    "grows": (lambda path: path.write_bytes(path.read_bytes() * 2), "must stay as it is while it is read"),
    "is replaced": (replace, "must stay as it is while it is read"),
    "is removed": (Path.unlink, "No such file"),
}


@SCRIPTS
@pytest.mark.parametrize("change", CHANGES)
def test_an_input_that_changes_is_told(scripts, source, tmp_path, monkeypatch, name, change):
    main, flags, output_flag, module, function = scripts[name]
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    shutil.copy(source, path)
    act, message = CHANGES[change]
    command = [*flags, str(path), output_flag, str(output)]
    with monkeypatch.context() as patch:
        in_mid_run(patch, module, function, lambda: act(path))
        if name == "train_tokenizer" and change.startswith("is "):  # opened once: what it reads has lost its name
            main(command)
            return
        with pytest.raises(UserError, match=f"in.jsonl.*{message}"):
            main(command)
    shutil.copy2(source, path)
    main(command)
    main([*flags, str(source), output_flag, str(tmp_path / "whole.jsonl")])
    assert contents(output) == contents(tmp_path / "whole.jsonl")


def test_documents_for_generation_models_that_change_are_told(source, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(source.read_bytes() * 30)
    documents = prompts.read_documents(path, "--train_file", None)
    next(documents)
    os.truncate(path, 300_000)
    with pytest.raises(DataError, match=r"in\.jsonl: must stay as it is"):
        list(documents)


@SCRIPTS
def test_a_full_disk_is_told_and_the_same_command_ends_the_work(scripts, source, tmp_path, monkeypatch, name):
    main, flags, output_flag, _, _ = scripts[name]
    output = tmp_path / "out.jsonl"
    command = [*flags, str(source), output_flag, str(output)]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if name in ("run_chinese_ref", "create_data"):
            in_mid_run(patch, preparation, "write_shard", full)
            state = f"finished shards are kept in {output}; mend that and run the same command again to go on"
        else:
            patch.setattr(trans_to_json.os, "fsync", full)
            patch.setattr(outputs, "put_in_place", full)
            state = f"{output} is as it was before; mend that and run the same command again"
        with pytest.raises(UserError) as caught:
            main(command)
    assert str(caught.value) == f"No space left on device; make room; {state}"
    main(command)
    main([*flags, str(source), output_flag, str(tmp_path / "whole.jsonl")])
    assert contents(output) == contents(tmp_path / "whole.jsonl")
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "whole.jsonl"}


@pytest.mark.parametrize("name", ["run_chinese_ref", "create_data"])
def test_an_output_that_is_removed_is_told_and_not_made_again_by_halves(scripts, source, tmp_path, monkeypatch, name):
    main, flags, output_flag, _, _ = scripts[name]
    output = tmp_path / "out"
    in_mid_run(monkeypatch, preparation, "write_shard", lambda: shutil.rmtree(output))
    with pytest.raises(CorpusError, match=f"^--output_dir must stay while it is written, got '{output}' removed"):
        main([*flags, str(source), output_flag, str(output)])
    assert not output.exists()


DAMAGES = {
    "cut short": lambda content: content[:-1],
    "cut in half": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-8],
    "emptied": lambda content: b"",
    "flipped": lambda content: content[:700] + bytes([content[700] ^ 4]) + content[701:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("place", ["data-00002.arrow", "reference/data-00002.arrow"])
def test_a_damaged_shard_of_an_unfinished_corpus_is_made_anew(
    scripts, source, tmp_path, monkeypatch, capsys, place, damage
):
    main, flags, output_flag, _, _ = scripts["run_chinese_ref"]
    output = tmp_path / "out"
    command = [*flags, str(source), output_flag, str(output), "--reference_files"]
    main([*command[:-2], str(tmp_path / "whole"), "--reference_files"])
    whole = contents(tmp_path / "whole")
    with monkeypatch.context() as patch:
        calls = count()
        patch.setattr(preparation, "write_shard", lambda *args: None if next(calls) == 3 else write_shard(*args))
        with pytest.raises(CorpusError, match=r"data-00003\.arrow must stay"):
            main(command)
    (output / place).write_bytes(DAMAGES[damage](whole[place]))
    capsys.readouterr()
    main(command)
    assert contents(output) == whole
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("making unit")]
    assert len(told) == 1 and told[0].startswith(f"making unit 2 again: {output / place}: must be a whole shard")


@pytest.mark.parametrize("name", ["run_chinese_ref", "create_data"])
def test_a_killed_worker_is_told(scripts, source, tmp_path, monkeypatch, name):
    main, flags, output_flag, _, _ = scripts[name]
    flags = ["2" if flag == "1" else flag for flag in flags]
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_shard", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(
            CorpusError, match=rf"^{flags[-3]} must leave each process enough memory, got 2 and one was"
        ):
            main([*flags, str(source), output_flag, str(tmp_path / "out")])
    main([*flags, str(source), output_flag, str(tmp_path / "out")])


def test_a_shard_cut_short_while_it_is_read_is_told(scripts, source, tmp_path):
    main, flags, output_flag, _, _ = scripts["run_chinese_ref"]
    main([*flags, str(source), output_flag, str(tmp_path / "out")])
    corpus, shard = Corpus(tmp_path / "out"), tmp_path / "out" / shard_name(0)
    row = corpus.rows([0])[0]["input_ids"].tolist()
    shutil.copy(shard, tmp_path / "copy")
    os.truncate(shard, 100)
    for read in (lambda: corpus.rows([0]), lambda: list(corpus.shards()), corpus.token_counts):
        with pytest.raises(CorpusError, match=r"must stay as it is while it is read, got data-00000\.arrow with 100 "):
            read()
    (tmp_path / "copy").rename(shard)
    corpus = Corpus(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert corpus.rows([0])[0]["input_ids"].tolist() == row  # the system keeps what is mapped


@pytest.mark.slow
@pytest.mark.parametrize("script", ["run_chinese_ref.py", "data/create_data.py", "data/trans_to_json.py"])
def test_twenty_kills_at_random_moments_change_no_byte(bert_folder, source, tmp_path, script):
    path = tmp_path / "in.jsonl"
    path.write_bytes(source.read_bytes() * 1500)
    flags = {
        "run_chinese_ref.py": [
            "--model_name",
            bert_folder(),
            "--input_path",
            path,
            "--reference_files",
            "--workers=2",
        ],
        "data/create_data.py": ["--tokenizer_name", bert_folder(), "--train_file", path, "--validation_split=0.2"],
        "data/trans_to_json.py": ["--input_path", path, "--json_field=text", "--workers=2", "--dedup"],
    }[script]
    flags += ["--output_path" if "json" in script else "--output_dir"]
    whole, out = tmp_path / "whole" / "o.jsonl", tmp_path / "out" / "o.jsonl"

    def start(output):
        command = [sys.executable, ROOT / script, *flags, output]
        return subprocess.Popen(map(str, command), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    began = time.monotonic()
    assert start(whole).wait() == 0
    seconds, rng, kills = time.monotonic() - began, random.Random(0), 0
    while kills < 20:
        if rng.random() < 0.2 and out.parent.exists():
            shutil.rmtree(out.parent)
        process = start(out)
        try:
            process.wait(rng.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        else:
            assert process.returncode == 0 and contents(out) == contents(whole)
            shutil.rmtree(out.parent)
    assert start(out).wait() == 0
    assert contents(out) == contents(whole)
    assert [entry.name for entry in out.parent.iterdir()] == ["o.jsonl"]
