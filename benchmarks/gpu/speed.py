"""How fast and how large: the card, training steps beside transformers' own models, long rows, the recipes' memory."""

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.gpu import subjects
from benchmarks.gpu.steps import measure, seconds_of
from benchmarks.gpu.table import Case, Check
from training.loop.logs import measured_peak

CARDS = (24, 40, 80)  # GB
SPARE = 1.5  # GB that context, kernels' workspaces and fragments take


def environment(check: Check) -> Iterator[Case]:
    """What the card reaches: products of random numbers (equal ones draw less power and run faster), and a copy."""
    size = check.size(8192, 256)

    def product(dtype):
        generator = torch.Generator(check.device).manual_seed(0)
        a, b = (torch.randn(size, size, device=check.device, generator=generator).to(dtype) for _ in range(2))
        ones = torch.ones_like(a)
        seconds_of(check, lambda: a @ b, check.size(10, 1))  # clocks and the choice of a kernel settle
        rate = 2 * size**3 / seconds_of(check, lambda: a @ b, check.size(20, 1))
        check.peaks[dtype] = rate
        numbers = {"tflops": rate / 1e12}
        numbers["tflops_of_ones"] = 2 * size**3 / seconds_of(check, lambda: ones @ ones, check.size(20, 1)) / 1e12
        start = time.perf_counter()
        numbers["tflops_of_logs"] = 0.0 if check.tiny else measured_peak(check.device, dtype) / 1e12
        return numbers | {"seconds_of_logs": time.perf_counter() - start}

    def copy():
        source = torch.randn(check.size(2**28, 2**16), device=check.device)
        target = torch.empty_like(source)
        seconds_of(check, lambda: target.copy_(source), 2)
        check.bandwidth = 2 * source.nbytes / seconds_of(check, lambda: target.copy_(source), check.size(10, 1))
        return {"gb_per_second": check.bandwidth / 1e9}

    for dtype in (torch.bfloat16, torch.float16):
        yield f"product {str(dtype).removeprefix('torch.')}", lambda dtype=dtype: product(dtype)
    yield "copy", copy


def beside(check: Check, cases: dict[str, subjects.Subject], **options) -> Iterator[Case]:
    """Rows of subjects by their names, of which the first is the peer: each other with its speed over the peer's."""
    peer, *_ = cases
    speeds = {}

    def case(name):
        numbers = measure(check, cases[name], **options)
        speeds[name] = numbers["tokens_per_second"]
        return numbers | ({"times_peer": speeds[name] / speeds[peer]} if name != peer and peer in speeds else {})

    for name in cases:
        yield name, lambda name=name: case(name)


def comparisons(check: Check) -> list[dict[str, subjects.Subject]]:
    """Models of one size each, a peer from transformers first."""
    deep, modern, shallow, half = (check.shape(*size) for size in ((24, 64), (22, 64), (12, 64), (12, 32)))
    small, base = (check.shape(12, rows, length, vocabulary=30522) for rows, length in ((128, 128), (32, 512)))
    base_size = check.size("base", "small")
    return [
        {
            "BertForMaskedLM L12": subjects.stock_bert(shallow),
            "bert L12": subjects.bert(shallow),
            "gau_alpha L24": subjects.gated("gau_alpha", deep),
            "flash_quad L24": subjects.gated("flash_quad", deep),
            "flash L12": subjects.gated("flash", shallow),
            "ModernBertForMaskedLM L22": subjects.stock_modernbert(modern),
            "gau_alpha L24, the original's way": subjects.original("gau_alpha", deep),
        },
        {
            "Electra* small 128x128": subjects.stock_electra("small", small),
            "electra small 128x128": subjects.electra("small", small),
        },
        {
            "Electra* base 32x512": subjects.stock_electra(base_size, base),
            "electra base 32x512": subjects.electra(base_size, base),
        },
        {
            "GPT2LMHeadModel L12": subjects.stock_gpt2(half),
            "transformer_xl L12, no memory": subjects.transformer_xl(half, 0),
            "transformer_xl L12, memory 256": subjects.transformer_xl(half, half.length // 2),
        },
    ]


def speed(check: Check) -> Iterator[Case]:
    """Training steps, not compiled, in bf16."""
    for cases in comparisons(check):
        yield from beside(check, cases)


def compiled(check: Check) -> Iterator[Case]:
    """The same under torch.compile, which takes a minute a model where layers are many."""
    for cases in comparisons(check):
        named = {f"{name}, compiled": subject for name, subject in cases.items() if "original" not in name}
        yield from beside(check, named, compiled=True)


def graphs(check: Check) -> Iterator[Case]:
    """ELECTRA, which launches bound, compiled as a whole with CUDA graphs: minutes of compiling."""
    for cases in comparisons(check):
        if any("electra" in name for name in cases):
            yield from beside(check, {f"{name}, CUDA graphs": cases[name] for name in cases}, recorded=True)


def lengths(check: Check) -> Iterator[Case]:
    """FLASH on as many tokens a step, whatever their rows: its cost a token must not grow with their length."""
    tokens = check.size(32768, 128)
    for length in check.size((512, 1024, 2048, 4096, 8192), (32, 64)):
        shape = replace(check.shape(12, 1), rows=tokens // length, length=length)
        subject = subjects.gated("flash", shape)
        yield f"flash L12, rows of {length}", lambda subject=subject: measure(check, subject, rounds=3)


def fitting(peaks: dict[int, float]) -> dict[str, int]:
    """Rows of a micro-batch that fit each card, from the peak GB at two numbers of rows: memory grows evenly."""
    (few, first), (many, second) = sorted(peaks.items())
    each = max((second - first) / (many - few), 1e-9)
    fixed = first - few * each
    return {f"rows_in_{card}_gb": max(int((card - SPARE - fixed) / each), 0) for card in CARDS}


def memory(check: Check) -> Iterator[Case]:
    """Whether the recipe's own micro-batch fits, and how many rows of 512 tokens fit cards of several sizes, fp16."""

    def shape(layers, rows):
        return replace(check.shape(layers, rows), rows=rows)

    makers = {
        "gau_alpha L24": lambda rows: subjects.gated("gau_alpha", shape(24, rows)),
        "gau_alpha L24, checkpointing": lambda rows: subjects.gated("gau_alpha", shape(24, rows)).checkpointing(),
        "flash_quad L12": lambda rows: subjects.gated("flash_quad", shape(12, rows)),
        "flash L12": lambda rows: subjects.gated("flash", shape(12, rows)),
        "bert L12": lambda rows: subjects.bert(shape(12, rows)),
        "electra base": lambda rows: subjects.electra(check.size("base", "small"), shape(12, rows)),
    }

    def table(make):
        measured = {
            rows: measure(check, make(rows), "fp16", rounds=1, mfu=False) for rows in check.size((16, 48), (1, 2))
        }
        peaks = {rows: numbers["peak_gb"] for rows, numbers in measured.items() if "peak_gb" in numbers}
        return {f"peak_gb_{rows}_rows": peak for rows, peak in peaks.items()} | (fitting(peaks) if peaks else {})

    recipe = makers["gau_alpha L24"](check.size(256, 2))
    for way in ("", ", compiled"):
        name = f"gau_alpha L24, the recipe's 256 rows{way}"
        yield name, lambda way=way: measure(check, recipe, "fp16", rounds=2, compiled=bool(way))
    for name, make in makers.items():
        yield name, lambda make=make: table(make)
