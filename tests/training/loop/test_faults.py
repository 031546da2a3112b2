"""Training runs that disks, memory and other processes fail: one line, the last good state, and it goes on."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest

import run_mlm_wwm
from common.errors import UserError
from tests.runs import acting_in, assert_same_run, checkpoints


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
