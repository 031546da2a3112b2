"""Rows that run on across shards: cut again after a stop, and never cut from what is not all there."""

import pytest

from data.corpus import concat_shards
from data.corpus.arrow_shards import CorpusError
from data.corpus.store import Corpus
from tests.data.english_corpora import TEXTS, prepare, write_jsonl
from tests.data.preparing import contents


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_run_stopped_while_rows_are_cut_goes_on(vocabulary, tmp_path, small_tables, monkeypatch, stop):
    flags = ("--train_file", write_jsonl(tmp_path / "in.jsonl", TEXTS), "--max_seq_length", 300)  # longer than a unit
    prepare(vocabulary, tmp_path / "whole", *flags)
    real, calls = concat_shards.write_shard, []

    def failing(path, *args):
        calls.append(1)
        if len(calls) > stop:
            raise KeyboardInterrupt
        real(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(concat_shards, "write_shard", failing)
        with pytest.raises(KeyboardInterrupt):
            prepare(vocabulary, tmp_path / "out", *flags)
    with pytest.raises(CorpusError, match="must be a finished corpus"):
        Corpus(tmp_path / "out")
    prepare(vocabulary, tmp_path / "out", *flags)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_lost_after_rows_were_cut_is_told(vocabulary, tmp_path, small_tables):
    flags = ("--train_file", write_jsonl(tmp_path / "in.jsonl", TEXTS), "--max_seq_length", 300)
    prepare(vocabulary, tmp_path / "out", *flags)
    (tmp_path / "out/data-00002.arrow").unlink()
    with pytest.raises(CorpusError, match=r"--output_dir .* must hold all shards"):
        prepare(vocabulary, tmp_path / "out", *flags)
