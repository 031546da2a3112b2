"""What a sweep found: result.json of all jobs -> one row per task and configuration, picks, averages, comparisons.

Of each task the configuration with the best mean dev score over its seeds is chosen; a configuration with seeds
missing, or with a run that a debug option shortened, only where there is no other. No single seed is ever chosen.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import ArgumentError
from common.shortening import SHORTENING
from training.files import write_whole
from training.finetune.job import JOB_FILE, RESULT_FILE, Job
from training.sweep.grid import varying
from training.sweep.significance import compare_items, mcnemar, welch
from training.sweep.summary_tables import as_csv, as_markdown, as_tex

EVAL_FILE = "eval_preds.jsonl"


def summarise(
    out: Path | str,
    baseline: str | None = None,
    averages: Callable[[Mapping[str, Mapping[str, float]]], Sequence] = lambda scores: (),
    item_sums: Callable[[str, Path], object] | None = None,
) -> dict:
    """Write summary.json, .csv, .md and .tex of all results below `out`, and return what summary.json holds.

    baseline: a configuration's name or label in `out`, its folder, or the folder of another sweep.
    averages: {task: {metric: mean over seeds}} of the chosen configurations -> data.scoring.boards.Average objects.
    item_sums: (task, eval_preds.jsonl) -> data.scoring.item_sums.ItemSums, for the tests over items.

    Raises:
        ArgumentError: no result below `out`, or a baseline that is none of these.
    """
    out = Path(out)
    rows = read_configurations(out)
    if not rows:
        raise ArgumentError(f"--output_dir {out} must hold at least one {RESULT_FILE}, got none; run a job first")
    best = [row for row in rows if row["chosen"] and row["n"]]
    scores = {row["task"]: {name: value["mean"] for name, value in row["metrics"].items()} for row in best}
    summary = {
        "configurations": rows,
        "averages": [
            {
                "board": one.board,
                "arithmetic_mean": one.mean,
                "harmonic_mean": one.harmonic_mean,
                "tasks": {name: {"score": one.tasks[name], "metrics": by} for name, by in one.formed_by.items()},
                "missing": one.missing,
            }
            for one in averages(scores)
            if one is not None
        ],
        "baseline": baseline,
        "comparisons": _comparisons(rows, _find_baseline(rows, out, baseline), item_sums) if baseline else [],
    }
    writers = {"json": lambda s: json.dumps(s, indent=1, ensure_ascii=False) + "\n"}
    writers |= {"csv": as_csv, "md": as_markdown, "tex": as_tex}
    for ending, write in writers.items():
        write_whole(out / f"summary.{ending}", write(summary))
    return summary


def read_configurations(out: Path) -> list[dict]:
    """One row per task and configuration below `out`, of each task the best first; `chosen` marks one of each."""
    by_config: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(out.glob(f"*/*/seed*/{RESULT_FILE}")):
        task, config = path.parts[-4:-2]
        by_config.setdefault((task, config), []).append(path.parent)
    seeds: dict[str, set[int]] = {}  # of all configurations of a task, finished or not
    for path in out.glob(f"*/*/seed*/{JOB_FILE}"):
        seeds.setdefault(path.parts[-4], set()).add(_seed(path.parent))
    rows = [_row(task, folders, seeds.get(task, set())) for (task, _), folders in by_config.items()]
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        names = varying([row["settings"] for row in of_task])
        for row in of_task:
            label = ",".join(f"{name}={row['settings'][name]}" for name in names if name in row["settings"])
            row["label"] = " ".join(filter(None, (label, row["init_from"] and f"from {row['init_from']}")))
        max(of_task, key=_rank)["chosen"] = True
    order = list(dict.fromkeys(row["task"] for row in rows))
    return sorted(rows, key=lambda row: (-order.index(row["task"]), row["chosen"], _rank(row)), reverse=True)


def _rank(row: dict) -> tuple:
    """What makes a configuration better: full runs, all seeds (else more of them), the mean."""
    complete = not row["missing_seeds"]
    mean = row["mean"] if row["mean"] is not None else -float("inf")
    return (not row["shortened"], complete, 0 if complete else row["n"], mean)


def _row(task: str, folders: list[Path], seeds: set[int]) -> dict:
    folders = sorted(folders, key=_seed)
    results = [json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")) for folder in folders]
    job = Job.read(folders[0])
    metric = results[0]["primary"]  # None without a labelled dev set
    values = [result["metrics"][metric] for result in results] if metric else []
    return {
        "task": task,
        "config": folders[0].parent.name,
        "label": "",
        "chosen": False,
        "metric": metric,
        **_spread(values),
        "values": values,
        "seeds": [_seed(folder) for folder in folders],
        "missing_seeds": sorted(seeds - {_seed(folder) for folder in folders}),
        "degenerate": sum(result["degenerate"] for result in results),
        "untrained": not any(result["steps"] for result in results),
        "shortened": any(job.settings.get(name) for name in SHORTENING),
        "metrics": _spreads([result["metrics"] for result in results]),
        "test": _spreads([result["test"] for result in results]),
        "parameters": results[0]["parameters"],
        "seconds": statistics.fmean(result["seconds"] for result in results),
        "settings": job.settings,
        "init_from": job.init_from.parts[-3] if job.init_from else None,
        "folders": [str(folder) for folder in folders],
    }


def _spread(values: Sequence[float]) -> dict:
    """mean, median, sd (of the sample; None for one value), n; nothing but n without values."""
    if not values:
        return {"mean": None, "median": None, "sd": None, "n": 0}
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "median": statistics.median(values), "sd": sd, "n": len(values)}


def _spreads(scores: Sequence[Mapping[str, float]]) -> dict[str, dict]:
    """The spread of each metric that all runs have."""
    return {name: _spread([one[name] for one in scores]) for name in scores[0] if all(name in one for one in scores)}


def _seed(folder: Path) -> int:
    return int(folder.name.removeprefix("seed"))


def _find_baseline(rows: list[dict], out: Path, baseline: str) -> dict[str, dict]:
    """The row that stands for the baseline in each task."""
    named = {row["task"]: row for row in rows if baseline in (row["config"], row["label"])}
    if named:
        return named
    folder = Path(baseline)
    if any(folder.glob(f"*/*/seed*/{RESULT_FILE}")):
        return {row["task"]: row for row in read_configurations(folder) if row["chosen"]}
    finished = [path.parent for path in folder.glob(f"seed*/{RESULT_FILE}")]
    if finished:
        task = folder.resolve().parts[-2]
        return {task: _row(task, finished, set()) | {"label": baseline}}
    known = ", ".join(dict.fromkeys(f"{row['config']} ({row['label']})" for row in rows))
    raise ArgumentError(
        f"--baseline {baseline} must be a configuration in {out}, its folder or a sweep's, got none of these; "
        f"choose among {known}"
    )


def _comparisons(rows: list[dict], baselines: Mapping[str, dict], item_sums: Callable | None) -> list[dict]:
    comparisons = []
    for row in rows:
        base = baselines.get(row["task"])
        if base is not None and base["folders"] != row["folders"] and base["metric"] == row["metric"] is not None:
            comparisons.append(_compare(row, base, item_sums))
    return comparisons


def _compare(row: dict, base: dict, item_sums: Callable | None) -> dict:
    """Tests over items on the seeds that both have (else on as many as both have), and over all seeds."""
    record = {key: row[key] for key in ("task", "config", "label", "metric")}
    record |= {"baseline": base["config"], "difference": row["mean"] - base["mean"]}
    record |= {"welch": welch(row["values"], base["values"]), "items": None, "mcnemar_p": None}
    shared = sorted(set(row["seeds"]) & set(base["seeds"]))
    sides = []
    for side in (row, base):
        by_seed = dict(zip(side["seeds"], side["folders"], strict=True))
        chosen = [by_seed[seed] for seed in shared] or side["folders"][: min(row["n"], base["n"])]
        files = [Path(folder) / EVAL_FILE for folder in chosen]
        if item_sums is None or not all(file.is_file() for file in files):
            return record | {"note": f"no {EVAL_FILE}: no test over items"}
        sides.append([item_sums(row["task"], file) for file in files])
    first, second = sides
    if first[0].name != row["metric"]:
        return record | {"note": f"{row['metric']} is not the task's first metric: no test over items"}
    if any(items.keys != first[0].keys for items in (*first, *second)):
        return record | {"note": "not evaluated on the same items: no test over them"}
    tables = [np.stack([items.sums for items in side]) for side in sides]
    record["items"] = compare_items(*tables, first[0].metric) | {"seeds": shared or len(first)}
    if first[0].hits is not None:
        record["mcnemar_p"] = [mcnemar(a.hits, b.hits) for a, b in zip(first, second, strict=True)]
    return record
