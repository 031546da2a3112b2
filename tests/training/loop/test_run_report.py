"""What runs tell: numbers at the start that are computed here by other ways, and commands at the end that exist."""

import json
import logging
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

from data.batches.masking import MaskCollator
from data.corpus.store import Corpus
from data.features.build import TaskCollator
from tests.small_runs import ROWS
from training.loop import run_report
from training.loop.run_report import describe_processes, padding_flags


def told(caplog):
    """Name -> text of the lines of the block that a run begins with."""
    (block,) = [message for message in caplog.messages if message.startswith("this run\n")]
    return {line[2:14].strip(): line[14:] for line in block.split("\n")[1:]}


def end(caplog):
    (message,) = [message for message in caplog.messages if message.startswith("finished: ")]
    return message


def parameters(folder):
    return sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


@pytest.fixture
def masks(monkeypatch):
    """The attention masks of all batches that a collator makes."""
    kept = []

    def follow(collator):
        make = collator.__call__

        def keep(self, rows):
            batch = make(self, rows)
            kept.append(batch["attention_mask"])
            return batch

        monkeypatch.setattr(collator, "__call__", keep)
        return kept

    return follow


def padding(masks):
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def test_a_masked_lm_tells_what_it_does(small_runs, tmp_path, caplog, masks):
    caplog.set_level(logging.INFO)
    out, kept = tmp_path / "run", masks(MaskCollator)
    small_runs.run("mlm", out, report_to="tensorboard", gradient_accumulation_steps=2, logging_steps=4)
    lengths, facts = Corpus(small_runs.folder / "corpus").lengths, told(caplog)
    assert re.fullmatch(r"cpu, \d+ threads, fp32; 1 process", facts["device"])
    tokens = 2 * ROWS * lengths.sum() / len(lengths)
    assert facts["a step"] == f"{2 * ROWS} rows ({ROWS} x 2 accumulation x 1 process), {tokens:,.0f} tokens"
    assert facts["model"] == f"{parameters(out):,} parameters"
    assert facts["course"] == f"8 steps, {8 * 2 * ROWS / len(lengths):.3g} epochs of {len(lengths)} rows"
    assert len(kept) == 16 and padding(kept) > 0.05
    assert facts["padding"] == f"{padding(kept):.1%} of the positions; --group_by_length or --packing concat lowers it"
    assert facts["curves"] == f"{out}/runs, shown by: tensorboard --logdir {out}/runs" and list(
        (out / "runs").iterdir()
    )
    first, last = (message for message in caplog.messages if message.startswith("step "))
    assert re.match(r"step 4/8  50\.0%  \d+:\d\d left  loss ", first) and last.startswith("step 8/8  100.0%  loss")
    assert end(caplog).startswith(f"finished: the model is in {out}; next, for example\n  python probe_mlm.py {out} ")


def test_packing_is_compared_and_a_run_that_goes_on_says_from_where(small_runs, tmp_path, caplog, masks):
    caplog.set_level(logging.INFO)
    changes = {"packing": "concat", "group_by_length": True, "max_seq_length": 64}
    kept = masks(MaskCollator)
    small_runs.run("mlm", tmp_path / "packed", **changes)
    facts = told(caplog)
    assert facts["padding"].startswith(f"{padding(kept):.1%} of the positions (") and "lowers" not in facts["padding"]
    assert facts["padding"].endswith("% in rows of the corpus)") and "curves" not in facts
    caplog.clear()
    checkpoint = tmp_path / "packed" / "checkpoint-6"
    small_runs.run("mlm", tmp_path / "more", resume_from_checkpoint=checkpoint, max_train_minutes=5, **changes)
    assert told(caplog)["course"].endswith(" rows, from step 6 on; at most 5 minutes")


def test_electra_tells_of_both_networks(small_runs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "run"
    small_runs.run("electra", out, max_steps=2, warmup_steps=1)
    first, *commands = end(caplog).split("\n")
    assert first == f"finished: the model is in {out}/generator and {out}/discriminator; next, for example"
    assert commands[0].startswith(f"  python probe_mlm.py {out}/generator '")
    assert f"run_glue.py --model_name_or_path {out}/discriminator " in commands[1]
    assert all(Path(out, name, "config.json").is_file() for name in ("generator", "discriminator"))


def test_a_causal_lm_tells_of_its_stream_and_a_stopped_one_that_it_goes_on(small_runs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "run"
    small_runs.run("clm", out, max_steps=2, max_train_minutes=1e-9)
    facts = told(caplog)
    rows = int(re.search(r"epochs of (\d+) rows", facts["course"])[1])
    seen = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert facts["a step"].startswith(f"{ROWS} rows ")
    assert facts["course"].startswith(f"2 steps, {2 * ROWS / rows:.3g} epochs of {rows} rows; at most 1e-09 minutes")
    assert "padding" not in facts and seen[-1]["step"] == 1
    assert not any(message.startswith("finished: ") for message in caplog.messages)
    assert f"not finished: the model as it is now is in {out}; the same command goes on" in caplog.messages
    small_runs.run("clm", out, max_steps=2)
    assert end(caplog).split("\n")[1] == f"  python generate_text.py {out} --prompt 'a beginning'"


def test_a_job_and_a_sweep_tell_where_results_are(small_runs, tmp_path, caplog, masks):
    caplog.set_level(logging.INFO)
    kept = masks(TaskCollator)
    small_runs.run("glue", tmp_path / "out", max_steps=3)
    facts = told(caplog)
    (job,) = (tmp_path / "out").glob("adhoc/*/seed42")
    assert facts["course"] == f"3 steps, {3 * ROWS / 30:.3g} epochs of 30 rows"
    assert facts["padding"] == f"{padding(kept[:3]):.1%} of the positions"
    records = [json.loads(line) for line in (small_runs.folder / "rows.json").read_text().splitlines()]
    tokens = ROWS * np.mean([len(record["sentence"]) + 2 for record in records])  # a token each, and [CLS] and [SEP]
    assert facts["a step"] == f"{ROWS} rows ({ROWS} x 1 accumulation x 1 process), {tokens:,.0f} tokens"
    first, weights, _, command = end(caplog).split("\n")
    assert first == f"finished: results are summed up in {tmp_path}/out/summary.md"
    assert weights == f"  best weights: {job}/best" and (job / "best" / "config.json").is_file()
    assert command == f"  python plot_run.py adhoc={job} --output {tmp_path}/out/curves.png"
    jobs = [SimpleNamespace(task=task, config="c", seed=seed) for task in "ab" for seed in (1, 2)]
    run_report.tell_sweep(jobs, ["0", "1"], 2, "out")
    assert caplog.messages[-1] == (
        "4 jobs: 2 tasks, 1 configurations, 2 seeds; 4 at a time on GPU 0, GPU 1; results in out"
    )


TORCHRUN = "torchrun --nproc_per_node N"


@pytest.mark.parametrize(
    ("processes", "variable", "text"),
    [
        (1, None, "1 process"),
        (1, "TORCHELASTIC_RUN_ID", "1 process, which is all that torchrun started; --nproc_per_node N starts more"),
        (1, "ACCELERATE_X", "1 process, which is all that accelerate launch started; --num_processes N starts more"),
        (1, "ACCELERATE_USE_CPU", f"1 process, all that accelerate launch starts with --cpu; {TORCHRUN} starts more"),
        (4, "TORCHELASTIC_RUN_ID", "4 processes, 2 to a model"),
    ],
)
def test_a_launcher_that_started_one_process_is_named(monkeypatch, processes, variable, text):
    for name in ("TORCHELASTIC_RUN_ID", *(name for name in os.environ if name.startswith("ACCELERATE_"))):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "true")
    assert describe_processes(SimpleNamespace(world_size=processes, model_parallel_size=processes // 2)) == text


def test_flags_that_lower_padding_are_those_not_given():
    args, data_args = SimpleNamespace(train_sampling_strategy="random"), SimpleNamespace(packing="none")
    assert padding_flags(args, data_args) == ["--group_by_length", "--packing concat"]
    args.train_sampling_strategy, data_args.packing = "group_by_length", "isolated"
    assert padding_flags(args, data_args) == []
