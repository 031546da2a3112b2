"""Tables of a summary: what a user typed never breaks a row, whatever the format (their contents: test_results.py)."""

import csv
import io

from training.sweep.summary_tables import as_csv, as_markdown, as_tex

LABEL = 'model=a|b,text="x&y_z"'
SPREAD = {"mean": 65.0, "median": 65.0, "sd": None, "n": 1}
ROW = {"task": "my_task|&", "config": "0e136cc4e7", "label": LABEL, "chosen": True, "metric": "accuracy", **SPREAD}
ROW |= {"seeds": [1], "missing_seeds": [2], "degenerate": 0, "untrained": False, "shortened": False}
ROW |= {"test": {}, "parameters": 1, "seconds": 1.0, "settings": {"model": 'a|b,"c"'}, "init_from": None}
SUMMARY = {"configurations": [ROW], "averages": [], "comparisons": [], "baseline": None}


def test_markdown_keeps_its_columns():
    head, rule, row = as_markdown(SUMMARY).splitlines()[4:7]
    cells = row.replace(r"\|", "").count("|")
    assert cells == head.count("|") == rule.count("|") and r"my_task\|&" in row and r"model=a\|b" in row
    assert row.endswith("| without seeds 2 |")


def test_tex_escapes_what_is_a_command_to_it():
    line = next(line for line in as_tex(SUMMARY).splitlines() if "my" in line)
    assert line == r"my\_task|\& & accuracy & 65.00 & 65.00 & 1 & 0.0 M \\"


def test_csv_quotes_what_holds_its_separator():
    (row,) = csv.DictReader(io.StringIO(as_csv(SUMMARY)))
    assert (row["task"], row["model"], row["sd"], row["missing_seeds"]) == ("my_task|&", 'a|b,"c"', "", "2")
