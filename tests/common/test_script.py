"""common/: what scripts print and with which exit code they end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.script import INTERRUPTED, one_line_errors

ROOT = Path(__file__).parents[2]


class Worse(UserError):
    exit_code = 7


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), INTERRUPTED), (Worse("--so"), 7)])
def test_other_exit_codes(capsys, error, code):
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise error
    assert end.value.code == code and capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_prints_no_traceback_even_amid_the_imports():
    program = "import common.script, sys, time; print('there', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "there\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "" and process.returncode == -signal.SIGINT


SCRIPT = """
import atexit, os, sys
import torch
from common.errors import UserError
from common.script import run_script

class Last:
    def __del__(self, end=os._exit):
        end(7)

def main():
    sys.last = Last()  # goes when Python is taken down
    atexit.register(print, "at exit")
    print("done")
    if sys.argv[1] == "group":
        torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=0, world_size=1)
    if sys.argv[1] == "error":
        raise UserError("--flag must be right")

run_script(main)
"""


@pytest.mark.parametrize("way, code", [("group", 0), ("alone", 7), ("error", 7)])
def test_processes_of_a_group_end_with_python_still_up(tmp_path, way, code):
    """So that threads of gloo's that wait for Python's lock cannot abort them; alone a script ends as any other."""
    command = [sys.executable, "-c", SCRIPT, way, tmp_path / "store"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (code, "done\nat exit\n"), done.stderr
    assert done.stderr.endswith("-c: --flag must be right\n") == (way == "error")
