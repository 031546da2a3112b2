"""Finetuning's step benchmark runs, and stops when the two sides do not read the same rows."""

import json

import pytest

from benchmarks import finetune_step
from data.features.build import make_features


@pytest.mark.timeout(600)
def test_measures_both_sides_on_equal_rows(bert_folder, tmp_path, capsys, monkeypatch):
    text = "".join(f"{number % 2}\t{'今天天气很好' * (number % 5 + 1)}\n" for number in range(40))
    (tmp_path / "train.tsv").write_text(f"label\ttext_a\n{text}", encoding="utf-8")
    flags = ["--train_file", str(tmp_path / "train.tsv"), "--tokenizer", str(bert_folder()), "--size", "tiny"]
    flags += ["--batch", "4", "--max_length", "24", "--steps", "2", "--rounds", "1", "--threads", "1"]
    finetune_step.main([*flags, "--output_dir", str(tmp_path)])
    table = json.loads((tmp_path / "finetune_step.json").read_text(encoding="utf-8"))["rows"]
    assert [row["model"] for row in table] == ["gau_alpha tiny", "bert tiny"]
    assert all(row["rows"] == 40 and row["ratio_steps"] > 0 and row["ratio_epoch"] > 0 for row in table)
    assert (tmp_path / "finetune_step.md").read_text(encoding="utf-8") in capsys.readouterr().out
    monkeypatch.setattr(
        finetune_step, "make_features", lambda *args, **o: make_features(*args, **o | {"max_length": 9})
    )
    with pytest.raises(ValueError, match="rows of both sides must be equal"):
        finetune_step.main([*flags, "--families", "bert", "--output_dir", str(tmp_path)])
