"""What the step benchmarks share: a fresh process for each measurement, and a table with the machine beside it."""

import argparse
import json
import multiprocessing
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from training.process import tune_cpu

DTYPES = {"fp32": None, "bf16": torch.bfloat16}


def in_child(function, *arguments):
    """function(*arguments) in a process of its own, so that no run inherits another's memory or warm caches.

    The last argument holds the options threads and device. A ValueError of the function comes back as such; no other
    exit of it does, and the call would wait for ever.
    """
    args = arguments[-1]
    start = "fork" if args.device == "cpu" else "spawn"
    with multiprocessing.get_context(start).Pool(1, initializer=_set_up, initargs=(args.threads,)) as pool:
        result = pool.apply(function, arguments)
        pool.close()
        pool.join()
    return result


def _set_up(threads: int) -> None:
    torch.set_num_threads(threads)
    tune_cpu()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every step benchmark; device is the CPU unless the benchmark has an option for it."""
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output_dir", type=Path, default=results, help="folder of the table, as .json and .md")
    parser.set_defaults(device="cpu")


def report(name: str, rows: Iterable[dict], argv: list[str] | None, args: argparse.Namespace) -> None:
    """Print each row when it is measured and the table at last; write it to output_dir/<name>.json and .md."""
    table = []
    for row in rows:
        table.append(row)
        print(json.dumps(row), flush=True)
    command = " ".join([f"python benchmarks/{name}.py", *(sys.argv[1:] if argv is None else argv)])
    machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": args.threads, "command": command}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(machine | {"rows": table}, indent=1)
    (args.output_dir / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (args.output_dir / f"{name}.md").write_text(markdown(table), encoding="utf-8")
    print(markdown(table))


def markdown(rows: list[dict]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(row.get(column, "")) for column in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"
