"""The 2.9B model at its full size, with random weights: conversion in bounded memory, loading, generation (slow).

Needs 20 GB of disk and 8 GB of memory; peak memory is that of a process of its own, mapped pages included (VmHWM:
ru_maxrss would be the parent's, if that is larger).
"""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.convert import thudm

ROOT = Path(__file__).resolve().parents[1]
LAYERS, WIDTH, ROWS, HEADS = 32, 2560, 50048, 32
SIZE = 2 * 2_855_577_600  # bytes of all parameters in half precision
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PEAK = """
import json, runpy, sys
def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
"""
RUN = f"""{PEAK}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(json.dumps({{"peak": peak()}}))
"""
GENERATE = f"""{PEAK}
import torch
from models import TransformerXLForCausalLM
model = TransformerXLForCausalLM.from_pretrained(sys.argv[1])
assert model.dtype == torch.bfloat16
ids = model.generate(torch.arange(1, 9).unsqueeze(0), max_length=12, min_length=12)
print(json.dumps({{"peak": peak(), "length": ids.shape[1], "parameters": model.num_parameters()}}))
"""


def in_process(code, *arguments):
    """What the code prints as JSON on its last line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def random_state(scratch):
    """Names and shapes of txl-2.9B, half precision, each tensor mapped to a file, for memory's sake."""
    torch.manual_seed(0)
    shapes = {"word_embeddings.weight": (ROWS, WIDTH), "transformer.r_w_bias": (HEADS, WIDTH // HEADS)}
    shapes["transformer.r_r_bias"] = shapes["transformer.r_w_bias"]
    for i in range(LAYERS):
        layer = f"transformer.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{layer}{norm}.{kind}": (WIDTH,) for kind in ("weight", "bias")}
        for name, rows, columns in (
            ("attention.query_key_value", 3 * WIDTH, WIDTH),
            ("attention.relative", WIDTH, WIDTH),
            ("attention.dense", WIDTH, WIDTH),
            ("mlp.dense_h_to_4h", 4 * WIDTH, WIDTH),
            ("mlp.dense_4h_to_h", WIDTH, 4 * WIDTH),
        ):
            shapes |= {f"{layer}{name}.weight": (rows, columns), f"{layer}{name}.bias": (rows,)}
    shapes |= {f"transformer.final_layernorm.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    state = {}
    for name, shape in shapes.items():
        flat = torch.from_file(str(scratch / name), shared=True, size=math.prod(shape), dtype=torch.float16)
        state[name] = flat.normal_(std=0.02).view(shape)
    frequencies = 1 / 10000 ** (torch.arange(0, WIDTH, 2).float() / WIDTH)
    return state | {"transformer.position_embeddings.inv_freq": frequencies.half()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "txl-2.9B"
    folder.mkdir()
    scratch = tmp_path_factory.mktemp("tensors")
    torch.save({"module": random_state(scratch), "iteration": 1}, folder / thudm.SHARD.format(0))
    shutil.rmtree(scratch)
    yield folder
    shutil.rmtree(folder.parent)


def test_conversion_and_resharding_stay_under_1_3_times_the_largest_shard(checkpoint):
    ours, halves, again = (checkpoint.with_name(name) for name in ("ours", "halves", "again"))
    peaks = {"to ours": in_process(RUN, "convert_checkpoint.py", checkpoint, ours)["peak"] / SIZE}
    peaks["back"] = in_process(RUN, "convert_checkpoint.py", "--reverse", ours, again)["peak"] / SIZE
    files = [thudm.read_file(folder / thudm.SHARD.format(0), mmap=True)["module"] for folder in (checkpoint, again)]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    files.clear()
    for folder in (ours, again):
        shutil.rmtree(folder)
    peaks["to 2 parts"] = in_process(RUN, "change_mp.py", checkpoint, 2, "--output", halves)["peak"] / SIZE
    peaks["2 parts to ours"] = in_process(RUN, "convert_checkpoint.py", halves, ours)["peak"] / (SIZE / 2)
    shutil.rmtree(halves)
    print({"bytes": SIZE, "of the largest shard": peaks})
    assert max(peaks.values()) < 1.3


def test_it_loads_and_generates_in_bfloat16_under_8_gigabytes(checkpoint):
    folder = checkpoint.with_name("bfloat16")
    in_process(RUN, "convert_checkpoint.py", "--config", '{"dtype": "bfloat16"}', checkpoint, folder)
    loaded = in_process(GENERATE, folder)
    print(loaded)
    assert loaded["parameters"] * 2 == SIZE
    assert loaded["length"] == 12
    assert loaded["peak"] < 8e9
