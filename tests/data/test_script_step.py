"""The block that runs a script for a task: its share, what it prints, and how it ends."""

import subprocess

import pytest

from data.script_step import ScriptStep

SCRIPT = """
import os, signal, sys
print("share", *sys.argv[1:])
print("  0%|     | 0/2\\r 50%|#####| 1/2", file=sys.stderr)
print("told", file=sys.stderr)
if "--shard_index" in sys.argv and sys.argv[-3] == "1":
    sys.exit("script.py: --flag must be another")
if "--die" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=[False, True], ids=["new", "forked"])
def step(tmp_path, request):
    (tmp_path / "script.py").write_text(SCRIPT)

    def make(*flags, shared=True):
        return ScriptStep([str(tmp_path / "script.py"), *flags], tmp_path / "logs" / "tasks", shared, request.param)

    return make


def test_a_task_runs_the_script_on_its_share(step):
    block = step("--a", "b")
    block(None, 2, 3)
    assert block.printed(2) == ("share --a b --shard_index 2 --num_shards 3\n", "told\n")


def test_a_step_that_is_not_shared_has_the_flags_alone(step):
    block = step("--merge", shared=False)
    block(None, 0, 1)
    assert block.printed(0)[0] == "share --merge\n"


def test_the_line_of_a_script_that_fails_is_kept(step):
    block = step()
    with pytest.raises(subprocess.CalledProcessError):
        block(None, 1, 3)
    assert block.error(1) == "script.py: --flag must be another"


def test_a_script_that_was_killed_is_told(step):
    block = step("--die", shared=False)
    with pytest.raises(subprocess.CalledProcessError):
        block(None, 0, 1)
    assert block.error(0).startswith("killed by SIGKILL, most often for want of memory")


def test_of_a_task_that_was_not_run_nothing_is_told(step):
    assert step().printed(4) == ("", "") and not step().error(4)
