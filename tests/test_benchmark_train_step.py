"""The step benchmark runs, compares equal models and counts the products that each side computes."""

import json

import pytest

from benchmarks import train_step
from benchmarks.originals.sides import FAMILIES, SHAPES, make_model


@pytest.mark.timeout(600)
def test_measures_both_sides_in_time_and_memory(tmp_path, capsys):
    arguments = [
        "--shapes",
        "tiny",
        "--models",
        "flash_quad",
        "--dtypes",
        "fp32",
        "--rounds",
        "1",
        "--seconds",
        "0",
        "--threads",
        "1",
    ]
    train_step.main([*arguments, "--output_dir", str(tmp_path)])
    (row,) = json.loads((tmp_path / "train_step.json").read_text(encoding="utf-8"))["rows"]
    assert row["model"] == "flash_quad" and row["speed_ratio"] > 0 and row["memory_ratio"] > 0
    table = (tmp_path / "train_step.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out and len(table.splitlines()) == 3


def test_products_of_the_original_are_six_operations_a_token_and_weight_and_attention():
    shape = SHAPES["base"]
    layers = 12 * (768 * (3 * 1536 + 128) + 512 * (128 + 1536))
    assert shape.products("gau_alpha", ours=False) == 6.0 * 4096 * (layers + 768 * 12000)
    assert shape.products("gau_alpha", ours=True) < shape.products("gau_alpha", ours=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_sides_hold_the_same_weights(family):
    shape = SHAPES["tiny"]
    ours, original = (make_model(family, shape, side) for side in ("ours", "original"))
    state = ours.state_dict()
    assert all((state[name] == tensor).all() for name, tensor in original.state_dict().items() if name in state)
