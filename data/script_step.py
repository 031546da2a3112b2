"""A block of a datatrove pipeline: each of its tasks runs one of our scripts on a share, in a process of its own.

So a task has the flags, the bytes and the errors of the script, and leaves no memory behind.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # of Linux' sys/prctl.h


@dataclass
class ScriptStep:
    """command: the script with its flags; logs: folder of what tasks print; shared: whether tasks share the step.

    forked: in a copy of the task's process, which must have no threads; what that has imported is not imported again.
    """

    command: list[str]
    logs: Path
    shared: bool
    forked: bool = False

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        silence()  # in the process of a task

    def __call__(self, data, rank: int, world_size: int) -> None:
        """Run the script. CalledProcessError when it fails; `error` tells why."""
        share = ["--shard_index", str(rank), "--num_shards", str(world_size)] if self.shared else []
        self.logs.mkdir(parents=True, exist_ok=True)
        command, logs = [*self.command, *share], [self._log(rank, stream) for stream in ("out", "err")]
        if self.forked:
            process = multiprocessing.get_context("fork").Process(target=_be_script, args=(command, logs))
            process.start()
            process.join()
            code = process.exitcode
        else:
            with logs[0].open("w") as out, logs[1].open("w") as errors:
                words = [sys.executable, *command]
                code = subprocess.run(words, stdout=out, stderr=errors, preexec_fn=_die_with_parent).returncode
        if code < 0:
            with logs[1].open("a") as errors:
                name = signal.Signals(-code).name
                errors.write(f"\nkilled by {name}, most often for want of memory; run the same command again to go on")
        if code:
            raise subprocess.CalledProcessError(code, command)

    def _log(self, rank: int, stream: str) -> Path:
        return self.logs / f"{rank:05d}.{stream}"

    def printed(self, rank: int) -> tuple[str, str]:
        """What a task wrote to its output and to its errors, without bars of progress."""
        paths = [self._log(rank, stream) for stream in ("out", "err")]
        out, errors = (path.read_bytes().decode(errors="replace") if path.is_file() else "" for path in paths)
        return out, "".join(f"{line}\n" for line in errors.split("\n") if line.strip() and "\r" not in line)

    def error(self, rank: int) -> str:
        """The line with which a task ended, if it wrote one."""
        return self.printed(rank)[1].rstrip("\n").rpartition("\n")[2]


def silence(whole: bool = False) -> None:
    """Keep datatrove from printing a task's settings, and a traceback beside the line of a script.

    whole: print nothing of it in this process, whose tasks have processes with loggers of their own.
    """
    from loguru import logger

    for module in ("datatrove.executor.base", "datatrove.utils.logging"):
        logger.disable(module)
    if whole:
        logger.remove()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _be_script(command: list[str], logs: list[Path]) -> None:
    """In the new process: be this script, whose output and errors go to these files."""
    _die_with_parent()
    sys.stdout, sys.stderr = (path.open("w", buffering=1) for path in logs)
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
