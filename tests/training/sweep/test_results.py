import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import ArgumentError
from training.sweep.grid import plan_jobs
from training.sweep.results import summarise


@pytest.fixture
def sweep(tmp_path):
    """Invent the results of a sweep: {(task, lr): {seed: value or None for unfinished}}."""

    def make(values, out="out", settings=None, **fields):
        for (task, lr), by_seed in values.items():
            for seed, value in by_seed.items():
                job = plan_jobs([task], (settings or {}) | {"lr": lr}, {}, [seed], tmp_path / out)[0]
                job.write()
                if value is not None:
                    result = {
                        "primary": "accuracy",
                        "parameters": 14_000_000,
                        "seconds": 90.0,
                        "test": {},
                        "steps": 10,
                    }
                    result |= {"metrics": {"accuracy": value, "f1": value / 2}, "degenerate": value < 50}
                    (job.folder / "result.json").write_text(json.dumps(result | fields))
        return tmp_path / out

    return make


def chosen(summary):
    return {row["task"]: row for row in summary["configurations"] if row["chosen"]}


def test_the_best_mean_over_seeds_is_chosen_not_the_best_seed(sweep):
    out = sweep({("rte", 1e-5): {1: 60.0, 2: 70.0, 3: 65.0}, ("rte", 2e-5): {1: 90.0, 2: 40.0, 3: 50.0}})
    summary = summarise(out)
    row = chosen(summary)["rte"]
    assert row["label"] == "lr=1e-05"
    assert (row["mean"], row["median"], row["sd"], row["n"]) == (65.0, 65.0, 5.0, 3)
    assert row["metrics"]["f1"]["mean"] == 32.5
    assert len(summary["configurations"]) == 2, "all are kept"
    other = next(row for row in summary["configurations"] if not row["chosen"])
    assert other["degenerate"] == 1 and other["values"] == [90.0, 40.0, 50.0]


def test_missing_seeds_and_degenerate_and_shortened_runs_are_flagged_and_come_last(sweep):
    values = {("rte", 1e-5): {1: 60.0, 2: 60.0}, ("rte", 2e-5): {1: 80.0, 2: None}, ("cola", 1e-5): {1: 0.0}}
    out = sweep(values)
    sweep({("rte", 1e-5): {1: 99.0, 2: 99.0}}, settings={"max_train_samples": 8})
    summary = summarise(out)
    assert chosen(summary)["rte"]["mean"] == 60.0
    flags = {row["mean"]: (row["missing_seeds"], row["shortened"]) for row in summary["configurations"]}
    assert flags == {60.0: ([], False), 80.0: ([2], False), 99.0: ([], True), 0.0: ([], False)}
    text = (out / "summary.md").read_text()
    for remark in ("without seeds 2", "shortened by a debug option", "1 of 1 runs degenerate"):
        assert remark in text


def test_the_summary_is_written_as_csv_json_markdown_and_latex(sweep):
    out = sweep({("rte", 1e-5): {1: 60.0, 2: 70.0}, ("smp_x", 2e-5): {1: 80.0, 2: 81.0}}, test={"accuracy": 55.5})

    def averages(scores):
        assert scores["rte"] == {"accuracy": 65.0, "f1": 32.5}
        yield SimpleNamespace(
            board="glue8",
            mean=65.0,
            harmonic_mean=64.0,
            tasks={"rte": 65.0},
            formed_by={"rte": ("accuracy",)},
            missing=("cola",),
        )
        yield None

    summary = summarise(out, averages=averages)
    assert json.loads((out / "summary.json").read_text())["configurations"] == summary["configurations"]
    with open(out / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows] == ["rte", "smp_x"]
    assert (rows[0]["mean"], rows[0]["n"], rows[0]["lr"], rows[0]["seeds"]) == ("65.0", "2", "1e-05", "1 2")
    assert float(rows[0]["sd"]) == pytest.approx(7.0710678) and rows[0]["test_accuracy_mean"] == "55.5"
    text = (out / "summary.md").read_text()
    assert "glue8: arithmetic mean 65.00, harmonic mean 64.00 over 1 tasks: rte (accuracy); missing: cola" in text
    assert "| rte | accuracy | 65.00 | 65.00 | 7.07 | 2 |" in text and "accuracy 55.50 ± 0.00" in text
    tex = (out / "summary.tex").read_text()
    assert r"smp\_x & accuracy & 80.50 $\pm$ 0.71 & 80.50 & 2 & 14.0 M \\" in tex and r"\bottomrule" in tex
    assert not list(out.glob("incomplete-*"))


def test_a_task_without_a_dev_set_has_its_test_scores_only(sweep):
    out = sweep({("mrpc", 1e-5): {1: 1.0}}, primary=None, metrics={}, test={"accuracy": 68.38}, steps=0)
    summary = summarise(out, averages=lambda scores: pytest.fail("no dev score") if scores else [])
    assert chosen(summary)["mrpc"]["mean"] is None
    text = (out / "summary.md").read_text()
    assert "accuracy 68.38" in text and "evaluated only" in text
    assert "68.38" in (out / "summary.csv").read_text() and (out / "summary.tex").is_file()


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(ArgumentError, match=r"--output_dir .* must hold at least one result\.json"):
        summarise(tmp_path)


def hits_of(task, path):
    """What data/scoring/item_sums.py makes of predictions, here of a list of 0 and 1."""
    hits = np.array(json.loads(path.read_text()))
    sums = np.stack([hits.astype(float), np.ones(len(hits))], 1)
    keys = [("dev", str(i)) for i in range(len(hits))]
    return SimpleNamespace(
        name="accuracy", keys=keys, sums=sums, metric=lambda s: 100 * s[..., 0] / s[..., 1], hits=hits > 0
    )


def with_hits(out, count=200):
    for path in out.glob("*/*/seed*/result.json"):
        share = json.loads(path.read_text())["metrics"]["accuracy"] / 100
        (path.parent / "eval_preds.jsonl").write_text(json.dumps([int(i < share * count) for i in range(count)]))


def test_configurations_are_compared_with_a_named_baseline(sweep):
    out = sweep({("rte", 1e-5): {1: 60.0, 2: 62.0}, ("rte", 2e-5): {1: 80.0, 2: 82.0}, ("cola", 1e-5): {1: 70.0}})
    with_hits(out)
    summary = summarise(out, baseline="lr=1e-05", item_sums=hits_of)
    [record] = summary["comparisons"]
    assert record["task"] == "rte" and record["label"] == "lr=2e-05"
    assert record["items"]["difference"] == pytest.approx(20.0) and record["items"]["randomisation_p"] < 0.001
    assert record["items"]["seeds"] == [1, 2] and len(record["mcnemar_p"]) == 2
    assert record["welch"]["p"] < 0.05
    text = (out / "summary.md").read_text()
    assert "## Against lr=1e-05" in text and "| +20.00 | +1" in text and "not corrected" in text


def test_a_baseline_may_be_another_sweep_or_one_configuration_of_it(sweep):
    out = sweep({("rte", 1e-5): {1: 80.0, 2: 81.0}})
    other = sweep({("rte", 3e-5): {7: 60.0}, ("rte", 4e-5): {7: 50.0}}, out="other")
    with_hits(out)
    with_hits(other)
    by_sweep = summarise(out, str(other), item_sums=hits_of)["comparisons"][0]
    assert by_sweep["difference"] == 20.5 and by_sweep["welch"] is None
    assert by_sweep["items"]["difference"] == pytest.approx(20.0) and by_sweep["items"]["seeds"] == 1
    worst = next(path.parents[1] for path in other.glob("rte/*/seed7/result.json") if ": 50.0" in path.read_text())
    assert summarise(out, str(worst), item_sums=hits_of)["comparisons"][0]["difference"] == 30.5
    with pytest.raises(ArgumentError, match="--baseline nothing must be a configuration in"):
        summarise(out, "nothing")


def test_items_that_are_not_the_same_are_not_compared(sweep):
    out = sweep({("rte", 1e-5): {1: 60.0, 2: 61.0}, ("rte", 2e-5): {1: 80.0, 2: 82.0}})
    with_hits(out)
    assert "items" in summarise(out, "lr=1e-05")["comparisons"][0]["note"], "nothing to read them by"
    next(path for path in out.glob("rte/*/seed1/eval_preds.jsonl")).write_text("[1, 0]")
    record = summarise(out, "lr=1e-05", item_sums=hits_of)["comparisons"][0]
    assert record["items"] is None and record["welch"] and "not evaluated on the same items" in record["note"]
