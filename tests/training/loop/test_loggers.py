"""Loggers besides console and log.jsonl: wandb offline, and the log as CSV by the line of docs/pretraining.md."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from training.loop.logs import read_log

PAGE = Path(__file__).resolve().parents[3] / "docs/pretraining.md"


def test_the_log_becomes_a_csv_table_by_the_line_of_the_page(small_runs, tmp_path):
    small_runs.run("mlm", tmp_path / "run", validation_split=0.2)
    (line,) = re.findall(r"^python -c .*to_csv.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    _, *words = shlex.split(line.replace("outputs/mine/model/", ""))
    subprocess.run([sys.executable, *words], cwd=tmp_path / "run", check=True)
    with open(tmp_path / "run/log.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    records = read_log(tmp_path / "run/log.jsonl")
    assert [int(row["step"]) for row in rows] == [record["step"] for record in records]
    for name in ("loss", "eval_loss", "mlm_accuracy", "tokens_seen"):
        wanted = [pytest.approx(record[name]) if name in record else "" for record in records]
        assert [float(row[name]) if row[name] else "" for row in rows] == wanted


def test_a_logger_that_cannot_log_in_is_a_line(small_runs, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(wandb, "init", lambda **_: raise_(wandb.errors.UsageError("No API key\nconfigured")))
    with pytest.raises(UserError, match="--report_to wandb: No API key configured"):
        small_runs.run("mlm", tmp_path / "run", report_to="wandb")


def raise_(error):
    raise error


def test_wandb_offline_has_curves_and_samples_and_no_token(small_runs, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    (tmp_path / "probes.txt").write_text("天安[MASK]\t门\n", encoding="utf-8")
    options = {"report_to": "wandb", "hub_token": "hf_secretsecret", "probe_file": tmp_path / "probes.txt"}
    small_runs.run("mlm", tmp_path / "run", validation_split=0.2, **options)
    wandb.finish()
    wandb.teardown()  # as at the end of the process, whose record another one writes
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    sent = record.read_bytes()
    for name in ("train/loss", "eval/mlm_accuracy", "train/probe_accuracy", "天安["):
        assert name.encode() in sent or name.encode("unicode_escape") in sent, name
    assert b"secretsecret" not in sent
