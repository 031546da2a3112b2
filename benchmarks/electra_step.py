"""CPU time and peak memory of a whole ELECTRA training step: our joint model against one made of transformers' heads.

    python benchmarks/electra_step.py              ELECTRA-small, 32 rows of 128 tokens, in about five minutes
    python benchmarks/electra_step.py --batch 128  the published batch; takes 9 GB
    python benchmarks/electra_step.py --size tiny --rounds 1   a few seconds

A step is forward through both networks, backward, clipping at 1.0 and torch's fused AdamW, on full rows of which 15 %
of the tokens are masked. The opponent (benchmarks/originals/electra.py) computes the generator's logits at all
positions and draws its noise for the whole vocabulary; both pass the parity case of
tests/models/electra/test_joint_model.py. Both sides hold the same weights (their losses are compared first), dropout,
inputs, dtype, threads and allocator settings and take turns in one process; speed is tokens per second of CPU time,
the ratio the median over rounds. Peak memory is the growth of a fresh process' resident set over a step, parameters,
gradients and AdamW's state included."""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import DTYPES, add_options, in_child, report
from benchmarks.originals.electra import OriginalElectra
from models.electra.config import ElectraOptions, electra_configs
from models.electra.joint_model import new_joint_model

SIDES = ("original", "ours")
VOCABULARY, MASKED_SHARE, MAX_GRAD_NORM = 30522, 0.15, 1.0
TINY = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


class Side:
    """One joint model with its optimizer, and the step that is measured."""

    def __init__(self, name: str, size: str, dtype: str):
        self.name, self.dtype = name, DTYPES[dtype]
        configs = electra_configs("small" if size == "tiny" else size, VOCABULARY)
        for config in configs if size == "tiny" else ():
            config.update(TINY | {"embedding_size": 16})
        torch.manual_seed(0)
        self.model = new_joint_model(*configs, ElectraOptions())
        if name == "original":
            state, self.model = self.model.state_dict(), OriginalElectra(*configs)
            self.model.load_state_dict(state)
        self.model.train()
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, eps=1e-6, fused=True)

    def losses(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The generator's and the total loss."""
        with torch.autocast("cpu", self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            if self.name == "ours":
                output = self.model(**batch)
                return output.generator_loss / output.masked, output.loss
            generator, _, total, _ = self.model(batch["input_ids"], batch["attention_mask"], batch["labels"])
            return generator, total

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """One training step; its CPU time in seconds, over all threads."""
        start = time.process_time()
        self.losses(batch)[1].backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - start


def make_batch(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Random full rows, whose tokens are masked independently, as the collator gives them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, VOCABULARY, (batch, length), generator=generator)
    chosen = torch.rand(ids.shape, generator=generator) < MASKED_SHARE
    chosen[:, 0] = False
    positions = (chosen * torch.arange(length)).sort(dim=1, descending=True).values[:, : int(chosen.sum(1).max())]
    return {
        "input_ids": ids.masked_fill(chosen, 103),
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(~chosen, -100),
        "masked_positions": positions,
        "noise_seed": torch.arange(batch),
    }


def measure_times(dtype: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """CPU seconds per step of both sides, taking turns."""
    sides, batch = [Side(name, args.size, dtype) for name in SIDES], make_batch(args.batch, args.length)
    for side in sides:
        side.model.eval()
    with torch.no_grad():
        first, second = (side.losses(batch)[0].item() for side in sides)
    if abs(first - second) > (1e-4 if dtype == "fp32" else 2e-2):
        raise ValueError(f"generator losses of both sides must be equal, got {first} and {second}")
    for side in sides:
        side.model.train()
        side.step(batch)
    rounds = [[side.step(batch) for side in sides] for _ in range(args.rounds)]
    return dict(zip(SIDES, zip(*rounds, strict=True), strict=True))


def measure_memory(name: str, dtype: str, args: argparse.Namespace) -> float:
    """Peak bytes of one side's step, AdamW's state and all; the first step, on one row, makes that state."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    side, batch = Side(name, args.size, dtype), make_batch(args.batch, args.length)
    side.step({key: value[:1] for key, value in batch.items()})
    side.step(batch)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024.0


def compare(dtype: str, args: argparse.Namespace) -> dict:
    """One row of the table."""
    seconds = in_child(measure_times, dtype, args)
    ratios = [original / ours for original, ours in zip(*(seconds[name] for name in SIDES), strict=True)]
    row = {"size": args.size, "rows": args.batch, "tokens": args.length, "dtype": dtype}
    row["speed_ratio"] = round(statistics.median(ratios), 2)
    for name in SIDES:
        row[f"tokens_per_cpu_second_{name}"] = round(args.batch * args.length / statistics.median(seconds[name]))
    if not args.no_memory:
        peaks = {name: in_child(measure_memory, name, dtype, args) for name in SIDES}
        row |= {f"peak_gb_{name}": round(value / 1e9, 2) for name, value in peaks.items()}
        row["memory_ratio"] = round(peaks["ours"] / peaks["original"], 2)
    return row


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "base", "large", "tiny"], default="small")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="bf16 is autocast")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each side")
    parser.add_argument("--no_memory", action="store_true", help="skip the peak memory")
    add_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    report("electra_step", (compare(dtype, args) for dtype in args.dtypes), argv, args)


if __name__ == "__main__":
    main()
