"""Training runs that numbers, signals, disks and processes fail: one line, the last good state, and it goes on."""

import errno
import fcntl
import itertools
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

import run_mlm_wwm
from common.errors import Stopped, UserError
from common.script import INTERRUPTED, NOT_FINITE, one_line_errors
from tests.processes import SERVER, run_together
from tests.runs import Killed, assert_same_run, killed_in, read_log, weights
from training.finetune import steps
from training.loop import progress, saving
from training.loop.finiteness import NotFinite, Watch
from training.loop.metric_sums import SumEvaluator
from training.loop.trainer import Trainer
from training.objectives.masked_lm import MaskedLanguageModelling

SHAPE = "hidden_size=32,intermediate_size=64,num_hidden_layers=1,attention_key_size=16"


@pytest.fixture
def flags(prepared, tmp_path):
    """(flag=value, ...) -> the arguments of a tiny run into tmp_path/run."""

    def make(**changes):
        tokenizer, corpus = prepared
        values = {"tokenizer_name": tokenizer, "train_dir": corpus, "output_dir": tmp_path / "run", "use_cpu": True}
        values |= {"config_overrides": SHAPE, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": 1234}
        values |= {"max_steps": 12, "logging_steps": 1, "save_steps": 2, "report_to": "none"} | changes
        return ["--do_train", *(word for name, value in values.items() for word in (f"--{name}", str(value)))]

    return make


def checkpoints(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


# Before anything is written


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"optim": "adamw_bnb_8bit"}, "--optim adamw_bnb_8bit: You need to install `bitsandbytes`"),
        ({"optim": "galore_adamw", "optim_target_modules": "all-linear"}, "--optim galore_adamw: You need to install"),
        ({"optim": "grokadamw"}, "--optim grokadamw: Please install grokadamw"),
        ({"optim": "sgd", "optim_args": "foo=1"}, "--optim_args foo=1 has no effect on --optim sgd"),
        ({"optim_args": "foo"}, "--optim adamw_torch_fused"),
        ({"lr_scheduler_kwargs": '{"foo": 1}'}, "--lr_scheduler_kwargs {'foo': 1}: "),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "--lr_scheduler_type warmup_stable_decay: .*num_decay_steps"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": "x"}'}, "--lr_scheduler_kwargs "),
        ({"report_to": "wandb"}, "--report_to wandb: WandbCallback requires wandb"),
        ({"report_to": "nonsense"}, "--report_to nonsense: nonsense is not supported"),
        ({"push_to_hub": True}, "--push_to_hub: the hub does not answer"),
        ({"eval_on_start": True}, "--eval_on_start needs held-out data"),
        ({"metric_for_best_model": "loss"}, "--metric_for_best_model needs held-out data"),
        (
            {"metric_for_best_model": "nonsense", "validation_split": 0.2},
            "one of loss, mlm_accuracy, perplexity, got n",
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_cannot_train_is_told_before_a_folder_is_touched(flags, tmp_path, monkeypatch, changes, line):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=re.escape(line).replace(r"\.\*", ".*")) as caught:
        run_mlm_wwm.main(flags(**changes))
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("metric", ["eval_loss", "mlm_accuracy"])
def test_the_best_model_is_loaded_at_the_end_wherever_it_was(flags, tmp_path, metric):
    """Learning rates so high that it gets worse; a checkpoint of the best step lies between those of --save_steps."""
    changes = {"load_best_model_at_end": True, "metric_for_best_model": metric, "validation_split": 0.2}
    changes |= {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 6,
        "save_total_limit": 1,
        "learning_rate": 0.3,
    }
    run_mlm_wwm.main(flags(lr_scheduler_type="constant", **changes))
    records = [record for record in read_log(tmp_path / "run") if "primary" in record]
    best = (max if metric == "mlm_accuracy" else min)(records, key=lambda record: record["primary"])
    assert best["step"] not in (6, 12)
    kept, model = weights(tmp_path / f"run/checkpoint-{best['step']}"), weights(tmp_path / "run")
    assert all(torch.equal(kept[name], model[name]) for name in model)
    assert checkpoints(tmp_path / "run") == [best["step"], 12]


# Numbers that are none


@pytest.fixture
def spoiled(monkeypatch):
    """(steps, factor) -> the losses of these training steps are multiplied with the factor."""

    def spoil(steps, factor=float("nan")):
        real, calls = MaskedLanguageModelling.__call__, []

        def spoiling(self, model, inputs):
            sums, metrics = real(self, model, inputs)
            if torch.is_grad_enabled():
                calls.append(1)
                if len(calls) in steps:
                    sums = {name: value * factor for name, value in sums.items()}
            return sums, metrics

        monkeypatch.setattr(MaskedLanguageModelling, "__call__", spoiling)

    return spoil


def test_a_run_without_numbers_ends_with_a_code_of_its_own_and_keeps_what_is_finite(flags, tmp_path, spoiled):
    spoiled(range(6, 99))
    with pytest.raises(SystemExit) as end, one_line_errors():
        run_mlm_wwm.main(flags(nan_steps=3, save_steps=5))
    assert end.value.code == NOT_FINITE == 3
    assert checkpoints(tmp_path / "run") == [5] and not (tmp_path / "run/model.safetensors").exists()
    assert [record.get("nonfinite_steps") for record in read_log(tmp_path / "run")] == [None] * 5 + [1] * 3
    with pytest.raises(NotFinite) as caught:
        run_mlm_wwm.main(flags(nan_steps=3, save_steps=5))
    message = str(caught.value)
    assert "in 3 steps in a row from step 6 on" in message and "--on_nan skip" in message
    assert f"{tmp_path / 'run/checkpoint-5'} is the last finite state" in message


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_rows_of_the_first_such_step_are_named(flags, monkeypatch, spoiled, accumulation):
    spoiled(range(3, 99))
    seen, real = [], run_mlm_wwm.CorpusRows.__getitems__

    def watching(self, pairs):
        seen.append([row for _, row in pairs])
        return real(self, pairs)

    monkeypatch.setattr(run_mlm_wwm.CorpusRows, "__getitems__", watching)
    with pytest.raises(NotFinite) as caught:
        run_mlm_wwm.main(flags(nan_steps=2, gradient_accumulation_steps=accumulation, group_by_length=True))
    step = 3 if accumulation == 1 else 2  # of the third call
    rows = sorted({row for batch in seen[(step - 1) * accumulation : step * accumulation] for row in batch})
    assert f"from step {step} on, whose rows are {', '.join(map(str, rows))};" in str(caught.value)


@pytest.mark.parametrize("changes", [{"save_steps": 2, "logging_steps": 100}, {"save_strategy": "no"}], ids=str)
def test_nothing_that_is_not_finite_is_written_however_few_the_steps(flags, tmp_path, changes):
    with pytest.raises(NotFinite, match="no checkpoint is the last finite state"):
        run_mlm_wwm.main(flags(learning_rate=9e37, max_grad_norm=0, max_steps=3, **changes))
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_learning_rate_beyond_reason_is_no_success(flags, tmp_path):
    with pytest.raises(NotFinite):
        run_mlm_wwm.main(flags(learning_rate=1e9, max_steps=60, logging_steps=5))
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        assert all(tensor.isfinite().all() for tensor in weights(folder).values())


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "muon"])
def test_a_skipped_step_changes_neither_weights_nor_optimiser(flags, tmp_path, spoiled, optimizer):
    spoiled([3, 4], factor=float("inf"))
    which = {"optimizer": "muon"} if optimizer == "muon" else {"optim": optimizer}
    run_mlm_wwm.main(flags(on_nan="skip", nan_steps=3, save_steps=1, max_steps=6, logging_steps=5, **which))
    tensors = [weights(tmp_path / f"run/checkpoint-{step}") for step in range(1, 7)]
    changed = [
        any(not torch.equal(now[name], then[name]) for name in now) for then, now in itertools.pairwise(tensors)
    ]
    assert changed == [True, False, False, True, True] and all(x.isfinite().all() for x in tensors[-1].values())
    files = [tmp_path / f"run/checkpoint-{step}/optimizer.pt" for step in (2, 4)]
    states = [torch.load(file, weights_only=True)["state"] for file in files]
    for one, other in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in one)
    assert [record.get("skipped_steps") for record in read_log(tmp_path / "run")] == [2, None]


def test_several_processes_agree_on_the_end_and_tell_it_once(flags, tmp_path):
    words = flags(learning_rate=9e37, max_grad_norm=0, nan_steps=3, save_strategy="no", logging_steps=2)
    run_together(Path(run_mlm_wwm.__file__), words, tmp_path, code=NOT_FINITE)
    errors = [(tmp_path / f"err-{rank}").read_text() for rank in (0, 1)]
    assert "was not finite in 3 steps in a row from step 2 on" in errors[0] and "not finite" not in errors[1]
    assert [record.get("nonfinite_steps") for record in read_log(tmp_path / "run")] == [1, 2]


def test_too_many_skipped_steps_end_the_run(flags, tmp_path, spoiled):
    spoiled(range(4, 99))
    with pytest.raises(NotFinite, match="in 3 steps in a row from step 4 on") as caught:
        run_mlm_wwm.main(flags(on_nan="skip", nan_steps=3, logging_steps=100, save_steps=5))
    assert "--on_nan" not in str(caught.value) and checkpoints(tmp_path / "run") == [5]


def test_skipped_steps_are_counted_across_a_restart(flags, tmp_path, spoiled):
    spoiled([1])
    with killed_in(4):
        run_mlm_wwm.main(flags(on_nan="skip", logging_steps=5))
    run_mlm_wwm.main(flags(on_nan="skip", logging_steps=5, max_steps=12))
    assert [record.get("skipped_steps") for record in read_log(tmp_path / "run")] == [1, None, None]


def look(watch, steps):
    """Whether there are too many after these steps: "." finite, "g" without a finite gradient, "l" without a loss."""
    for number, kind in enumerate(steps, 1):
        watch.loss(torch.tensor(float("nan") if kind == "l" else 1.0))
        watch.step(number, torch.tensor(1.0 if kind == "." else float("inf")))
    return watch.look("cpu"), watch.too_many()


def test_the_overflows_of_a_loss_scale_are_counted_and_given_time():
    none = lambda tensor: tensor  # noqa: E731  one process
    assert look(Watch(3, False, False, none), "..ggg..") == (3, (3, 3))
    assert look(Watch(3, False, False, none), "gg.gg.") == (4, None)
    assert look(Watch(3, False, True, none), "gggggggg.") == (8, None)
    assert look(Watch(3, False, True, none), "g" * 27) == (27, (27, 1))
    assert look(Watch(3, False, True, none), ".lll.") == (3, (3, 2))


# Signals


@contextmanager
def acting_in(call, act):
    """The run inside calls act() at the beginning of this call of Trainer.training_step."""
    real, calls = Trainer.training_step, []

    def acting(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            act()
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", acting)
        yield


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP", "SIGINT"])
def test_signals_of_clusters_and_terminals_leave_a_checkpoint(flags, tmp_path, caplog, name):
    number = signal.Signals[name]

    def send():
        for process in [*multiprocessing.active_children(), multiprocessing.current_process()]:
            os.kill(process.pid, number)  # of the terminal's or the scheduler's whole group

    before = signal.getsignal(number)
    ends = pytest.raises(Stopped, match="stopped at step 7 of 12") if name == "SIGINT" else nullcontext()
    with acting_in(7, send), ends:
        run_mlm_wwm.main(flags(save_steps=5, dataloader_num_workers=1))
    assert f"stopped at step 7 of 12 ({name}); the same command goes on from here" in caplog.text
    assert checkpoints(tmp_path / "run") == [5, 7] and not (tmp_path / "run/model.safetensors").exists()
    assert signal.getsignal(number) is before
    run_mlm_wwm.main(flags(save_steps=5))
    assert (tmp_path / "run/model.safetensors").is_file()


def test_a_second_ctrl_c_ends_at_once_and_an_ignored_hangup_stays_ignored(flags, tmp_path):
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with acting_in(7, twice), pytest.raises(SystemExit) as end, one_line_errors():
        run_mlm_wwm.main(flags(save_steps=5))
    assert end.value.code == INTERRUPTED and checkpoints(tmp_path / "run") == [5]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with acting_in(3, lambda: os.kill(os.getpid(), signal.SIGHUP)):
            run_mlm_wwm.main(flags(save_steps=5))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "run/model.safetensors").is_file()


def _in_terminal(terminal: str, logs: str, words: list[str]) -> None:
    """In a new process: be run_mlm_wwm.py at this terminal."""
    os.setsid()
    os.dup2(os.open(terminal, os.O_RDWR), 0)  # it becomes the controlling one
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (1, 2):
        os.dup2(os.open(f"{logs}/{number}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    sys.argv = ["run_mlm_wwm.py", *words]
    runpy.run_path(str(Path(run_mlm_wwm.__file__)), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("end, code", [("hangup", 0), ("ctrl-c", INTERRUPTED)])
def test_a_real_run_at_a_terminal(flags, tmp_path, end, code):
    """It ends as its terminal goes away, or Ctrl-C is typed there; workers say nothing."""
    master, slave = os.openpty()
    words = flags(max_steps=100000, save_steps=100000, logging_steps=10, dataloader_num_workers=1)
    process = SERVER.Process(target=_in_terminal, args=(os.ttyname(slave), str(tmp_path), words))
    process.start()
    deadline = time.monotonic() + 100
    while not (tmp_path / "run/log.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    if end == "hangup":
        os.close(slave)
        os.close(master)
    else:
        os.write(master, b"\x03")
    process.join(60)
    errors = (tmp_path / "2").read_text()
    assert process.exitcode == code, errors
    assert "Traceback" not in errors and "the same command goes on from here" in errors
    assert len(checkpoints(tmp_path / "run")) == 1 and not (tmp_path / "run/model.safetensors").exists()


# Disks, memory and other processes


def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)


@contextmanager
def own_disk(folder, size):
    """A folder with a file system of its own, for those who may mount."""
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_a_full_disk_is_told_with_the_last_good_state(flags, tmp_path, report_to):
    disk, folder, changes = tmp_path / "disk", tmp_path / "disk/run", {"save_steps": 1, "report_to": report_to}
    with own_disk(disk, "3m"):
        with pytest.raises(UserError) as caught:
            run_mlm_wwm.main(flags(output_dir=folder, **changes))
        message, last = str(caught.value), checkpoints(folder)[-1]
        assert "No space left on device; make room" in message and "\n" not in message and last < 12
        assert f"{folder}/checkpoint-{last} is the last good state, and the same command goes on from there" in message
        assert not list(folder.glob("incomplete-*"))
        mount("-o", "remount,size=99m", disk)
        run_mlm_wwm.main(flags(output_dir=folder, **changes))
        run_mlm_wwm.main(flags(**changes))
        assert_same_run(folder, tmp_path / "run")


def test_a_disk_that_becomes_read_only_is_told_with_the_last_good_state(flags, tmp_path):
    disk, folder = tmp_path / "disk", tmp_path / "disk/run"

    def read_only():  # for names looked up from now on
        mount("--bind", disk, disk)
        mount("-o", "remount,bind,ro", disk)

    with own_disk(disk, "99m"):
        try:
            with acting_in(4, read_only), pytest.raises(UserError) as caught:
                run_mlm_wwm.main(flags(output_dir=folder))
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        assert "Read-only file system; " in str(caught.value)
        assert f"{folder}/checkpoint-2 is the last good state" in str(caught.value)
        run_mlm_wwm.main(flags(output_dir=folder))
        assert (folder / "model.safetensors").is_file()


def test_an_output_folder_removed_in_mid_run_is_not_made_anew(flags, tmp_path):
    with acting_in(3, lambda: shutil.rmtree(tmp_path / "run")), pytest.raises(UserError) as caught:
        run_mlm_wwm.main(flags(logging_steps=100))
    assert "No such file or directory; there is no checkpoint in" in str(caught.value)
    assert not (tmp_path / "run").exists()


def kill_workers():
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def fail(error):
    raise error


@pytest.mark.parametrize(
    "act, line",
    [
        (kill_workers, "a process of --dataloader_num_workers was killed"),
        (lambda: fail(MemoryError()), "too little memory; lower --per_device_train_batch_size"),
        (lambda: fail(RuntimeError("DefaultCPUAllocator: can't allocate memory")), "lower --per_device_train_batch"),
        (lambda: fail(OSError(errno.EIO, "Input/output error", "/data/x")), "/data/x: Input/output error"),
    ],
    ids=["worker", "MemoryError", "allocator", "disk"],
)
def test_what_the_machine_does_is_told_with_the_last_good_state(flags, tmp_path, act, line):
    workers = {"dataloader_num_workers": 1} if act is kill_workers else {}
    with acting_in(6, act), pytest.raises(UserError) as caught:
        run_mlm_wwm.main(flags(**workers, max_steps=40))
    last = checkpoints(tmp_path / "run")[-1]
    assert line in str(caught.value)
    assert f"checkpoint-{last} is the last good state, and the same command goes on from there" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_cut_short_in_mid_run_does_not_end_the_process(flags, tmp_path, prepared, workers):
    shutil.copytree(prepared[1], tmp_path / "corpus")
    shard = next((tmp_path / "corpus").glob("*.arrow"))
    with acting_in(3, lambda: os.truncate(shard, 8)), pytest.raises(UserError) as caught:
        run_mlm_wwm.main(flags(train_dir=tmp_path / "corpus", dataloader_num_workers=workers, max_steps=40))
    message = str(caught.value)
    assert shard.name in message and "is the last good state, and the same command goes on" in message
    assert "Traceback" not in message and "\n" not in message


def test_faults_of_the_repository_keep_their_traceback(flags):
    with acting_in(3, lambda: fail(KeyError("name"))), pytest.raises(KeyError):
        run_mlm_wwm.main(flags())


# Speed


def test_what_is_no_training_is_left_out_of_the_logged_speed(flags, tmp_path, monkeypatch):
    """Measuring the hardware, evaluating and saving take half a second each; a step does not."""

    def slowed(owner, name):
        real = getattr(owner, name)

        def slow(*args, **kwargs):
            time.sleep(0.5)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    slowed(progress, "measured_peak")
    slowed(saving, "publish")
    slowed(SumEvaluator, "__call__")
    changes = {"validation_split": 0.2, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "max_steps": 6}
    run_mlm_wwm.main(flags(**changes))
    records = [record for record in read_log(tmp_path / "run") if "loss" in record]
    seen = [0, *(record["tokens_seen"] for record in records)]
    seconds = [(b - a) / record["tokens_per_second"] for a, b, record in zip(seen, seen[1:], records, strict=False)]
    assert max(seconds) < 0.4, seconds


def test_a_job_killed_while_it_tidies_up_leaves_no_part_of_a_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3/optimizer.pt").touch()
    monkeypatch.setattr(shutil, "rmtree", lambda *words, **options: fail(Killed()))
    with pytest.raises(Killed):
        steps.finish(tmp_path, {}, keep_best=True)
    assert not checkpoints(tmp_path) and not (tmp_path / "result.json").exists()
