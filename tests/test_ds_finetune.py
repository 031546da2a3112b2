"""scripts/ds_finetune_gpt_2.9B.sh on two CPU processes: optimizers are spread, a run stops early, resumes and learns.

Needs DeepSpeed, whose first run builds an extension for minutes.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import change_mp
import convert_checkpoint
from tests.processes import search_path
from tests.runs import curve, weights

ROOT = Path(__file__).parents[1]
FLAGS = "--use_cpu --max_seq_length 8 --mem_len 4 --max_steps 4 --warmup_steps 1 --save_steps 2 --learning_rate 1e-2"
FLAGS += " --logging_steps 1 --report_to none"
# Stand-ins that run here what is for another machine: ssh [OPTION]... HOST COMMAND, and
# pdsh [OPTION]... -w HOST,HOST COMMAND, whose %n stands for the machine's number.
SSH = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do [ "$1" = -o ] && shift; shift; done
shift
bash -c "$*"
"""
PDSH = """#!/usr/bin/env bash
while [ "$1" != -w ]; do shift; done
IFS=, read -ra hosts <<< "$2"
shift 2
for number in "${!hosts[@]}"; do bash -c "${*//%n/$number}" & started+=($!); done
for process in "${started[@]}"; do wait "$process" || failed=1; done
exit ${failed:-0}
"""


@pytest.fixture
def finetune(tmp_path):
    """(model, environment, flag, ...) -> tmp_path/run; with NUM_WORKERS=2 both machines are this one."""
    pytest.importorskip("deepspeed")
    for name, content in (("ssh", SSH), ("pdsh", PDSH)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "hosts").write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    line = json.dumps({"prompt": "问题：怎么看待大模型？", "text": "最近很火。" * 4}) + "\n"
    (tmp_path / "data.json").write_text(line * 60)
    settings = {"PATH": search_path(tmp_path), "OMP_NUM_THREADS": "1", "HOST_FILE_PATH": str(tmp_path / "hosts")}
    settings |= {"OUTPUT_DIR": str(tmp_path / "run")}

    def start(model, environment, *flags):
        command = ["bash", ROOT / "scripts" / "ds_finetune_gpt_2.9B.sh", model, tmp_path / "data.json"]
        each = "1" if "NUM_WORKERS" in environment else "2"
        done = subprocess.run(
            [*map(str, command), *FLAGS.split(), *flags],
            env=os.environ | settings | {"NUM_GPUS_PER_WORKER": each} | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return tmp_path / "run"

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    "processes_hold", ["MP_SIZE=1", "OFFLOAD=1", "MP_SIZE=2", "MP_SIZE=2 OFFLOAD=1", "MP_SIZE=2 NUM_WORKERS=2"]
)
def test_the_finetuning_command_partitions_over_two_processes(published_txl, finetune, tmp_path, processes_hold):
    model = shutil.copytree(published_txl, tmp_path / "txl")
    if "MP_SIZE=2" in processes_hold:
        change_mp.main([str(model), "2"])
        model = tmp_path / "txl_MP2"
    environment = dict(pair.split("=") for pair in processes_hold.split())
    finetune(model, environment, "--max_train_minutes", "1e-9")
    run = finetune(model, environment)
    losses = [record["loss"] for record in curve(run) if "loss" in record]
    assert len(losses) == 4 and losses[-1] < losses[0]
    shards = list((run / "checkpoint-4").rglob("*optim_states.pt"))
    assert len(shards) == 2
    total = sum(tensor.numel() for tensor in weights(run).values())
    assert all(shard.stat().st_size < 0.75 * 12 * total for shard in shards)
    convert_checkpoint.main(["--reverse", str(run), str(tmp_path / "back")])
    assert (tmp_path / "back" / "mp_rank_00_model_states.pt").is_file()
