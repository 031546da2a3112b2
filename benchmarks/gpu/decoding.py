"""Chinese Transformer-XL 2.9B of random weights, one token at a time, beside the time that reading them once takes."""

import time
from collections.abc import Iterator
from functools import cache, partial

import torch

from benchmarks.decode_step import Ours
from benchmarks.gpu.steps import seconds_of
from benchmarks.gpu.table import Case, Check
from models import TransformerXLConfig, TransformerXLForCausalLM
from models.static_decoding import StaticStep, decode

TINY = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 300}
TINY |= {"segment_length": 24, "mem_len": 12, "attention_window": 24}
WAYS = ("", ", CUDA graph", ", CUDA graph of compiled layers")  # of a growing cache, and of steps of one shape


def make_model(check: Check) -> TransformerXLForCausalLM:
    """In bf16, made on the device: its numbers are of no importance."""
    config = TransformerXLConfig(**check.size({}, TINY))
    with torch.device("meta"):
        model = TransformerXLForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device=check.device)
    model.tie_weights()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def static_step(check: Check, model: TransformerXLForCausalLM, rows: int, way: str) -> StaticStep:
    """A step of one shape, as a graph on CUDA."""
    step = StaticStep(model, rows, compiled="compiled" in way and check.cuda)
    if check.cuda:
        step.capture()
    return step


class Static:
    """As benchmarks/decode_step.py's Ours, in steps of one shape."""

    def __init__(self, check: Check, model: TransformerXLForCausalLM, ids: torch.Tensor, way: str):
        self._step = static_step(check, model, len(ids), way)
        self._logits = self._step.begin(ids)

    def step(self) -> None:
        self._logits = self._step(self._logits.argmax(-1, keepdim=True))


@torch.no_grad()
def tokens(check: Check, model: TransformerXLForCausalLM, rows: int, way: str) -> dict:
    ids = torch.randint(0, model.config.vocab_size, (rows, model.config.attention_window), device=check.device)
    started = time.perf_counter()
    side = Static(check, model, ids, way) if way else Ours(model, ids)
    check.wait()
    begun = time.perf_counter() - started
    for _ in range(check.size(3, 1)):
        side.step()
    seconds = seconds_of(check, side.step, check.size(40, 2))
    gigabytes = sum(parameter.nbytes for parameter in model.parameters()) / 1e9
    bound = gigabytes * 1e9 / check.bandwidth
    numbers = {"rows": rows, "tokens_per_second": rows / seconds, "ms_a_token": 1000 * seconds}
    numbers |= {"seconds_to_begin": begun}
    return numbers | {"ms_of_bound": 1000 * bound, "share_of_bound": bound / seconds, "weights_gb": gigabytes}


@torch.no_grad()
def generated(check: Check, model: TransformerXLForCausalLM, way: str) -> dict:
    """Through generate(), as generate_text.py calls it, with --cuda_graph and --torch_compile or without."""
    prompt = torch.randint(0, model.config.vocab_size, (1, check.size(100, 8)), device=check.device)
    count = check.size(50, 4)

    sampling = {"do_sample": True, "top_k": 0, "eos_token_id": 1, "pad_token_id": 0}
    if way:
        sampling["custom_generate"] = partial(decode, static_step(check, model, 1, way), None)

    def generate():
        mask = torch.ones_like(prompt)
        model.generate(prompt, attention_mask=mask, min_new_tokens=count, max_new_tokens=count, **sampling)

    generate()
    return {"tokens_per_second": count / seconds_of(check, generate, 1)}


def decoding(check: Check) -> Iterator[Case]:
    """A growing cache, whose operations are launched one by one, and captured steps."""
    model = cache(lambda: make_model(check))
    for way in WAYS:
        for rows in (1, 8):
            yield f"2.9B bf16, {rows} at a time{way}", partial(lambda *how: tokens(check, model(), *how), rows, way)
        yield f"2.9B bf16, generate(){way}", lambda way=way: generated(check, model(), way)
