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
