"""ELECTRA's step benchmark runs and compares equal models."""

import json

import pytest

from benchmarks import electra_step


@pytest.mark.timeout(600)
def test_measures_both_sides_in_time_and_memory(tmp_path, capsys):
    flags = ["--size", "tiny", "--batch", "2", "--length", "16", "--rounds", "1", "--threads", "1", "--dtypes", "fp32"]
    electra_step.main([*flags, "--output_dir", str(tmp_path)])
    (row,) = json.loads((tmp_path / "electra_step.json").read_text(encoding="utf-8"))["rows"]
    assert row["size"] == "tiny" and row["speed_ratio"] > 0 and row["memory_ratio"] > 0
    table = (tmp_path / "electra_step.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out and len(table.splitlines()) == 3


def test_sides_hold_the_same_weights():
    ours, original = (electra_step.Side(name, "tiny", "fp32").model.state_dict() for name in ("ours", "original"))
    assert ours.keys() == original.keys() and all((ours[name] == original[name]).all() for name in ours)
