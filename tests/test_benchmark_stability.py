"""benchmarks/learning/stability.py: its commands are of the scripts that they call, and a rise is what it says."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.learning import stability
from benchmarks.learning.stability import FAMILIES, flags_of, worst_rise


class Parsed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["AdamW", "Muon"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_flag_is_one_of_the_script(family, optimizer, monkeypatch):
    script, *words = flags_of(family, optimizer, Path("quickstart"))
    module = importlib.import_module(Path(script).stem)

    def check_arguments(model_args, data_args, args):
        assert args.optimizer == optimizer.lower() and args.schedule_by_time
        raise Parsed

    monkeypatch.setattr(module, "check_arguments", check_arguments)
    with pytest.raises(Parsed):
        module.main([*words, "--output_dir", "run", "--max_train_minutes", "1"])


def test_the_worst_rise_is_above_the_lowest_before():
    assert worst_rise([3.0, 2.0, 2.5, 1.0, 1.2, 0.5]) == 0.5
    assert worst_rise([3.0, 2.0]) == worst_rise([]) == 0


def test_a_row_names_rates_losses_and_the_rise(monkeypatch, tmp_path):
    losses = {"GAU-alpha": [{"loss": 6.0}, {"loss": 5.0}, {"loss": 5.25}]}
    losses["ELECTRA"] = [{"loss": 31.0, "generator_loss": 6.0, "discriminator_loss": 0.5} for _ in range(2)]

    def run(command, **_):
        if "bert" in command:
            return SimpleNamespace(returncode=1, stderr="first\nwhy\n")
        folder = Path(command[command.index("--output_dir") + 1])
        folder.mkdir()
        curve = losses["ELECTRA" if command[1].endswith("run_electra.py") else "GAU-alpha"]
        lines = [json.dumps(record | {"step": 10 * i, "grad_norm": i}) for i, record in enumerate(curve)]
        (folder / "log.jsonl").write_text("\n".join(lines))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(stability.subprocess, "run", run)
    args = SimpleNamespace(output=tmp_path, quickstart=tmp_path, seed=1, minutes=1, flags=[])
    row = stability.measure("GAU-alpha", "Muon", args)
    assert row == "| GAU-alpha | Muon | 2e-2 / 4e-3 | 20 | 6.00 | 5.25 | 0.25 | 2.0 |"
    assert stability.measure("ELECTRA", "AdamW", args) == (
        "| ELECTRA | AdamW | 5e-4 | 10 | 6.00; 0.50 | 6.00; 0.50 | 0.00; 0.00 | 1.0 |"
    )
    assert stability.measure("BERT", "AdamW", args) == "| BERT | AdamW | failed: why |"
