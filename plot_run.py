"""Draw curves of runs from their log.jsonl into one PNG: loss and accuracy, or what else the model has.

python plot_run.py outputs/quickstart/run --output curves.png --reference "unigram guess=6.46,5.1"
"""

import argparse
import json
import math
from pathlib import Path

METRICS = (("loss", "loss (nats per masked token)", 1), ("mlm_accuracy", "accuracy (%)", 100))
ELECTRA_METRICS = (
    ("discriminator_loss", "loss of the discriminator (nats per token)", 1),
    ("discriminator_auc", "area under the ROC curve", 1),
)
CAUSAL_METRICS = (("loss", "loss (nats per token)", 1), ("perplexity", "perplexity", 1))
CONSTANT = "constant_guess"  # loss of a discriminator that knows only the share of replaced tokens


def read_log(run: Path) -> list[dict]:
    """Records of RUN/log.jsonl in order. Raises SystemExit, naming the argument, when there are none."""
    path = run / "log.jsonl"
    if not path.is_file():
        raise SystemExit(f"RUN {run} must hold log.jsonl, got a path without one; pass a folder that a training made")
    records = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    for record in records:
        share = record.get("eval_share_replaced", 0)
        if 0 < share < 1:
            record[CONSTANT] = -share * math.log(share) - (1 - share) * math.log(1 - share)
    return records


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


def draw(runs: list[Path], references: list[tuple[str, float, float]], output: Path) -> None:
    """Two panels over tokens; training thin, evaluation with dots, references and the constant guess dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    logs = [read_log(run) for run in runs]
    names = {name for record in logs[0] for name in record}
    shown = CAUSAL_METRICS if "mlm_accuracy" not in names else METRICS
    shown = ELECTRA_METRICS if "discriminator_loss" in names else shown
    for panel, (metric, title, scale), column in zip(panels, shown, (1, 2), strict=True):
        for number, (run, records) in enumerate(zip(runs, logs, strict=True)):
            if metric in names:
                panel.plot(
                    *curve(records, metric, scale), color=f"C{number}", alpha=0.5, label=f"{run.name}, training"
                )
            held_out = curve(records, f"eval_{metric}", scale)
            panel.plot(*held_out, color=f"C{number}", marker="o", markersize=3, label=f"{run.name}, held out")
            if metric == "discriminator_loss":
                label = f"{run.name}, constant guess on held out"
                panel.plot(*curve(records, CONSTANT, 1), color=f"C{number}", linestyle="--", label=label)
        for number, reference in enumerate(references):
            panel.axhline(reference[column], color=f"C{number + len(runs)}", linestyle="--", label=reference[0])
        panel.set(xlabel="million tokens seen", ylabel=title)
        panel.grid(alpha=0.3)
        panel.legend()
    partial = output.with_name(f"incomplete-{output.name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(partial, dpi=100, format="png")
    pyplot.close(figure)
    partial.replace(output)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir of a training")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument(
        "--reference",
        type=parse_reference,
        action="append",
        default=[],
        metavar="NAME=LOSS,ACCURACY",
        help="dashed line to compare with; accuracy in %%, of ELECTRA the AUC instead",
    )
    args = parser.parse_args(argv)
    draw(args.runs, args.reference, args.output)


if __name__ == "__main__":
    main()
