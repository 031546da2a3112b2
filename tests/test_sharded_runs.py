"""The pretraining scripts with weights, gradients and optimizer spread over two CPU processes: one process's losses.

accelerate shards on devices alone, so FSDP's runs tell it that the CPU is one; all else is what a GPU's run does.
DeepSpeed's first run builds an extension for minutes.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.processes import run_together
from tests.runs import checkpoints, curve, weights
from tests.small_runs import SCRIPTS, SHAPES

ROOT = Path(__file__).parents[1]
# A script that fails unless each process holds less than 0.7 of the weights, where they are to be spread.
SHARDED = """
import runpy, sys
sys.path.insert(0, {root!r})
from accelerate import state
from accelerate.utils import DistributedType
from training.loop.trainer import Trainer

make, step = state.AcceleratorState.__init__, Trainer._get_grad_norm

def on_devices(self, *arguments, **options):
    if options.get("fsdp_plugin"):
        state.PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    make(self, *arguments, **options)

def checked(self, model, grad_norm=None):
    weights = list(model.parameters())
    shares = [getattr(w, "ds_tensor", w.to_local() if hasattr(w, "to_local") else w) for w in weights]
    whole = sum(getattr(w, "ds_numel", w.numel()) for w in weights)
    assert {kind!r} == "zero2" or sum(share.numel() for share in shares) < 0.7 * whole
    return step(self, model, grad_norm)

state.AcceleratorState.__init__, Trainer._get_grad_norm = on_devices, checked
runpy.run_path({script!r}, run_name="__main__")
"""
BERT = "hidden_size=32,intermediate_size=64,num_hidden_layers=2,num_attention_heads=2"
DRY = ",hidden_dropout_prob=0,attention_probs_dropout_prob=0"
FLASH = "hidden_size=32,num_hidden_layers=2"
RUNS = {
    "gau": ("mlm", {}),
    "flash": ("mlm", {"model_type": "flash", "config_overrides": FLASH}),
    "flash_quad": ("mlm", {"model_type": "flash_quad", "config_overrides": FLASH, "unigram_bias": True}),
    "bert": ("mlm", {"model_type": "bert", "config_overrides": BERT + DRY, "packing": "isolated"}),
    "electra": ("electra", {}),
    "electra of gau": ("electra", {"model_type": "gau_alpha", "config_overrides": SHAPES["mlm"].format(0)}),
    "transformer_xl": ("clm", {}),
}
KINDS = {
    "fsdp": {"fsdp": True, "fsdp_config": ROOT / "scripts" / "fsdp.json"},
    "fsdp, checkpointing": {"fsdp": True, "fsdp_config": ROOT / "scripts" / "fsdp_txl.json"},
    "zero2": {"deepspeed": ROOT / "scripts" / "ds_config_zero2.json"},
    "zero3": {"deepspeed": ROOT / "scripts" / "ds_config_zero3.json"},
}


@pytest.fixture
def run(small_runs, tmp_path):
    """(script, folder, kind, processes, how they end, flag=value, ...) -> a run, and what the first one told."""

    def start(script, folder, kind, processes=2, code=0, **changes):
        if kind.startswith("zero"):
            pytest.importorskip("deepspeed")
        driver = tmp_path / "driver.py"
        driver.write_text(SHARDED.format(root=str(ROOT), script=str(ROOT / f"{SCRIPTS[script]}.py"), kind=kind))
        words = small_runs.words(script, folder, processes, **KINDS[kind], **changes)
        run_together(driver, words, tmp_path, processes=processes, code=code)
        return (tmp_path / "err-0").read_text()

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, kind", [(name, kind) for name in RUNS for kind in KINDS if name == "transformer_xl" or "," not in kind]
)
def test_two_processes_that_share_a_model_train_evaluate_and_go_on_as_one(small_runs, run, tmp_path, name, kind):
    script, changes = RUNS[name]
    if script != "clm":
        changes = changes | {"validation_split": 0.2, "eval_strategy": "steps", "eval_steps": 3}
    small_runs.run(script, tmp_path / "one", **changes)
    run(script, tmp_path / "two", kind, **changes)
    later = shutil.ignore_patterns("checkpoint-[68]")
    shutil.copytree(tmp_path / "two", tmp_path / "again", ignore=later)
    run(script, tmp_path / "again", kind, **changes)
    for folder in ("two", "again"):
        for one, other in zip(curve(tmp_path / "one"), curve(tmp_path / folder), strict=True):
            assert one == pytest.approx(other, abs=1e-4), folder
        first, second = weights(tmp_path / "one"), weights(tmp_path / folder)
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            torch.testing.assert_close(tensor, second[key], rtol=0, atol=1e-4, msg=key)
    assert checkpoints(tmp_path / "again") == [3, 6, 8]
    assert json.loads((tmp_path / "again" / "run.json").read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("script", ["mlm", "electra", "clm"])
def test_fsdp_goes_on_with_another_number_of_processes(small_runs, run, tmp_path, script):
    small_runs.run(script, tmp_path / "one")
    run(script, tmp_path / "two", "fsdp")
    shutil.copytree(tmp_path / "two", tmp_path / "again", ignore=shutil.ignore_patterns("checkpoint-[68]"))
    assert "going on with 3 processes instead of 2" in run(script, tmp_path / "again", "fsdp", processes=3)
    for one, other in zip(curve(tmp_path / "one"), curve(tmp_path / "again"), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.slow
def test_what_a_spread_model_cannot_do_is_one_line(small_runs, run, tmp_path):
    for script, changes, message in (
        ("mlm", {"probe_file": small_runs.folder / "texts.json"}, "--probe_file must stand without --fsdp"),
        ("electra", {"no_untied_generator": True}, "--fsdp must stand with a generator of its own layers"),
        ("clm", {"validation_split": 0.2}, "--fsdp and ZeRO stage 3 must stand without held-out text"),
    ):
        told = run(script, tmp_path / "run", "fsdp", code=1, **changes)
        assert message in told and "Traceback" not in told and not (tmp_path / "run").exists()
