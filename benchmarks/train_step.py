"""Time and peak memory of whole training steps: our models against the original's way of computing each of them.

    python benchmarks/train_step.py             everything, in about five minutes on two cores
    python benchmarks/train_step.py --quick     the quickstart's shape only, in about a minute
    python benchmarks/train_step.py --peers     opponents from PyPI as well (benchmarks/requirements.txt)

A step is forward, backward, clipping at 3.0 and torch's fused AdamW, on full rows with 15 % of the tokens masked.
Ours gets masked_positions, as our collator gives it; the original computes logits everywhere. Both sides hold the
same weights (their losses are compared first), dropout, inputs, dtype and threads, keep freed malloc pages, flush
denormals (both backward passes meet them) and take turns in one process; the figures are medians of wall times. Peak
memory is the growth of a fresh process' resident set over a step, parameters, gradients and AdamW's state included,
libraries and interpreter not (on a GPU: allocated memory). MFU is the share of the rate of a matrix product of the
same dtype, measured between the rounds, that the products a side really computes amount to. Letters: B batch, T
tokens, P masked tokens a row, V vocab_size.
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import DTYPES, add_options, in_child, report
from benchmarks.originals import peers
from benchmarks.originals.sides import FAMILIES, SHAPES, Shape, make_batch, make_model

MAX_GRAD_NORM, PRODUCT_SIZE = 3.0, 2048


class Side:
    """One model with its optimizer, and the step that is measured."""

    def __init__(self, name: str, model: torch.nn.Module, dtype: torch.dtype | None, device: torch.device):
        self.name, self.dtype, self.device = name, dtype, device
        self.model = model.to(device)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, fused=True)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            if self.name == "ours":
                positions = batch["positions"]
                return self.model(batch["ids"], batch["mask"], labels=batch["labels"], masked_positions=positions).loss
            if self.name in peers.PEERS:
                logits = peers.PEERS[self.name].logits(self.model, batch["ids"], batch["mask"])
                return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
            return self.model(batch["ids"], batch["mask"], labels=batch["labels"])["loss"]

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """One training step; its wall time in seconds."""
        self.synchronize()
        start = time.perf_counter()
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.synchronize()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def product_rate(dtype: torch.dtype | None, device: torch.device) -> float:
    """Operations per second of one large square matrix product."""
    matrix = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, dtype=dtype or torch.float32, device=device)
    start = time.perf_counter()
    (matrix @ matrix).sum().item()
    return 2 * PRODUCT_SIZE**3 / (time.perf_counter() - start)


def compare_losses(sides: list[Side], batch: dict[str, torch.Tensor], dtype: str) -> None:
    """ValueError unless ours and the original have one loss without dropout: they are the same model."""
    losses = []
    batch = {key: value[:1] for key, value in batch.items()}
    for side in sides[:2]:
        side.model.eval()
        with torch.no_grad():
            losses.append(side.loss(batch).item())
        side.model.train()
    if abs(losses[0] - losses[1]) > (1e-4 if dtype == "fp32" else 2e-2):
        raise ValueError(f"losses of {sides[0].name} and {sides[1].name} must be equal, got {losses}")


def measure_times(family: str, shape: Shape, dtype: str, args) -> dict:
    """Seconds per step of every side, taking turns, and the products' rate in between."""
    device = torch.device(args.device)
    names = ["original", "ours", *(peers.available(family) if args.peers and shape.name == "base" else [])]
    sides = [Side(name, make_model(family, shape, name), DTYPES[dtype], device) for name in names]
    batch = {key: value.to(device) for key, value in make_batch(shape, 12000).items()}
    compare_losses(sides, batch, dtype)
    for side in sides:
        side.step(batch)
    times, rates, start = {name: [] for name in names}, [], time.perf_counter()
    while len(rates) < args.rounds or time.perf_counter() - start < args.seconds:
        rates.append(product_rate(DTYPES[dtype], device))
        for side in sides:
            times[side.name].append(side.step(batch))
    return {"seconds": times, "product_rate": statistics.median(rates)}


def measure_memory(family: str, shape: Shape, dtype: str, side_name: str, args) -> float:
    """Peak bytes of one side's step, AdamW's state and all; the first step, on one short row, makes that state."""
    device = torch.device(args.device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    side = Side(side_name, make_model(family, shape, side_name), DTYPES[dtype], device)
    batch = {key: value.to(device) for key, value in make_batch(shape, 12000).items()}
    side.step({key: value[:1, :16] for key, value in batch.items()} | {"positions": batch["positions"][:1, :1] * 0})
    side.step(batch)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024.0


def compare(family: str, shape: Shape, dtype: str, args) -> dict:
    """One row of the table."""
    measured = in_child(measure_times, family, shape, dtype, args)
    seconds = {name: statistics.median(values) for name, values in measured["seconds"].items()}
    ratios = [a / b for a, b in zip(*(measured["seconds"][name] for name in ("original", "ours")), strict=True)]
    row = {"model": family, "shape": shape.name, "dtype": dtype, "speed_ratio": round(statistics.median(ratios), 2)}
    tokens = shape.batch * shape.length
    row |= {f"tokens_per_second_{name}": round(tokens / value) for name, value in seconds.items()}
    if not args.no_memory:
        peaks = {name: in_child(measure_memory, family, shape, dtype, name, args) for name in ("original", "ours")}
        row |= {f"peak_gb_{name}": round(value / 1e9, 2) for name, value in peaks.items()}
        row["memory_ratio"] = round(peaks["ours"] / peaks["original"], 2)
    for name in ("original", "ours"):
        rate = shape.products(family, name == "ours") / seconds[name]
        row[f"mfu_{name}"] = round(rate / measured["product_rate"], 2)
    return row


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["base", "quickstart"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="bf16 is autocast")
    parser.add_argument("--rounds", type=int, default=2, help="measured steps of each side, at least")
    parser.add_argument("--seconds", type=float, default=6.0, help="keep measuring a comparison for so long")
    add_options(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--peers", action="store_true", help="measure PyPI opponents at the base shape too")
    parser.add_argument("--no_memory", action="store_true", help="skip the peak memory")
    parser.add_argument("--quick", action="store_true", help="the quickstart's shape only, one step each")
    args = parser.parse_args(argv)
    if args.quick:
        args.shapes, args.rounds, args.seconds = ["quickstart"], 1, 0.0
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    rows = (
        compare(family, SHAPES[shape], dtype, args)
        for shape in args.shapes
        for family in args.models
        for dtype in args.dtypes
    )
    report("train_step", rows, argv, args)


if __name__ == "__main__":
    main()
