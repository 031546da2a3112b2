"""Files as users have them, for the scripts that prepare data: read as they are meant, or refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Names that are not UTF-8, terminals that are not


@pytest.mark.parametrize(
    "name, printed", [("中文.txt".encode(), "中文.txt"), ("中文".encode("gbk"), r"\udcd6\udcd0\udcce\udcc4")]
)
def test_any_name_can_be_printed_on_any_terminal(name, printed):
    program = "import sys, common.script as s; s.run_script(lambda: print('\\u4e2d', sys.argv[1]))"
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, name], env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == f"中 {printed}\n"
