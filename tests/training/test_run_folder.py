"""What a folder holds decides where a run in it starts, and nothing there is lost."""

import pytest
import torch

import run_mlm_wwm
from common.errors import ArgumentError
from tests.runs import assert_same_run, killed_in, weights


def test_a_folder_that_is_not_a_run_is_refused_or_shared(flags, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "config.json").write_text("mine too")
    with pytest.raises(ArgumentError, match=r"--output_dir .* --overwrite_output_dir"):
        run_mlm_wwm.main(flags(max_steps=1))
    run_mlm_wwm.main(flags(max_steps=1, overwrite_output_dir=True))
    assert (folder / "notes.txt").read_text() == "mine"
    assert (tmp_path / "run.old-1" / "config.json").read_text() == "mine too"


def test_a_run_with_other_settings_is_refused_or_moved_aside(flags, tmp_path):
    run_mlm_wwm.main(flags(max_steps=1))
    old = weights(tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"--output_dir .*learning_rate 0.01 \(now 0.5\)"):
        run_mlm_wwm.main(flags(max_steps=1, learning_rate=0.5))
    run_mlm_wwm.main(flags(max_steps=1, learning_rate=0.5, overwrite_output_dir=True))
    aside = weights(tmp_path / "run.old-1")
    assert all(torch.equal(old[name], aside[name]) for name in old)
    assert (tmp_path / "run.old-1" / "checkpoint-1").is_dir()
    run_mlm_wwm.main(flags(max_steps=1, learning_rate=0.25, overwrite_output_dir=True))
    assert (tmp_path / "run.old-1" / "checkpoint-1").is_dir() and (tmp_path / "run.old-2" / "checkpoint-1").is_dir()


def test_the_same_settings_resume_even_with_overwrite_and_none_starts_over(flags, tmp_path, caplog):
    with killed_in(6):
        run_mlm_wwm.main(flags())
    run_mlm_wwm.main(flags(overwrite_output_dir=True))
    assert "starting from " + str(tmp_path / "run" / "checkpoint-4") in caplog.text
    caplog.clear()
    run_mlm_wwm.main(flags(resume_from_checkpoint="none"))
    assert "starting at step 0" in caplog.text and (tmp_path / "run.old-1" / "checkpoint-12").is_dir()
    assert_same_run(tmp_path / "run.old-1", tmp_path / "run")
