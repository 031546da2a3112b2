"""The commands for a published Transformer-XL, one after the other, each with the words that its recipe gives it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import change_mp
import generate_text
import run_clm

ROOT = Path(__file__).parents[1]
TINY = "--max_seq_length 16 --mem_len 8 --per_device_train_batch_size 2 --max_steps 6 --warmup_steps 1 --save_steps 3"
TINY += " --learning_rate 1e-2 --logging_steps 1 --report_to none"
LAUNCHER = '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n'


@pytest.fixture(scope="module")
def checkpoint(published_txl, tmp_path_factory):
    """A folder like ./txl-2.9B, in one part."""
    return shutil.copytree(published_txl, tmp_path_factory.mktemp("commands") / "txl-2.9B")


@pytest.fixture
def words(tmp_path):
    """(recipe, words, variables) -> what it launches: the launcher's words, the script and the script's words."""
    for name in ("python", "torchrun", "deepspeed"):
        (tmp_path / name).write_text(LAUNCHER)
        (tmp_path / name).chmod(0o755)

    def ask(recipe, *arguments, **variables):
        environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **variables}
        command = ["bash", str(ROOT / "scripts" / recipe), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        words = done.stdout.splitlines()
        place = next(number for number, word in enumerate(words) if word.endswith(".py"))
        return words[:place], Path(words[place]).name, words[place + 1 :]

    return ask


def generated(words, capsys, folder, **variables):
    launcher, script, flags = words("generate_text.sh", folder, "--prompt", "问题：", "--max_length", 24, **variables)
    capsys.readouterr()
    assert script == "generate_text.py"
    generate_text.main([*flags, "--dtype", "float32", "--use_cpu"])
    return launcher, capsys.readouterr().out


def finetuned(words, folder, output, **variables):
    """Run what the recipe runs, on one CPU process, where neither DeepSpeed nor half precision can be."""
    data = output.with_suffix(".json")
    lines = [{"prompt": "问题：怎么看待大模型？回答：", "text": "最近很火。" * n} for n in (1, 2, 3, 4, 5)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines * 3))
    launcher, script, flags = words(
        "ds_finetune_gpt_2.9B.sh", folder, data, *TINY.split(), OUTPUT_DIR=str(output), **variables
    )
    assert script == "run_clm.py"
    place = flags.index("--deepspeed")
    settings = json.loads(Path(flags.pop(place + 1)).read_text())
    flags.remove("--deepspeed")
    place = flags.index("--model_parallel_size")
    size = flags.pop(place + 1)
    flags.remove("--model_parallel_size")
    flags.remove("--fp16")
    run_clm.main([*flags, "--use_cpu"])
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0] - 0.2
    return launcher, (settings["zero_optimization"]["stage"], size), load_file(output / "model.safetensors")


def test_generating_finetuning_and_resharding_then_both_again_from_two_parts(words, checkpoint, tmp_path, capsys):
    launcher, text = generated(words, capsys, checkpoint)
    assert launcher == [] and len(text.strip()) > len("问题:")
    launcher, kind, weights = finetuned(words, checkpoint, tmp_path / "one")
    assert launcher == ["--standalone", "--nproc-per-node", "8"] and kind == (2, "1")
    change_mp.main([str(checkpoint), "2"])
    parts = checkpoint.with_name("txl-2.9B_MP2")
    assert sorted(path.name for path in parts.glob("*.pt")) == [
        f"mp_rank_0{rank}_model_states.pt" for rank in range(2)
    ]
    launcher, again = generated(words, capsys, parts, MP_SIZE="2")
    assert launcher[-2:] == ["--nproc-per-node", "2"] and again == text
    launcher, kind, same = finetuned(words, parts, tmp_path / "two", MP_SIZE="2")
    assert launcher == ["--standalone", "--nproc-per-node", "8"] and kind == (2, "2")
    assert same.keys() == weights.keys() and all(torch.equal(same[name], weights[name]) for name in weights)
    capsys.readouterr()
    generate_text.main([str(tmp_path / "two"), "--prompt", "问题：", "--max_length", "24", "--use_cpu"])
    assert capsys.readouterr().out.strip()


def test_several_machines_are_launched_by_deepspeed_with_the_hosts(words, checkpoint, tmp_path):
    machines = {"NUM_WORKERS": "2", "NUM_GPUS_PER_WORKER": "4", "HOST_FILE_PATH": "hosts", "OFFLOAD": "1"}
    launcher, _, flags = words("ds_finetune_gpt_2.9B.sh", checkpoint, "data.json", **machines)
    assert launcher == ["--no_local_rank", "--hostfile", "hosts", "--num_nodes", "2", "--num_gpus", "4"]
    settings = json.loads(Path(flags[flags.index("--deepspeed") + 1]).read_text())
    assert settings["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
