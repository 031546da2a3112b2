"""Training step of Transformer-XL beside transformers' GPT-2 of the same size: tokens per CPU-second and peak memory.

    python benchmarks/causal_step.py            12 layers, hidden 512, rows of 512 tokens, memory 256; some minutes
    python benchmarks/causal_step.py --quick    4 layers, rows of 128, memory 64

Both train by the objective of run_clm.py, with equal optimizers, dropout, dtype and threads, in turns in one process.
A Transformer-XL token sees at most 512 tokens, itself included, and so does one of GPT-2's: its rows have 512
positions. GPT-2 is measured a second time on rows of 768, as many keys as Transformer-XL has with its memory. Both
sides must pass one check first: a full forward equals one of each row cut in two, by memory or by cache (1e-4).
Peak memory is the growth of a fresh process' resident set over a step, weights and optimizer included.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import DTYPES, add_options, in_child, report
from data.batches.sampling import TrainBatches
from models import TransformerXLConfig, TransformerXLForCausalLM
from models.relative import named_cache
from training.objectives.causal_lm import CausalLanguageModelling


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    heads: int
    length: int
    memory: int
    batch: int
    vocabulary: int


SHAPES = {"base": Shape(12, 512, 8, 512, 256, 2, 12000), "quick": Shape(4, 256, 4, 128, 64, 4, 2000)}
SIDES = ("Transformer-XL", "GPT-2", "GPT-2, longer rows")


class Side:
    """A model with its objective and optimizer, and the step that is measured."""

    def __init__(self, name: str, shape: Shape, dtype: torch.dtype | None):
        torch.manual_seed(0)
        self.dtype, self.memory = dtype, shape.memory if name == "Transformer-XL" else 0
        self.length = shape.length + (shape.memory if name == "GPT-2, longer rows" else 0)
        self.rows = max(1, shape.batch * shape.length // self.length)
        self.model = make_model(name, shape, self.length).train()
        batches = TrainBatches(self.rows, self.rows, steps=1, seed=0)
        self.objective = CausalLanguageModelling(self.model, self.length, batches, self.memory, document_mask=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(5, shape.vocabulary, (self.rows, self.length), generator=generator)
        places = torch.arange(self.length).expand_as(ids)
        self.batch = {"input_ids": ids, "labels": ids.roll(-1, 1), "position_ids": places}
        self.batch["attention_mask"] = torch.ones_like(ids)

    def step(self) -> float:
        """One training step; its CPU time in seconds per token."""
        started = time.process_time()
        with torch.autocast("cpu", self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            sums, _ = self.objective(self.model, self.batch)
        (sums["clm"] / self.batch["labels"].numel()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return (time.process_time() - started) / self.batch["labels"].numel()


def make_model(name: str, shape: Shape, length: int) -> torch.nn.Module:
    if name != "Transformer-XL":
        size = {"n_embd": shape.hidden, "n_layer": shape.layers, "n_head": shape.heads, "n_positions": length}
        return GPT2LMHeadModel(GPT2Config(vocab_size=shape.vocabulary, bos_token_id=0, eos_token_id=0, **size))
    size = {"hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads}
    size |= {"segment_length": shape.length, "mem_len": shape.memory, "attention_window": shape.length}
    ids = {"eos_token_id": 0, "pad_token_id": 0}
    return TransformerXLForCausalLM(TransformerXLConfig(vocab_size=shape.vocabulary, **size, **ids))


@torch.no_grad()
def check(side: Side) -> None:
    """ValueError unless the second half of a short row has the same logits with what came before it carried along."""
    model, ids = side.model.eval(), side.batch["input_ids"][:1, :32]
    whole = model(ids, use_cache=False).logits[:, 16:]
    if side.memory:
        carried = model(ids[:, 16:], mems=model(ids[:, :16], output_mems=True, use_cache=False).mems, use_cache=False)
    else:
        cache = DynamicCache()
        model(ids[:, :16], **named_cache(cache))
        carried = model(ids[:, 16:], **named_cache(cache))
    difference = (whole - carried.logits).abs().max().item()
    model.train()
    if difference > 1e-4:
        raise ValueError(f"a row in two parts must give the logits of the whole row, got {difference} apart")


def measure_speed(shape: Shape, dtype: torch.dtype | None, args) -> dict[str, float]:
    """Median tokens per CPU-second of each side, taking turns."""
    sides = {name: Side(name, shape, dtype) for name in SIDES}
    for side in sides.values():
        check(side)
        side.step()
        side.step()  # from here on the memory is full
    times = {name: [] for name in SIDES}
    for _ in range(args.rounds):
        for name, side in sides.items():
            times[name].append(side.step())
    return {name: 1 / statistics.median(values) for name, values in times.items()}


def measure_memory(name: str, shape: Shape, dtype: torch.dtype | None, args) -> float:
    """Peak growth of the resident set over three steps, in bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    side = Side(name, shape, dtype)
    for _ in range(3):
        side.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024.0


def compare(dtype: str, args: argparse.Namespace) -> Iterator[dict]:
    """Rows of the table, one for each side."""
    shape = SHAPES["quick" if args.quick else "base"]
    speeds = in_child(measure_speed, shape, DTYPES[dtype], args)
    for side in SIDES:
        peak = in_child(measure_memory, side, shape, DTYPES[dtype], args)
        row = {"dtype": dtype, "model": side, "tokens_per_cpu_second": round(speeds[side])}
        yield row | {"ratio": round(speeds["Transformer-XL"] / speeds[side], 2), "peak_gb": round(peak / 1e9, 2)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small shape, to see that it runs")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="bf16 is autocast")
    parser.add_argument("--rounds", type=int, default=3, help="measured steps of each side")
    add_options(parser)
    args = parser.parse_args(argv)
    report("causal_step", (row for dtype in args.dtypes for row in compare(dtype, args)), argv, args)


if __name__ == "__main__":
    main()
