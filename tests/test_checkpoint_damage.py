"""A damaged checkpoint is passed over, a folder that has none left is refused untouched, a finished run stays."""

import json
import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import ArgumentError
from tests.processes import start_alone
from tests.runs import as_before_checksums, assert_same_run, killed_in, read_log
from tests.small_runs import SCRIPTS
from training.loop.checkpoints import fault

ROOT = Path(__file__).parents[1]
ALONE = SimpleNamespace(world_size=1, fp16=False, deepspeed=None, fsdp=None)


class Mine:
    def __reduce__(self):
        return os.system, ("touch executed",)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    file.write_bytes(content)


def empty(file):
    file.write_bytes(b"")


def mine(file):
    file.write_bytes(pickle.dumps(Mine()))


WAYS = [
    *((flip, name) for name in ("model.safetensors", "optimizer.pt", "complete.json")),
    *((cut, name) for name in ("model.safetensors", "optimizer.pt", "progress.json", "complete.json")),
    *((empty, name) for name in ("scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json")),
    *((Path.unlink, name) for name in ("model.safetensors", "optimizer.pt", "complete.json")),
    *((mine, name) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")),
]
NAMES = [f"{way.__name__}-{name}" for way, name in WAYS]
# Of a checkpoint without checksums what cannot be read, and what of its text makes no sense.
SEEN_WITHOUT = [way for way in WAYS if way[0] is not flip and way[1] != "complete.json"]


@pytest.fixture(scope="module")
def whole(small_runs, tmp_path_factory):
    """(script) -> the folder of a finished run, or of a finetuning job that was killed after its checkpoint."""
    folders = {}

    def get(script):
        if script not in folders:
            folders[script] = tmp_path_factory.mktemp("whole") / "run"
            if script == "glue":
                with killed_in(5):
                    small_runs.run(script, folders[script])
            else:
                small_runs.run(script, folders[script])
        return folders[script]

    return get


def stamps(folder):
    """All that tells whether something in a folder was touched."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Fails where a pickle was executed."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("way, name", WAYS, ids=NAMES)
def test_every_damage_is_seen(whole, tmp_path, executed, way, name):
    checkpoint = shutil.copytree(whole("mlm") / "checkpoint-8", tmp_path / "checkpoint-8")
    assert fault(checkpoint, ALONE) is None
    way(checkpoint / name)
    assert name in fault(checkpoint, ALONE)


@pytest.mark.parametrize("way, name", SEEN_WITHOUT, ids=[f"{way.__name__}-{name}" for way, name in SEEN_WITHOUT])
def test_files_that_cannot_be_read_are_seen_without_checksums(whole, tmp_path, executed, way, name):
    checkpoint = shutil.copytree(whole("mlm") / "checkpoint-8", tmp_path / "checkpoint-8")
    as_before_checksums(checkpoint)
    assert fault(checkpoint, ALONE) is None
    way(checkpoint / name)
    assert name in fault(checkpoint, ALONE)


@pytest.mark.parametrize(
    "script, way, name",
    [
        pytest.param(script, way, name, marks=[] if (script, way, name) == ("mlm", *WAYS[1]) else pytest.mark.slow)
        for script in ("mlm", "electra", "clm")
        for way, name in WAYS
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over(small_runs, whole, tmp_path, caplog, executed, script, way, name):
    folder = shutil.copytree(whole(script), tmp_path / "run")
    way(folder / "checkpoint-8" / name)
    small_runs.run(script, folder)
    (line,) = (record.getMessage() for record in caplog.records if "passing over" in record.getMessage())
    assert "checkpoint-8, which" in line and name in line and "\n" not in line
    assert f"starting from {folder / 'checkpoint-6'}" in caplog.text
    assert_same_run(whole(script), folder)
    assert fault(folder / "checkpoint-8", ALONE) is None
    assert [path.name for path in (tmp_path / "run.old-1").iterdir()] == ["checkpoint-8"]


@pytest.mark.parametrize(
    "script", ["mlm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("electra", "clm"))]
)
def test_without_a_usable_checkpoint_the_folder_is_left_alone(small_runs, whole, tmp_path, script):
    folder = shutil.copytree(whole(script), tmp_path / "run")
    for number, file in ((3, "optimizer.pt"), (6, "scheduler.pt"), (8, "model.safetensors")):
        cut(folder / f"checkpoint-{number}" / file)
    before = stamps(folder)
    wanted = r"--output_dir .*checkpoint-8, which has a damaged model.safetensors.*--resume_from_checkpoint none"
    with pytest.raises(ArgumentError, match=wanted) as caught:
        small_runs.run(script, folder)
    assert "\n" not in str(caught.value) and stamps(folder) == before
    with pytest.raises(ArgumentError, match=r"--resume_from_checkpoint .*checkpoint-6 .*damaged scheduler.pt"):
        small_runs.run(script, folder, resume_from_checkpoint=folder / "checkpoint-6")
    assert stamps(folder) == before
    shutil.rmtree(folder / "checkpoint-3")
    for number in (6, 8):
        shutil.rmtree(folder / f"checkpoint-{number}")
    record = json.loads((folder / "run.json").read_text())
    del record["finished"]  # by a version that did not write that yet
    (folder / "run.json").write_text(json.dumps(record))
    before = stamps(folder)
    with pytest.raises(ArgumentError, match="must hold a checkpoint to go on from, got none"):
        small_runs.run(script, folder)
    assert stamps(folder) == before


@pytest.mark.parametrize(
    "way, name",
    [pytest.param(*way, marks=[] if way == WAYS[1] else pytest.mark.slow) for way in WAYS],
    ids=NAMES,
)
def test_a_job_with_a_damaged_checkpoint_ends_in_one_line(small_runs, whole, tmp_path, executed, way, name):
    shutil.copytree(whole("glue"), tmp_path / "run")
    (checkpoint,) = (tmp_path / "run").glob("*/*/seed*/checkpoint-3")
    way(checkpoint / name)
    before = stamps(checkpoint.parent)
    with pytest.raises(ArgumentError, match=rf"checkpoint-3, which .*{name}.*; move .* away") as caught:
        small_runs.run("glue", tmp_path / "run")
    assert "\n" not in str(caught.value)
    changed = {path.name for path, stamp in stamps(checkpoint.parent).items() if before.get(path) != stamp}
    assert changed <= {"job.json"}


def test_damaged_best_weights_of_a_job_end_in_one_line(small_runs, whole, tmp_path):
    shutil.copytree(whole("glue"), tmp_path / "run")
    (best,) = (tmp_path / "run").glob("*/*/seed*/best")
    state = best.parent / "checkpoint-3" / "trainer_state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"best_metric": 1e9}))  # no later step is better
    as_before_checksums(best.parent / "checkpoint-3")
    flip(best / "model.safetensors")
    with pytest.raises(ArgumentError, match=r"best must hold .* damaged model.safetensors"):
        small_runs.run("glue", tmp_path / "run")


# The records of a run


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b"{}", b'{"settings": []}', b'{"settings"', b"[" * 10**5]
)
def test_a_damaged_run_json_is_named_and_starting_over_moves_it_aside(small_runs, whole, tmp_path, content):
    folder = shutil.copytree(whole("mlm"), tmp_path / "run")
    (folder / "run.json").write_bytes(content)
    before = stamps(folder)
    with pytest.raises(ArgumentError, match=rf"{folder / 'run.json'} must .*none") as caught:
        small_runs.run("mlm", folder)
    assert "\n" not in str(caught.value) and stamps(folder) == before
    if content == b"":
        small_runs.run("mlm", folder, resume_from_checkpoint="none")
        assert (tmp_path / "run.old-1" / "checkpoint-8").is_dir()


@pytest.mark.parametrize("file", ["job.json", "result.json"])
def test_damaged_records_of_a_job_are_named(small_runs, whole, tmp_path, file):
    shutil.copytree(whole("glue"), tmp_path / "run")
    (folder,) = (tmp_path / "run").glob("*/*/seed*")
    (folder / file).write_text("[1, 2")
    with pytest.raises(ArgumentError, match=file):
        small_runs.run("glue", None, job=folder)


def test_damaged_lines_of_a_log_are_left_out(small_runs, whole, tmp_path, caplog):
    folder = shutil.copytree(whole("mlm"), tmp_path / "run")
    shutil.rmtree(folder / "checkpoint-8")
    records = read_log(folder)
    lines = (folder / "log.jsonl").read_text().splitlines()
    (folder / "log.jsonl").write_text("\n".join([*lines[:2], "\x00\x00", "[]", *lines[2:]]) + "\n")
    small_runs.run("mlm", folder)
    assert "left out 2 damaged lines" in caplog.text
    assert [record["step"] for record in read_log(folder)] == [record["step"] for record in records]


@pytest.mark.parametrize("script", ["mlm", "electra", pytest.param("clm", marks=pytest.mark.slow)])
def test_a_finished_run_says_so_and_is_not_touched(small_runs, whole, tmp_path, caplog, script):
    folder = shutil.copytree(whole(script), tmp_path / "run")
    models = list(folder.rglob("model.safetensors"))
    assert models and all(path.stat().st_mode == (folder / "run.json").stat().st_mode for path in models)
    before = stamps(folder)
    small_runs.run(script, folder)
    assert f"the run in {folder} is finished" in caplog.text and stamps(folder) == before
    shutil.rmtree(folder / "checkpoint-8")
    shutil.rmtree(folder / "checkpoint-3")
    shutil.rmtree(folder / "checkpoint-6")
    before = stamps(folder)
    small_runs.run(script, folder)  # whose checkpoints were deleted to make room
    assert stamps(folder) == before
    for path in models:
        path.unlink(missing_ok=True)
    shutil.copytree(whole(script) / "checkpoint-8", folder / "checkpoint-8")
    small_runs.run(script, folder)
    assert_same_run(whole(script), folder)


def test_neither_the_newest_nor_the_best_checkpoint_goes(small_runs, tmp_path, caplog):
    """The highest loss stands for the best here, so that it is an early one; what lies beyond the run stays too."""
    changes = {"save_total_limit": 1, "validation_split": 0.2, "eval_strategy": "steps", "eval_steps": 3}
    changes |= {"metric_for_best_model": "loss", "greater_is_better": "true", "load_best_model_at_end": True}
    (tmp_path / "run" / "checkpoint-99").mkdir(parents=True)
    with pytest.raises(ArgumentError, match="--output_dir"):
        small_runs.run("mlm", tmp_path / "run", **changes)
    (tmp_path / "run" / "checkpoint-99").rmdir()
    small_runs.run("mlm", tmp_path / "run", **changes)
    assert sorted(path.name for path in (tmp_path / "run").glob("*-*")) == ["checkpoint-3", "checkpoint-8"]
    small_runs.run("mlm", tmp_path / "run", **changes)
    assert "is finished" in caplog.text


# Two processes on one folder


@pytest.mark.parametrize(
    "script", ["mlm", *(pytest.param(s, marks=pytest.mark.slow) for s in ("electra", "clm", "glue"))]
)
def test_a_second_process_changes_nothing(small_runs, tmp_path, tmp_path_factory, script):
    """Whether it is the same command, or another one that is told to overwrite."""
    steps = {"max_steps": 100000, "save_steps": 100000, "eval_steps": 100000}
    logs = tmp_path_factory.mktemp("logs")
    first = start_alone(ROOT / f"{SCRIPTS[script]}.py", small_runs.words(script, tmp_path / "run", **steps), logs)
    try:
        while not (logs / "err-0").is_file() or "step 3/" not in (logs / "err-0").read_text():
            assert first.is_alive()
            time.sleep(0.1)
        changes = [{}, {"resume": "false"}] if script == "glue" else [{}, {"overwrite_output_dir": True, "seed": 8}]
        os.kill(first.pid, signal.SIGSTOP)  # it writes no log meanwhile
        before = stamps(tmp_path)
        for change in changes:
            with pytest.raises(ArgumentError, match=f"in which process {first.pid} on .* has trained since"):
                small_runs.run(script, tmp_path / "run", **steps, **change)
        assert stamps(tmp_path) == before
    finally:
        first.kill()
        first.join()
    small_runs.run(
        script, tmp_path / "run", **({"resume": "false"} if script == "glue" else {"overwrite_output_dir": True})
    )
