"""job.json says what a job is; what another process reads of it is the same job."""

import json
import os

import pytest

from common.errors import ArgumentError
from training.finetune.job import Job, best_folder
from training.sweep.grid import plan_jobs


def test_a_job_is_told_what_to_do(tmp_path):
    job = plan_jobs(["rte", "mnli"], {"model": "模型"}, {"lr": [1e-5]}, [7], tmp_path, {"rte": "mnli"})[1]
    job.write()
    assert [path.name for path in job.folder.iterdir()] == ["job.json"]
    assert json.loads((job.folder / "job.json").read_text(encoding="utf-8")) == {
        "task": "rte",
        "settings": {"model": "模型", "lr": 1e-5},
        "seed": 7,
        "init_from": str(job.init_from),
    }
    assert Job.read(job.folder) == job


def test_what_is_written_already_is_not_written_again(tmp_path):
    job = Job("cola", {"lr": 1e-5}, 1, tmp_path / "cola" / "hash" / "seed1")
    job.write()
    os.utime(job.folder / "job.json", (1, 1))
    job.write()
    assert (job.folder / "job.json").stat().st_mtime == 1 and Job.read(job.folder) == job and job.config == "hash"


@pytest.mark.parametrize("text", [None, "{", '{"task": "cola", "settings": {}}'])
def test_a_folder_without_a_whole_job_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "job.json").write_text(text)
    with pytest.raises(ArgumentError, match=r"must hold a job\.json with task, settings and seed"):
        Job.read(tmp_path)


def test_the_best_run_of_a_configuration_is_the_first_of_equal_ones():
    assert best_folder({"values": [50.0, 70.0, 70.0], "folders": ["a", "b", "c"]}) == "b"
    assert best_folder({"values": [], "folders": ["a"]}) == "a"
