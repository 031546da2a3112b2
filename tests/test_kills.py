"""kill -9 at twenty random moments: what is begun again by the same command ends as if nothing had happened."""

import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.processes import SERVER
from tests.runs import assert_same_run
from training.pretrained import load_tokenizer

ROOT = Path(__file__).parents[1]
KILLS = 20
COMMON = ["--do_train", "--use_cpu", "--report_to", "none", "--logging_steps", "5", "--save_steps", "2"]
COMMON += ["--save_total_limit", "2", "--max_steps", "60", "--per_device_train_batch_size", "4", "--seed", "5"]
FAMILIES = {
    "run_mlm_wwm": "--config_overrides hidden_size=32,intermediate_size=64,num_hidden_layers=1,attention_key_size=16"
    " --validation_split 0.2 --eval_strategy steps --eval_steps 20 --dataloader_num_workers 1",
    "run_electra": "--config_overrides embedding_size=16,hidden_size=32,num_hidden_layers=1,num_attention_heads=4,"
    "intermediate_size=64 --warmup_steps 2 --checkpoint_percents 50 100 --dataloader_num_workers 0",
    "run_clm": "--config_overrides hidden_size=32,num_hidden_layers=1,num_attention_heads=2,mem_len=8,"
    "segment_length=8,attention_window=12",
}


def _be(script: str, words: list[str], errors: str) -> None:
    """In a new process: be this script."""
    os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_killed_at_random_moments_ends_bit_for_bit_as_undisturbed(tmp_path, bert_folder, write_corpus, name):
    tokenizer = bert_folder()
    words = ["--tokenizer_name", tokenizer, "--train_dir", write_corpus(tmp_path / "corpus", tokenizer), *COMMON]
    words += [*FAMILIES[name].split(), "--output_dir"]
    errors, run = tmp_path / "errors", tmp_path / "run"

    def start(folder):
        arguments = (str(ROOT / f"{name}.py"), [str(word) for word in (*words, folder)], str(errors))
        process = SERVER.Process(target=_be, args=arguments)
        process.start()
        return process

    def end(process):
        process.join(900)
        assert process.exitcode == 0, errors.read_text()

    end(start(tmp_path / "whole"))
    began = time.monotonic()
    end(start(tmp_path / "again"))
    seconds, moments, kills = time.monotonic() - began, random.Random(0), 0
    while kills < KILLS:
        process = start(run)
        process.join(moments.uniform(0.1, 0.6) * seconds)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        else:  # it got to its end
            end(process)
            assert_same_run(tmp_path / "whole", run)
            shutil.rmtree(run)
    end(start(run))
    assert_same_run(tmp_path / "whole", run)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_sweep_killed_at_random_moments_ends_with_the_same_tables(tmp_path, bert_folder):
    torch.manual_seed(0)
    folder, file, errors = bert_folder(), tmp_path / "rows.jsonl", tmp_path / "errors"
    tokenizer = load_tokenizer(str(folder), "--tokenizer")
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    text = "今天气很好我们去公园玩不错酒店房间也干净"
    rows = ({"sentence": text[i % 9 : 9 + i % 7] + "！。"[i % 2], "label": "ab"[i % 2]} for i in range(48))
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    words = ["--tasks", "adhoc", "--kind", "classification", "--train_file", file, "--validation_file", file]
    words += ["--model", folder, "--batch_size", 8, "--epochs", 20, "--save_steps", 10, "--device", "cpu"]
    words += ["--seeds", "1,2", "--grid", "lr=1e-3,1e-2", "--jobs_per_gpu", 2, "--output_dir"]

    def start(out):
        command = list(map(str, [sys.executable, ROOT / "run_glue.py", *words, out]))
        with open(errors, "wb") as file:
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=file)

    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    seconds, moments, kills = time.monotonic() - began, random.Random(0), 0
    while kills < KILLS:
        process = start(tmp_path / "killed")
        try:
            assert process.wait(moments.uniform(0.2, 0.6) * seconds) == 0, errors.read_text()
            shutil.rmtree(tmp_path / "killed")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert start(tmp_path / "killed").wait() == 0, errors.read_text()
    tables = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "killed")]
    for table in tables:
        for row in table["configurations"]:
            for timed in ("seconds", "samples_per_second", "folders"):
                row.pop(timed, None)
    assert tables[0]["configurations"] == tables[1]["configurations"]
    assert not list((tmp_path / "killed").rglob("incomplete-*")) and not list((tmp_path / "killed").rglob("claim-*"))
