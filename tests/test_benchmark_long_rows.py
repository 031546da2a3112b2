"""benchmarks/long_rows.py: a row for each model and length, the growth against its own shortest rows."""

import json

from benchmarks import long_rows


def test_every_model_and_length_has_a_row(tmp_path):
    long_rows.main(["--tiny", "--threads", "1", "--output_dir", str(tmp_path)])
    rows = json.loads((tmp_path / "long_rows.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["model"], row["tokens a row"]) for row in rows] == [
        (family, length) for family in ("FLASH", "GAU-alpha", "BERT") for length in (16, 32)
    ]
    assert all(row["growth"] == 1 for row in rows[::2])
    for short, long in zip(rows[::2], rows[1::2], strict=True):
        expected = long["microseconds a token"] / short["microseconds a token"]
        assert abs(long["growth"] - expected) <= 0.01 + 0.02 * expected
