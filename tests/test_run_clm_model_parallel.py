"""run_clm.py cut over processes by DeepSpeed: losses, gradient norms, weights, resumption are those of whole models.

Needs DeepSpeed, whose first run builds an extension for minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

import run_clm
from tests.runs import assert_close_runs

ROOT = Path(__file__).parents[1]
XL = "hidden_size=32,intermediate_size=64,num_hidden_layers=2,num_attention_heads=4,mem_len=8,segment_length=8"
XL += ",attention_window=12,initializer_range=0.2"
EXACT = {"config_overrides": XL + ",hidden_dropout=0,attention_dropout=0", "optim": "sgd", "learning_rate": 0.5}
LLAMA = "hidden_size=32,intermediate_size=64,num_hidden_layers=2,num_attention_heads=4,num_key_value_heads=2"
KINDS = {
    "memory": EXACT,
    "rows, checkpointing": EXACT | {"mem_len": 0, "gradient_checkpointing": True},
    "llama": EXACT
    | {"model_type": "llama", "mem_len": 0, "max_seq_length": 8, "config_overrides": LLAMA + ",initializer_range=0.2"},
}


@pytest.fixture
def run(bert_folder, tmp_path):
    """(name, processes, size, rows of a process, flag=value, ...) -> the folder of a run; 1 process is this one.

    Gradients are clipped to a third and less of their norm.
    """
    pytest.importorskip("deepspeed")
    rng = np.random.default_rng(0)
    words = ["北京大学", "天安门我爱你", "生命起源", "今天气很不错", "手机一二三人"]
    texts = ["".join(words[i] for i in rng.integers(0, 5, rng.integers(1, 12))) for _ in range(60)]
    (tmp_path / "data.json").write_text("".join(json.dumps({"prompt": "他在", "text": text}) + "\n" for text in texts))
    tokenizer = bert_folder()

    def start(name, processes, size, rows, **changes):
        values = {"do_train": True, "use_cpu": True, "tokenizer_name": tokenizer, "output_dir": tmp_path / name}
        values |= {"train_file": tmp_path / "data.json", "per_device_train_batch_size": rows, "seed": 1234}
        values |= {"max_steps": 5, "save_steps": 3, "logging_steps": 1, "report_to": "none", "max_grad_norm": 0.5}
        values |= {"lr_scheduler_type": "constant", "model_parallel_size": size} | changes
        if processes > 1:
            values["deepspeed"] = ROOT / "scripts" / "ds_config_2.9B_finetune.json"
        words = [[f"--{key}"] if value is True else [f"--{key}", str(value)] for key, value in values.items()]
        words = [word for pair in words for word in pair]
        if processes == 1:
            run_clm.main(words)
            return tmp_path / name
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([*launch, ROOT / "run_clm.py", *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    return start


def states(folder, kind):
    """What DeepSpeed saved at the last step, of each process."""
    checkpoint = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return [torch.load(file, weights_only=True) for file in sorted(checkpoint.rglob(f"*{kind}_states.pt"))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_with_a_half_each_train_and_evaluate_as_one_with_all(run, kind):
    one = run("one", 1, 1, 4, validation_split=0.2, **KINDS[kind])
    two = run("two", 2, 2, 4, validation_split=0.2, **KINDS[kind])
    assert_close_runs(one, two)
    parts = [state["module"] for state in states(two, "model")]
    for name, whole in load_file(one / "model.safetensors").items():
        halves = [part[name] for part in parts]
        cut = [axis for axis in range(whole.dim()) if halves[0].shape[axis] * 2 == whole.shape[axis]]
        assert len(cut) == ("_proj." in name or "fc_" in name) - name.endswith(("o_proj.bias", "fc_out.bias")), name
        joined = torch.cat(halves, cut[0]) if cut else halves[0]
        assert cut or torch.equal(*halves), name
        torch.testing.assert_close(joined, whole, rtol=1e-5, atol=2e-6, msg=name)


@pytest.mark.slow
def test_four_processes_are_two_groups_that_share_rows_and_optimizer(run):
    whole = run("whole", 2, 1, 2, **EXACT | {"optim": "adamw_torch", "adam_epsilon": 1e-2})
    cut = run("cut", 4, 2, 2, **EXACT | {"optim": "adamw_torch", "adam_epsilon": 1e-2})
    assert_close_runs(whole, cut)
    held = [
        sum(group.numel() for group in state["optimizer_state_dict"]["single_partition_of_fp32_groups"])
        for state in states(cut, "optim")
    ]
    of_part = sum(tensor.numel() for tensor in states(cut, "model")[0]["module"].values())
    of_part -= states(cut, "model")[0]["module"]["lm_head.weight"].numel()  # tied
    assert len(held) == 4 and max(held) < 0.51 * of_part
    checkpoint = cut / "checkpoint-5"
    assert sorted(path.name[7] for path in checkpoint.glob("memory_?.safetensors")) == ["0", "1"]
    with safe_globals():
        drawn = [torch.load(checkpoint / f"rng_state_{rank}.pth", weights_only=True)["cpu"] for rank in range(4)]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[2], drawn[3]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.slow
def test_dropout_keeps_copies_equal_and_a_stopped_run_ends_like_an_undisturbed_one(run):
    changes = {"config_overrides": XL + ",hidden_dropout=0.1,attention_dropout=0.3", "learning_rate": 1e-2}
    changes["gradient_checkpointing"] = True
    whole = run("whole", 2, 2, 4, **changes)
    run("stopped", 2, 2, 4, max_train_minutes=1e-9, **changes)
    stopped = run("stopped", 2, 2, 4, **changes)
    for name, tensor in load_file(whole / "model.safetensors").items():
        assert torch.equal(tensor, load_file(stopped / "model.safetensors")[name]), name
    halves = [state["module"] for state in states(whole, "model")]
    copies = [name for name in halves[0] if "_proj." not in name and "fc_" not in name]
    copies += [name for name in halves[0] if name.endswith(("o_proj.bias", "fc_out.bias"))]
    assert "model.rel_bias.r_w_bias" in copies
    assert all(torch.equal(*[half[name] for half in halves]) for name in copies)
