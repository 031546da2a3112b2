"""The corpus of the command line: exact, whole, the same for any workers and after any kill, or a clear error."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import run_chinese_ref
from common.errors import ArgumentError
from data.corpus.output_folder import locked_output
from data.corpus.store import Corpus
from data.files import DataError
from data.tokens.tokenizer_files import load_backend
from tests.chinese_corpora import documents, prepare, write_jsonl
from tests.data.preparing import contents


def test_the_corpus_holds_every_token_of_every_document(vocabulary, tmp_path, small_units, capsys):
    texts = documents(60)
    corpus = prepare(vocabulary, write_jsonl(tmp_path / "in.jsonl", texts), tmp_path / "out", "--max_seq_length", "24")
    backend = load_backend(str(vocabulary), None)
    first, last = backend.encode("").ids
    tokens = {}
    for row, document in zip(corpus.rows(range(len(corpus))), corpus.documents.tolist(), strict=True):
        ids = row["input_ids"].tolist()
        assert (ids[0], ids[-1]) == (first, last) and len(ids) <= 24
        assert row["continuation"][[0, 1, -1]].tolist() == [0, 0, 0]
        tokens.setdefault(document, []).extend(ids[1:-1])
    expected = {i: backend.encode(text, add_special_tokens=False).ids for i, text in enumerate(texts)}
    assert tokens == {i: ids for i, ids in expected.items() if ids}
    assert len(corpus.manifest["shards"]) > 3
    counts = corpus.manifest["counts"]
    assert counts["documents"] == 60
    assert counts["tokens"] == sum(map(len, tokens.values())) == corpus.lengths.sum() - 2 * len(corpus)
    assert f"60 documents, {counts['tokens']:,} tokens in {len(corpus):,} blocks" in capsys.readouterr().out


def test_tokens_of_the_input_are_written_or_counted_as_dropped(vocabulary, tmp_path):
    texts = documents(80)
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    counts = prepare(vocabulary, source, tmp_path / "out", "--min_chars", "100").manifest["counts"]
    backend = load_backend(str(vocabulary), None)
    total = sum(len(backend.encode(text, add_special_tokens=False).ids) for text in texts)
    assert counts["tokens"] + counts["dropped_tokens"] == total
    assert 0 < counts["dropped_tokens"] < total
    assert counts["dropped_documents"] == sum(len(text.strip()) < 100 for text in texts)


def test_text_without_a_long_word_is_kept(vocabulary, tmp_path):
    corpus = prepare(vocabulary, write_jsonl(tmp_path / "in.jsonl", ["我", "a"]), tmp_path / "out")
    assert corpus.documents.tolist() == [0, 1]


def test_the_vocabulary_folder_of_the_documented_command_works(bert_folder, tmp_path, monkeypatch):
    folder = tmp_path / "junnyu" / "roformer_chinese_char_base"
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_bytes((bert_folder() / "vocab.txt").read_bytes())
    write_jsonl(tmp_path / "clue_corpus_small_14g.jsonl", documents(3))
    monkeypatch.chdir(tmp_path)
    command = ["--model_name", "junnyu/roformer_chinese_char_base", "--input_path", "clue_corpus_small_14g.jsonl"]
    run_chinese_ref.main(command)
    before = contents("clue_small_wwm_data")
    (folder / "config.json").write_text('{"model_type": "roformer"}')
    run_chinese_ref.main(command)  # the same tokenizer
    assert contents("clue_small_wwm_data") == before
    assert len(Corpus("clue_small_wwm_data")) >= 1


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(vocabulary, tmp_path):
    source, out = write_jsonl(tmp_path / "in.jsonl", documents(1500)), tmp_path / "out"
    code = (
        "import sys, data.corpus.sources as p; p.UNIT_BYTES = 9000; import run_chinese_ref as r; r.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "--model_name", str(vocabulary), "--input_path", str(source)]
    command += ["--workers", "2", "--reference_files", "--output_dir"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    whole = contents(tmp_path / "whole")
    shards, rng, interrupted = sum(name.startswith("data-") for name in whole), random.Random(7), 0
    for share in (0, 0.1, 0.4, 0.7, 0.95):  # of the shards that are there when the run is killed
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("data-*.arrow"))) < share * shards:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02) if share else rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked_output(out):  # free once no orphan writes any more
            done = contents(out)
            assert not [name for name in done if name.endswith(".partial")]
            interrupted += 0 < sum(name.startswith("data-") for name in done) < shards
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    assert contents(out) == whole
    assert interrupted >= 2


BAD_LINES = [b'{"text": "a"', b'{"body": "a"}', b'{"text": "\xff"}', b'{"text": 3}', b"[]", b'{"text": "\\ud800"}']


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_or_skipped_and_counted(vocabulary, tmp_path, line):
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"text": "\xe6\x88\x91\xe7\x88\xb1"}\n\n' + line + b'\n{"text": "\xe4\xbd\xa0"}')
    with pytest.raises(DataError, match=r"in\.jsonl:3: "):
        prepare(vocabulary, source, tmp_path / "out")
    corpus = prepare(vocabulary, source, tmp_path / "out", "--on_error", "skip")
    assert corpus.manifest["counts"]["skipped_lines"] == 1
    assert corpus.documents.tolist() == [0, 3]
    with pytest.raises(DataError, match=r"in\.jsonl:3: "):  # what was skipped is not taken over silently
        prepare(vocabulary, source, tmp_path / "out")


def test_line_separators_inside_a_text_do_not_split_it(vocabulary, tmp_path):
    text = "研究\u2028生命\u0085起源\r我"
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8", newline="")
    assert prepare(vocabulary, source, tmp_path / "out").documents.tolist() == [0]


def test_a_line_of_ten_megabytes_works(vocabulary, tmp_path):
    text = "这位研究生在北京大学研究生命起源。" * 200_000
    corpus = prepare(vocabulary, write_jsonl(tmp_path / "in.jsonl", [text, "我爱你"]), tmp_path / "out")
    assert corpus.manifest["counts"]["tokens"] == len(text) + 3
    assert corpus.lengths[:-2].min() > 480 and corpus.documents[-1] == 1


def test_a_shard_takes_at_most_six_bytes_a_token(vocabulary, tmp_path):
    corpus = prepare(vocabulary, write_jsonl(tmp_path / "in.jsonl", documents(400)), tmp_path / "out")
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert size <= 6 * corpus.manifest["counts"]["tokens"]


def test_the_original_joined_words_are_separate(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ["他在研究生命起源。这位研究生也参与其中。"])
    (row,) = prepare(vocabulary, source, tmp_path / "out").rows([0])
    # 他|在|研究|生命|起源|。|这位|研究生|也|参与|其中|。 with [CLS] and [SEP]
    expected = [0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0]
    assert row["continuation"].tolist() == expected


def test_a_missing_tokenizer_is_named_within_five_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = write_jsonl(tmp_path / "in.jsonl", ["我"])
    started = time.monotonic()
    with pytest.raises(
        ArgumentError, match="--tokenizer_name no-body/no-thing must be a folder or a reachable hub name"
    ):
        prepare("no-body/no-thing", source, tmp_path / "out")
    assert time.monotonic() - started < 5
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("texts", [[], ["", " \n"], ["我爱"]])
def test_an_input_without_text_is_refused(vocabulary, tmp_path, texts):
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    with pytest.raises(ArgumentError, match="--input_path must hold text"):
        prepare(vocabulary, source, tmp_path / "out", "--min_chars", "3")


@pytest.mark.parametrize("flag", ["--max_seq_length", "--workers", "--min_chars", "--log_interval"])
def test_numbers_that_cannot_work_are_refused(vocabulary, tmp_path, flag):
    source = write_jsonl(tmp_path / "in.jsonl", ["我"])
    with pytest.raises(ArgumentError, match=f"{flag} must be at least"):
        prepare(vocabulary, source, tmp_path / "out", flag, "-1")


def test_the_script_needs_no_transformers_and_ends_errors_in_one_line(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ["我爱北京"])
    command = [
        "--model_name",
        str(vocabulary),
        "--input_path",
        str(source),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    code = (
        f"import sys, run_chinese_ref as r; r.main({command!r}); "
        "assert not {'torch', 'transformers', 'datasets', 'pandas'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    script = [sys.executable, run_chinese_ref.__file__, *command, "--min_chars", "9"]
    failed = subprocess.run(script, capture_output=True, text=True, check=False, env=os.environ)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("run_chinese_ref.py: --min_chars must be the same as when")
