"""The summary of a sweep as csv, markdown and LaTeX (booktabs); scores in percent."""

import csv
import io
import json
from collections.abc import Iterable, Sequence

_COLUMNS = ("task", "config", "chosen", "metric", "mean", "median", "sd", "n", "seeds", "missing_seeds", "degenerate")
_COLUMNS += ("untrained", "shortened", "parameters", "seconds")
_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}


def as_csv(summary: dict) -> str:
    """One line per task and configuration, with a column for each test metric's mean and sd and for each flag."""
    rows = summary["configurations"]
    tests = list(dict.fromkeys(name for row in rows for name in row["test"]))
    flags = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [f"test_{name}_{what}" for name in tests for what in ("mean", "sd")]
    writer.writerow([*_COLUMNS, *heads, "init_from", *flags])
    for row in rows:
        cells = [_plain(row[name]) for name in _COLUMNS]
        cells += [_plain(row["test"].get(name, {}).get(what)) for name in tests for what in ("mean", "sd")]
        writer.writerow([*cells, _plain(row["init_from"]), *(_plain(row["settings"].get(name)) for name in flags)])
    return text.getvalue()


def _plain(value) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def as_markdown(summary: dict) -> str:
    """The chosen configurations, the averages, all configurations, and the comparisons with the baseline.

    Seconds stand in the csv alone: they are not those of the whole job where it was killed and went on.
    """
    rows = summary["configurations"]
    best = [row for row in rows if row["chosen"]]
    parts = ["# Results", ""]
    parts += ["Dev scores in percent over n seeds. Of each task: the configuration with the best mean of them.", ""]
    parts += _table(_HEAD, (_cells(row) for row in best))
    parts += ["", *(f"- {line}" for line in map(_average, summary["averages"]))]
    if len(rows) > len(best):
        parts += ["", "## All configurations", "", *_table(_HEAD, (_cells(row) for row in rows))]
    if summary["comparisons"]:
        head = ("task", "configuration", "metric", "difference", "95 % interval", "bootstrap p", "randomisation p")
        head += ("McNemar p (largest over seeds)", "Welch p over seeds", "")
        parts += ["", f"## Against {summary['baseline']}", "", *_table(head, map(_comparison, summary["comparisons"]))]
        parts += ["", f"p values of {len(summary['comparisons'])} comparisons, not corrected for their number."]
    return "\n".join(parts) + "\n"


_HEAD = ("task", "metric", "mean", "median", "sd", "n", "configuration", "test", "parameters", "")


def _cells(row: dict) -> tuple[str, ...]:
    test = ", ".join(f"{name} {_mean_and_sd(spread)}" for name, spread in row["test"].items())
    name = f"{row['config']} {row['label']}".strip()
    spread = [_number(row[what]) for what in ("mean", "median", "sd")]
    size = f"{row['parameters']:,}"
    return (row["task"], row["metric"] or "", *spread, str(row["n"]), name, test, size, _remarks(row))


def _remarks(row: dict) -> str:
    """What makes a row less than it seems."""
    remarks = ["evaluated only"] if row["untrained"] else []
    if row["degenerate"]:
        remarks.append(f"{row['degenerate']} of {row['n']} runs degenerate")
    if row["missing_seeds"]:
        remarks.append(f"without seeds {', '.join(map(str, row['missing_seeds']))}")
    if row["shortened"]:
        remarks.append("shortened by a debug option")
    return "; ".join(remarks)


def _average(average: dict) -> str:
    tasks = ", ".join(f"{name} ({'+'.join(task['metrics'])})" for name, task in average["tasks"].items())
    missing = f"; missing: {', '.join(average['missing'])}" if average["missing"] else ""
    means = f"arithmetic mean {average['arithmetic_mean']:.2f}, harmonic mean {average['harmonic_mean']:.2f}"
    return f"{average['board']}: {means} over {len(average['tasks'])} tasks: {tasks}{missing}"


def _comparison(record: dict) -> tuple[str, ...]:
    items, t = record["items"] or {}, record["welch"] or {}
    interval = items.get("interval") or t.get("interval")
    ps = [items.get("bootstrap_p"), items.get("randomisation_p"), max(record["mcnemar_p"] or [None]), t.get("p")]
    return (
        record["task"],
        f"{record['config']} {record['label']}".strip(),
        record["metric"],
        f"{items.get('difference', record['difference']):+.2f}",
        f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "",
        *("" if p is None else f"{p:.4f}" for p in ps),
        record.get("note", ""),
    )


def as_tex(summary: dict) -> str:
    """The chosen configurations as a booktabs table."""
    lines = [
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
        r"task & metric & mean & median & $n$ & parameters \\",
        r"\midrule",
    ]
    for row in (row for row in summary["configurations"] if row["chosen"]):
        sd = f" $\\pm$ {row['sd']:.2f}" if row["sd"] is not None else ""
        cells = (_tex(row["task"]), _tex(row["metric"] or ""), _number(row["mean"]) + sd, _number(row["median"]))
        lines.append(f"{' & '.join(cells)} & {row['n']} & {row['parameters'] / 1e6:.1f} M \\\\")
        if remarks := _remarks(row):
            lines.append(rf"\multicolumn{{6}}{{l}}{{\footnotesize {_tex(remarks)}}} \\")
    lines += [r"\midrule"] if summary["averages"] else []
    lines += [rf"\multicolumn{{6}}{{p{{.9\linewidth}}}}{{{_tex(_average(one))}}} \\" for one in summary["averages"]]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]


def _mean_and_sd(spread: dict) -> str:
    return _number(spread["mean"]) + (f" ± {spread['sd']:.2f}" if spread["sd"] is not None else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
