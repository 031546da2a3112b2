"""run.json: the settings of a run, what differs from them, and whether the run has ended with all its files."""

import sys

import pytest

from common.errors import ArgumentError
from training.run_file import (
    RUN_FILE,
    changed_settings,
    differences,
    has_ended,
    hindering_settings,
    read_settings,
    same_rows,
    with_eval_masks,
    write_end,
    write_settings,
)

BEFORE = {"arguments": {"seed": 1, "rows_per_step": 8}, "data": "wiki"}


def test_settings_come_back_and_secrets_are_not_written(tmp_path, monkeypatch):
    assert read_settings(tmp_path) is None
    (tmp_path / "checkpoint-5").mkdir()
    monkeypatch.setattr(sys, "argv", ["run.py", "--hub_token", "s3cret"])
    write_settings(tmp_path, BEFORE, processes=2)
    assert read_settings(tmp_path) == BEFORE and "s3cret" not in (tmp_path / RUN_FILE).read_text()
    for damaged in ("{", "[]", '{"settings": 3}', '{"settings": {"arguments": 3}}'):
        (tmp_path / RUN_FILE).write_text(damaged)
        with pytest.raises(ArgumentError, match=r"run\.json must say with which settings"):
            read_settings(tmp_path)


def test_a_run_has_ended_while_all_files_of_its_model_are_there(tmp_path):
    write_settings(tmp_path, BEFORE, processes=1)
    (tmp_path / "generator").mkdir()
    for name in ("model.safetensors", "generator/config.json", "notes.txt"):
        (tmp_path / name).write_text(name)
    assert not has_ended(tmp_path)
    write_end(tmp_path, step=7)
    (tmp_path / "notes.txt").unlink()  # not the model's
    assert has_ended(tmp_path)
    (tmp_path / "generator/config.json").write_text("cut")
    assert not has_ended(tmp_path)


def test_differences_are_named_with_both_values():
    now = {"arguments": {"seed": 2, "rows_per_step": 6}, "data": "wiki", "more": {"a": 1}}
    changed = changed_settings(BEFORE, now)
    assert changed == {"arguments.seed", "arguments.rows_per_step", "more.a"}
    assert differences(BEFORE, now, {"arguments.seed"}) == "arguments.seed 1 (now 2)"
    assert differences({}, now, changed) == "unknown settings"
    assert "stay 8 to go on" in same_rows(BEFORE, changed) and same_rows(BEFORE, {"data"}) == ""


def test_evaluation_masks_of_an_older_run_were_those_of_its_training(caplog):
    """So that a run of the same masks goes on without a word, and one of others is told and goes on."""
    now = {"data": {"mask_style": "bert", "eval_mask_style": "bert", "mask_unit": "word", "eval_mask_unit": "token"}}
    for style, unit in (("bert", "token"), ("electra", "token"), ("bert", "word")):
        old = with_eval_masks({"data": {"mask_style": style, "mask_unit": unit}}, now)
        assert old["data"]["eval_mask_style"] == style and old["data"]["eval_mask_unit"] == unit
    assert not caplog.records
    same = with_eval_masks({"data": {"mask_style": "bert", "mask_unit": "word"}}, now)
    assert hindering_settings(same, now) == set() and "eval_mask_unit word (now token)" in caplog.text
    caplog.clear()
    assert hindering_settings(now, now) == set() and not caplog.records
    assert hindering_settings(with_eval_masks({"data": {"mask_style": "bert"}}, now), now) == {"data.mask_unit"}
    assert hindering_settings(with_eval_masks({}, now), now) and not caplog.records, "somebody else's run"


def test_a_switch_that_an_older_run_did_not_know_is_off_there():
    assert changed_settings({"data": {"share": 1}}, {"data": {"share": 1, "switch": False}}) == set()
    assert changed_settings({"data": {}}, {"data": {"switch": True}}) == {"data.switch"}
    assert changed_settings({"data": {"switch": True}}, {"data": {"switch": False}}) == {"data.switch"}
    assert changed_settings({"data": {"share": None}}, {"data": {"share": 0}}) == {"data.share"}
