"""Draw curves of runs from their logs into one PNG: loss and accuracy, or what else the model has.

    python plot_run.py outputs/mine/model --output outputs/mine/curves.png

A folder that the example of run_mlm_wwm.py trains. More of what it draws:

    python plot_run.py outputs/quickstart/run --output curves.png --reference "unigram guess=6.46,5.1"
    python plot_run.py "mine=outputs/seed1" "mine=outputs/seed2" "other=outputs/other" --output seeds.png
    python plot_run.py "GAU-alpha=out/afqmc/0a1b2c3d4e" "random=out/afqmc/1b2c3d4e5f" --output finetuning.png

Trainings of one name have one colour. Jobs of run_glue.py are drawn over epochs; of a configuration's folder, the mean
over its seeds and each seed thin.
"""

import argparse
import json
import math
from collections import Counter
from pathlib import Path

from common.flags import FlagParser
from common.script import run_script

METRICS = (("loss", "loss (nats per masked token)", 1), ("mlm_accuracy", "accuracy (%)", 100))
ELECTRA_METRICS = (
    ("discriminator_loss", "loss of the discriminator (nats per token)", 1),
    ("discriminator_auc", "area under the ROC curve", 1),
)
CAUSAL_METRICS = (("loss", "loss (nats per token)", 1), ("perplexity", "perplexity", 1))
FINETUNING_METRICS = (("loss", "loss (nats per label)"), ("primary", "score on dev (%)"))
FINETUNING_LOG = "train_log.jsonl"
HIDDEN = "eval_mlm_hidden_accuracy"  # of the tokens that the input hides; older logs lack it
CONSTANT = "constant_guess"  # loss of a discriminator that knows only the share of replaced tokens
FEW = 20  # points of a curve that are marked one by one


def read_log(run: Path, name: str = "log.jsonl") -> list[dict]:
    """Records of RUN/name in order. Raises SystemExit, naming the argument, when there are none."""
    path = run / name
    if not path.is_file():
        raise SystemExit(f"RUN {run} must hold {name}, got a path without one; pass a folder that a training made")
    records = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    for record in records:
        share = record.get("eval_share_replaced", 0)
        if 0 < share < 1:
            record[CONSTANT] = -share * math.log(share) - (1 - share) * math.log(1 - share)
    return records


def parse_run(text: str) -> tuple[str, Path]:
    """`label=folder`, or a folder, whose name is the label."""
    label, equals, folder = text.partition("=")
    return (label, Path(folder)) if equals and not Path(text).exists() else (Path(text).name, Path(text))


def parse_reference(text: str) -> tuple[str, float, float]:
    """`name=loss,accuracy in %` -> the three."""
    name, equals, numbers = text.rpartition("=")
    try:
        loss, accuracy = map(float, numbers.split(","))
    except ValueError:
        equals = ""
    if not equals:
        raise argparse.ArgumentTypeError(f"must read name=loss,accuracy, got {text!r}")
    return name, loss, accuracy


def curve(records: list[dict], key: str, scale: float) -> tuple[list[float], list[float]]:
    """Million tokens seen and value * scale where a record has the key; evaluations stand at the tokens before."""
    tokens, seen, values = [], 0.0, []
    for record in records:
        seen = record.get("tokens_seen", seen)
        if key in record:
            tokens.append(seen / 1e6)
            values.append(record[key] * scale)
    return tokens, values


def line(panel, curve: tuple[list[float], list[float]], **style) -> None:
    """Draw a curve, with a dot at each point where these are few: a line through one point alone is nothing."""
    panel.plot(*curve, **{"marker": "o" if len(curve[0]) <= FEW else None, "markersize": 3} | style)


def draw_training(panels, runs: list[tuple[str, Path]]) -> str:
    """Two panels over tokens; training thin, evaluation with dots (dotted: of hidden tokens alone), the constant guess
    dashed; returns a title.
    """
    logs = [read_log(run) for _, run in runs]
    names = {name for record in logs[0] for name in record}
    shown = CAUSAL_METRICS if "mlm_accuracy" not in names else METRICS
    shown = ELECTRA_METRICS if "discriminator_loss" in names else shown
    counts = Counter(name for name, _ in runs)
    colors = {name: f"C{index}" for index, name in enumerate(counts)}
    for panel, (metric, title, scale) in zip(panels, shown, strict=True):
        labelled = set()
        for (name, _), records in zip(runs, logs, strict=True):
            color = colors[name]
            described = f"{name}, {counts[name]} runs" if counts[name] > 1 else name
            prefix = "_" if name in labelled else ""  # matplotlib leaves such labels out of the legend
            labelled.add(name)
            if metric in names:
                label = f"{prefix}{described}, training"
                line(panel, curve(records, metric, scale), color=color, alpha=0.5, label=label)
            label = f"{prefix}{described}, held out"
            line(panel, curve(records, f"eval_{metric}", scale), color=color, marker="o", label=label)
            if metric == "mlm_accuracy" and any(HIDDEN in record for record in records):
                style = {"color": color, "marker": "o", "linestyle": ":", "label": f"{label}, hidden tokens"}
                line(panel, curve(records, HIDDEN, scale), **style)
            if metric == "discriminator_loss":
                label = f"{prefix}{described}, constant guess on held out"
                line(panel, curve(records, CONSTANT, 1), color=color, linestyle="--", label=label)
        panel.set(xlabel="million tokens seen", ylabel=title, title=title.partition(" (")[0])
        panel.set_xlim(left=0)
    return "Training"


def jobs_of(run: Path) -> list[Path]:
    """The finetuning job that `run` is, or those of a configuration's folder; none where it is no finetuning."""
    return [
        path.parent for path in (run / FINETUNING_LOG, *sorted(run.glob(f"seed*/{FINETUNING_LOG}"))) if path.is_file()
    ]


def mean_curve(logs: list[list[dict]], key: str) -> tuple[list[float], list[float]]:
    """Epochs at which all logs have a record with the key, and the means of its values there."""
    curves = [{record["epoch"]: record[key] for record in records if key in record} for records in logs]
    epochs = sorted(set.intersection(*map(set, curves)))
    return epochs, [sum(values[epoch] for values in curves) / len(curves) for epoch in epochs]


def draw_finetuning(panels, runs: list[tuple[str, Path]]) -> str:
    """Two panels over epochs: training loss dotted, dev loss and score with dots, seeds thin; returns a title."""
    from matplotlib.ticker import MaxNLocator

    for index, (name, run) in enumerate(runs):
        logs = [read_log(job, FINETUNING_LOG) for job in jobs_of(run) or [run]]
        name += f", mean of {len(logs)} seeds" if len(logs) > 1 else ""
        for panel, (metric, title) in zip(panels, FINETUNING_METRICS, strict=True):
            dev = "eval_loss" if metric == "loss" else metric
            for records in logs if len(logs) > 1 else ():
                line(panel, mean_curve([records], dev), color=f"C{index}", alpha=0.4, linewidth=0.8)
            line(panel, mean_curve(logs, dev), color=f"C{index}", marker="o", label=f"{name}, dev")
            if metric == "loss":
                label = f"{name}, training"
                line(panel, mean_curve(logs, metric), color=f"C{index}", linestyle=":", label=label)
            panel.set(xlabel="epoch", ylabel=title, title=title.partition(" (")[0])
            panel.set_xlim(left=0)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return "Finetuning"


def draw(runs: list[tuple[str, Path]], references: list[tuple[str, float, float]], title: str | None = None):
    """The figure: loss on the left, what it is good for on the right; references dashed in both."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen and keeps every figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    kind = (draw_finetuning if any(jobs_of(run) for _, run in runs) else draw_training)(panels, runs)
    names = list(dict.fromkeys(name for name, _ in runs))
    figure.suptitle(title or f"{kind}: {', '.join(names) if len(names) <= 4 else f'{len(names)} runs'}")
    for panel, column in zip(panels, (1, 2), strict=True):
        for index, reference in enumerate(references, start=len(names)):
            if math.isfinite(reference[column]):
                panel.axhline(reference[column], color=f"C{index}", linestyle="--", label=reference[0])
        panel.grid(alpha=0.3)
        panel.legend(fontsize="x-small" if len(panel.get_legend_handles_labels()[0]) > 6 else None)
    return figure


def save(figure, output: Path) -> None:
    """Write a PNG that is whole or absent."""
    partial = output.with_name(f"incomplete-{output.name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(partial, dpi=100, format="png")
    partial.replace(output)


def main(argv=None):
    parser = FlagParser(doc=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=parse_run, help="folder of a training, or label=folder")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument(
        "--reference",
        type=parse_reference,
        action="append",
        default=[],
        metavar="NAME=LOSS,ACCURACY",
        help="dashed line to compare with; accuracy in %%, of ELECTRA the AUC instead; nan for none",
    )
    parser.add_argument("--title", help="above the picture; default: what the runs are and their names")
    args = parser.parse_args(argv)
    save(draw(args.runs, args.reference, args.title), args.output)


if __name__ == "__main__":
    run_script(main)
