"""CPU time of a token and peak memory of training steps by the length of rows: FLASH, GAU-alpha and BERT.

    python benchmarks/long_rows.py            two layers of hidden 768, rows of 512 to 8,192 tokens; two minutes
    python benchmarks/long_rows.py --tiny     a few seconds

A step is forward and backward, with as many tokens at every length and 15 % of them masked, without dropout. Models
and lengths take turns in one process; a figure is the least over the rounds. Growth is times the model's own shortest
rows. Peak memory is the growth of a fresh process' resident set over the step, the gradients included. BERT stops at
2,048 tokens, where its scores, of 12 heads, have the size of GAU-alpha's at 7,000.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import DTYPES, add_options, in_child, report
from models.flash import FLASHConfig, FLASHForMaskedLM
from models.gau import GAUAlphaConfig, GAUAlphaForMaskedLM
from models.post_norm import use_fast_layers
from models.stock import accept_our_inputs

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MOST = {"FLASH": 8192, "GAU-alpha": 8192, "BERT": 2048}


def make_model(family: str, width: int) -> torch.nn.Module:
    shape = {"vocab_size": 1000, "hidden_size": width, "num_hidden_layers": 2}
    torch.manual_seed(0)
    if family == "FLASH":
        return FLASHForMaskedLM(FLASHConfig(**shape, linear_divisor="valid")).train()
    if family == "GAU-alpha":
        return GAUAlphaForMaskedLM(GAUAlphaConfig(**shape, **NO_DROPOUT, intermediate_size=2 * width)).train()
    fields = {"intermediate_size": 4 * width, "num_attention_heads": width // 64, "max_position_embeddings": 2048}
    return use_fast_layers(accept_our_inputs(BertForMaskedLM(BertConfig(**shape, **NO_DROPOUT, **fields)))).train()


def step(model: torch.nn.Module, length: int, tokens: int, dtype: str) -> float:
    """CPU seconds a token of one step over full rows."""
    rows = max(tokens // length, 1)
    ids = torch.randint(5, 1000, (rows, length))
    positions = torch.arange(0, length, 7).repeat(rows, 1)
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=DTYPES[dtype] is not None):
        outputs = model(ids, attention_mask=torch.ones_like(ids), labels=ids, masked_positions=positions)
    outputs.loss.backward()
    return (time.process_time() - start) / ids.numel()


def measure_times(cases: list[tuple[str, int]], args) -> dict[tuple[str, int], float]:
    models = {family: make_model(family, args.width) for family, _ in cases}
    seconds = {case: [] for case in cases}
    for _ in range(args.rounds):
        for family, length in cases:
            seconds[family, length].append(step(models[family], length, args.tokens, args.dtype))
    return {case: min(values) for case, values in seconds.items()}


def measure_memory(family: str, length: int, args) -> float:
    model = make_model(family, args.width)
    step(model, 16, 16, args.dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(model, length, args.tokens, args.dtype)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024.0


def rows(args):
    cases = [(family, length) for family, most in MOST.items() for length in args.lengths if length <= most]
    seconds = in_child(measure_times, cases, args)
    for family, length in cases:
        cost, shortest = seconds[family, length], seconds[family, args.lengths[0]]
        yield {
            "model": family,
            "tokens a row": length,
            "microseconds a token": round(cost * 1e6, 1),
            "growth": round(cost / shortest, 2),
            "peak_gb": round(in_child(measure_memory, family, length, args) / 1e9, 2),
        }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="hidden 64, rows of 16 and 32 tokens, one round")
    add_options(parser)
    args = parser.parse_args(argv)
    args.width, args.lengths, args.tokens = 768, (512, 1024, 2048, 4096, 8192), 8192
    if args.tiny:
        args.width, args.lengths, args.tokens, args.rounds = 64, (16, 32), 64, 1
    report("long_rows", rows(args), argv, args)


if __name__ == "__main__":
    main()
