"""benchmarks/large_corpus.py: a row for every number that is asked for, measured on a corpus that counts as large."""

import json

from benchmarks import large_corpus
from data.corpus import store


def test_opening_and_the_first_batch_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SMALL", 0)
    large_corpus.main(["--tiny", "--threads", "1", "--output_dir", str(tmp_path), "--corpus_dir", str(tmp_path)])
    rows = json.loads((tmp_path / "large_corpus.json").read_text(encoding="utf-8"))["rows"]
    measured = {row["what"]: row["measured"] for row in rows}
    assert measured["rows of the corpus"] == "6,000" and measured["shards"] == "20"
    assert float(measured["opening"].split()[0]) < 2
    for kind in large_corpus.KINDS:
        assert float(measured[f"rows {kind}: from opening to the first batch"].split()[0]) < 60
        assert "MB a loader worker" in measured[f"rows {kind}: memory after 5 batches of 32"]
    assert int(measured["a loader worker after 5 batches of 32"].split()[0]) > 0
    assert measured["computed: 48 loader workers"].endswith("their maps are the same pages")
    assert not list(tmp_path.glob("*/data-*.arrow")), "the corpus is gone"
