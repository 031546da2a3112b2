"""One pass over what only a CUDA device can show, in at most eight minutes on one card: right, fast, large enough.

    python benchmarks/gpu_check.py OUT                              everything
    python benchmarks/gpu_check.py OUT --only environment,speed     some sections
    python benchmarks/gpu_check.py OUT --only speed,compiled --cases "L24|ModernBert"
    python benchmarks/gpu_check.py OUT --device cpu --tiny          toy sizes, to see that it runs

Prints a row as soon as it is measured and writes OUT/gpu_check.json and OUT/gpu_check.md, a table for
docs/results.md with card, versions and date. What fails is a row, and what would begin too late is one as well.
Nothing is downloaded. It exits with 1 where a row of what must be right FAILED.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.gpu import correct, decoding, loader, runs, speed
from benchmarks.gpu.table import Check
from training.process import avoid_broken_kernels

SECTIONS = {  # name: its cases, seconds that one of them may need
    "environment": (speed.environment, 5),
    "parity": (correct.parity, 10),
    "precision": (correct.precision, 5),
    "waits": (correct.waits, 5),
    "scripts": (runs.scripts, 10),
    "speed": (speed.speed, 10),
    "memory": (speed.memory, 10),
    "lengths": (speed.lengths, 10),
    "decoding": (decoding.decoding, 15),
    "loader": (loader.loader, 8),
    "compiled": (speed.compiled, 90),
    "graphs": (speed.graphs, 180),
}
MUST_BE_RIGHT = ("parity", "precision", "waits", "scripts")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the table")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--budget", type=float, default=470.0, help="seconds; what would begin later is left out")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument(
        "--cases", default="", metavar="REGEX", help="of the sections, the cases that have it in their name"
    )
    args = parser.parse_args(argv)
    args.only = args.only.split(",")
    unknown = sorted(set(args.only) - set(SECTIONS))
    if unknown:
        parser.error(f"--only must name sections of {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --tiny shows that the check runs")
    return args


def main(argv: list[str] | None = None) -> int:
    """The exit code: 1 where something is not right."""
    args = parse(argv)
    avoid_broken_kernels()  # as the scripts do
    args.out.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python benchmarks/gpu_check.py", *map(str, sys.argv[1:] if argv is None else argv)])
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as work:
        check = Check(torch.device(args.device), args.tiny, args.out, Path(work), args.budget, command, args.cases)
        for section in (name for name in SECTIONS if name in args.only):
            check.run(section, *SECTIONS[section])
    print((args.out / "gpu_check.md").read_text(encoding="utf-8"))
    wrong = [row for row in check.rows if row["status"] == "FAILED" and row["section"] in MUST_BE_RIGHT]
    print(f"{len(check.rows)} rows, {len(wrong)} of them wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
