"""Corpora made in shares: the bytes of a single run for any number of shares, and one line for what does not fit."""

import csv
import fcntl
import json
import shutil

import pytest

import run_chinese_ref
from common.errors import ArgumentError, UserError
from data import create_data
from data.corpus import concat_shards, output_folder, shares
from data.corpus.arrow_shards import CorpusError
from data.corpus.store import Corpus
from tests import chinese_corpora
from tests.data.english_corpora import TEXTS, write_jsonl
from tests.data.preparing import contents

COUNTS = [1, 2, 5]


def chinese(tokenizer, source, output, *flags):
    words = ["--model_name", tokenizer, "--input_path", source, "--output_dir", output, "--workers", 1, *flags]
    run_chinese_ref.main(list(map(str, words)))


def english(tokenizer, source, output, *flags):
    words = ["--tokenizer_name", tokenizer, "--train_file", *source, "--output_dir", output, *flags]
    create_data.main(list(map(str, [*words, "--preprocessing_num_workers", 1])))


def in_shares(script, tokenizer, source, output, count, *flags):
    for index in reversed(range(count)):
        script(tokenizer, source, output, *flags, "--shard_index", index, "--num_shards", count)
    script(tokenizer, source, output, *flags, "--merge")


@pytest.fixture
def chinese_source(vocabulary, small_units, tmp_path):
    return chinese_corpora.write_jsonl(tmp_path / "in.jsonl", chinese_corpora.documents(60))


@pytest.fixture
def begun(vocabulary, chinese_source, tmp_path):
    """(index, *flags): makes one of three shares in `out`."""

    def share(index, *flags):
        more = ("--num_shards", 3, "--max_seq_length", 24, *flags)
        chinese(vocabulary, chinese_source, tmp_path / "out", "--shard_index", index, *more)

    return share


@pytest.fixture
def merge(vocabulary, chinese_source, tmp_path):
    def merged(*flags):
        chinese(vocabulary, chinese_source, tmp_path / "out", "--merge", "--max_seq_length", 24, *flags)

    return merged


@pytest.mark.parametrize("count", COUNTS)
def test_chinese_shares_equal_a_single_run(vocabulary, chinese_source, tmp_path, count, capsys):
    flags = ("--max_seq_length", 24, "--reference_files")
    chinese(vocabulary, chinese_source, tmp_path / "whole", *flags)
    summary = capsys.readouterr().out.replace("whole", "out")
    in_shares(chinese, vocabulary, chinese_source, tmp_path / "out", count, *flags)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(Corpus(tmp_path / "out").manifest["shards"]) > 5
    assert capsys.readouterr().out.endswith(summary)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "flags", [(), ("--line_by_line", "--keep_lines", "--min_line_chars", 9)], ids=["grouped", "lines"]
)
def test_english_shares_equal_a_single_run(bert_folder, small_tables, tmp_path, count, kind, flags):
    if kind == "jsonl":
        source = [write_jsonl(tmp_path / f"{part}.jsonl", TEXTS[part::2]) for part in range(2)]
    else:
        source = [tmp_path / "in.csv"]
        with source[0].open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])
    tokenizer = bert_folder()
    flags += ("--max_seq_length", 32, "--validation_split", 0.3, "--cache_dir", tmp_path / "cache")
    english(tokenizer, source, tmp_path / "whole", *flags)
    in_shares(english, tokenizer, source, tmp_path / "out", count, *flags)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(Corpus(tmp_path / "out" / "validation").manifest["shards"]) > 5


def test_inputs_are_read_once_for_all_shares(begun, monkeypatch):
    begun(0)
    monkeypatch.setattr("data.corpus.sources.LineSource.scan", None)
    begun(1)


def test_what_is_done_is_not_done_again(begun, merge, chinese_source, tmp_path, capsys):
    for index in range(3):
        begun(index)
    share = contents(tmp_path / "out")
    begun(1)
    assert contents(tmp_path / "out") == share
    assert "share 1 is finished" in capsys.readouterr().out
    merge()
    whole = contents(tmp_path / "out")
    for again in (merge, lambda: begun(2)):
        again()
        assert "nothing to do" in capsys.readouterr().err
    assert contents(tmp_path / "out") == whole
    with chinese_source.open("a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(CorpusError, match="--input_path must be the same as when"):
        merge()


@pytest.mark.parametrize("steps", [1, 4, 6, 8, 11, 12])
def test_a_merge_that_is_stopped_goes_on(bert_folder, small_tables, tmp_path, monkeypatch, steps):
    tokenizer, source = bert_folder(), [write_jsonl(tmp_path / "in.jsonl", TEXTS[:40])]
    flags = ("--max_seq_length", 32)
    english(tokenizer, source, tmp_path / "whole", *flags)
    left = [steps]

    class Killed(BaseException):
        pass

    def count(function):
        def counted(*arguments, **options):
            left[0] -= 1
            if not left[0]:
                raise Killed
            return function(*arguments, **options)

        return counted

    for index in range(2):
        english(tokenizer, source, tmp_path / "out", *flags, "--shard_index", index, "--num_shards", 2)
    with monkeypatch.context() as patch:
        for module, name in (
            (shares, "_move"),
            (concat_shards, "_rewrite"),
            (shares, "finish"),
            (create_data, "drop_shares"),
        ):
            patch.setattr(module, name, count(getattr(module, name)))
        with pytest.raises(Killed):
            english(tokenizer, source, tmp_path / "out", *flags, "--merge")
    english(tokenizer, source, tmp_path / "out", *flags, "--merge")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# What does not fit


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--shard_index", 0, "--num_shards", 4), "--num_shards must be the same as when .* was begun, 3, got 4"),
        (("--max_seq_length", 48), "--max_seq_length must be the same as when .* was begun, 24, got 48"),
        (("--input_path", "elsewhere"), "--input_path must be the same as when .*in.jsonl, got elsewhere"),
        (("--num_shards", 0), "--num_shards must be at least 1, got 0"),
        (("--shard_index", 3), r"--shard_index must lie in 0\.\.2 by --num_shards, got 3"),
        (("--merge",), "--merge joins all shares, got --shard_index 1 beside it"),
    ],
)
def test_a_share_that_does_not_fit_is_refused(begun, tmp_path, flags, message):
    begun(0)
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=message):
        begun(1, *flags)
    assert contents(tmp_path / "out") == before


def test_one_of_the_two_flags_is_refused(vocabulary, chinese_source, tmp_path):
    with pytest.raises(ArgumentError, match="--shard_index and --num_shards must be given together"):
        chinese(vocabulary, chinese_source, tmp_path / "out", "--shard_index", 1)


def test_a_single_run_leaves_shares_alone(begun, vocabulary, chinese_source, tmp_path):
    begun(0)
    with pytest.raises(CorpusError, match="--output_dir must not have been begun in shares"):
        chinese(vocabulary, chinese_source, tmp_path / "out", "--max_seq_length", 24)


def test_a_merge_of_nothing_is_refused(merge):
    with pytest.raises(CorpusError, match="--merge needs shares, got none"):
        merge()


def missing(share):
    shutil.rmtree(share)


def unfinished(share):
    (share / "share.json").unlink()


def of_other_settings(share):
    manifest = json.loads((share / "manifest.json").read_text())
    del manifest["crc32"]
    manifest["settings"]["min_chars"] = 7
    (share / "manifest.json").write_text(json.dumps(manifest))


def of_other_units(share):
    shutil.copytree(share.with_name("00000"), share, dirs_exist_ok=True)


def cut_short(share):
    (share / "share.json").write_bytes((share / "share.json").read_bytes()[:20])


def without_a_shard(share):
    next(share.glob("data-*")).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, "--merge needs all 3 shares, got number 1 missing or unfinished in .*00001; .*--shard_index 1"),
        (unfinished, "--merge needs all 3 shares, got number 1 missing"),
        (of_other_settings, "--min_chars must be the same as when .*00001 was begun, 7, got 1"),
        (of_other_units, ".*00001 must have the units of share 1, got others"),
        (cut_short, ".*share.json must be as it was written, got a damaged one"),
        (without_a_shard, ".*data-.*arrow must stay until it is merged, got it removed"),
    ],
)
def test_a_share_that_is_not_whole_is_told_at_the_merge(begun, merge, tmp_path, damage, message):
    for index in range(3):
        begun(index)
    damage(tmp_path / "out" / "shares" / "00001")
    with pytest.raises(UserError, match=message) as error:
        merge()
    assert "\n" not in str(error.value)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"] is False


def test_two_merges_at_once_are_refused(begun, merge, tmp_path, monkeypatch):
    for index in range(3):
        begun(index)
    monkeypatch.setattr(output_folder, "_LOCK_SECONDS", 0.1)
    with (tmp_path / "out" / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CorpusError, match="--output_dir must be free"):
            merge()


def test_lines_that_shares_left_out_are_not_taken_over_silently(begun, merge, chinese_source, tmp_path):
    with chinese_source.open("a") as file:
        file.write("no JSON\n")
    for index in range(3):
        begun(index, "--on_error", "skip")
    with pytest.raises(CorpusError, match="--on_error must be skip, with which shares left out 1 lines, got fail"):
        merge()
    merge("--on_error", "skip")
    assert Corpus(tmp_path / "out").manifest["counts"]["skipped_lines"] == 1


def test_inputs_that_change_after_the_first_share_are_told(begun, chinese_source):
    begun(0)
    with chinese_source.open("a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(UserError, match=r"in\.jsonl: must stay as it is while it is read"):
        begun(2)
