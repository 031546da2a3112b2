"""benchmarks/gpu_check.py on a CPU with toy sizes: every section gives rows, none fails, JSON and table agree."""

import json

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu import speed
from benchmarks.gpu.table import Check, Wrong, bounded

# The others take a minute of a CPU each, and the scripts several.
QUICK = ("environment", "parity", "lengths", "decoding", "loader")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in gpu_check.SECTIONS if name not in QUICK]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("section", [*QUICK, *SLOW])
def test_every_section_gives_rows(tmp_path, capsys, section):
    command = [str(tmp_path), "--device", "cpu", "--tiny", "--budget", "1700", "--only", section]
    assert gpu_check.main(command) == 0, capsys.readouterr().out
    written = json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))
    rows = written["rows"]
    assert rows and {row["section"] for row in rows} == {section}
    assert {row["status"] for row in rows} == {"ok"}, rows
    assert len({row["name"] for row in rows}) == len(rows)
    page = (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    assert written["card"] in page and written["date"] in page and written["versions"]["torch"] in page
    assert table_rows(page) == [{key: str(value) for key, value in row.items() if value != ""} for row in rows]


def table_rows(page):
    """The rows of all tables of a page, without empty cells."""
    lines = [line.strip("| ").split(" | ") if line.startswith("|") else None for line in page.splitlines()]
    columns, rows = None, []
    for line in lines:
        if line is None:
            columns = None
        elif columns is None:
            columns = [cell.strip() for cell in line]
        elif not set(line[0]) <= {"-"}:
            cells = (cell.strip() for cell in line + [""] * (len(columns) - len(line)))
            rows.append({key: cell for key, cell in zip(columns, cells, strict=True) if cell})
    return rows


@pytest.fixture
def check(tmp_path):
    return Check(torch.device("cpu"), True, tmp_path, tmp_path, 100.0, "python benchmarks/gpu_check.py")


def test_a_failure_is_a_row_and_not_the_end(check):
    def fail():
        raise RuntimeError("out of luck")

    def wrong():
        return bounded({"error": float("nan")}, error=0.1)

    check.run("parity", lambda check: iter([("first", fail), ("second", wrong), ("third", lambda: {"error": 0.0})]), 1)
    check.run("speed", lambda check: 1 / 0, 1)
    assert [row["name"] for row in check.rows] == ["first", "second", "third", "all"]
    assert [row["status"] for row in check.rows] == ["FAILED", "FAILED", "ok", "FAILED"]
    assert "out of luck" in check.rows[0]["why"] and "above error 0.1" in check.rows[1]["why"]
    assert "out of luck" in (check.out / "failures.txt").read_text()


def test_what_would_begin_too_late_is_left_out(check):
    check.seconds = 5.0
    check.run("speed", lambda check: iter([("first", dict), ("second", dict)]), needed=10)
    assert [row["status"] for row in check.rows] == ["SKIPPED", "SKIPPED"] and "10 needed" in check.rows[0]["why"]


def test_it_exits_with_1_where_something_is_wrong(tmp_path, monkeypatch, capsys):
    def wrong():
        raise Wrong("not the same", {})

    for section, code in (("parity", 1), ("speed", 0)):
        monkeypatch.setitem(gpu_check.SECTIONS, section, (lambda check: iter([("it", wrong)]), 1))
        assert gpu_check.main([str(tmp_path), "--device", "cpu", "--tiny", "--only", section]) == code
    assert "not the same" in capsys.readouterr().out


def test_rows_that_fit_follow_from_two_peaks():
    # 2 GB for the model and 0.5 GB a row, 1.5 GB spared.
    assert speed.fitting({16: 10.0, 48: 26.0}) == {"rows_in_24_gb": 41, "rows_in_40_gb": 73, "rows_in_80_gb": 153}
