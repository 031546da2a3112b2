"""Processes for tests, which a server that has imported the scripts forks: without an interpreter's start for each."""

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["run_clm", "run_electra", "run_glue", "run_mlm_wwm"])


def search_path(*folders: Path) -> str:
    """PATH for a recipe: these folders first, then this Python and its scripts, then as it is."""
    return os.pathsep.join((*map(str, folders), str(Path(sys.executable).parent), os.environ["PATH"]))


def run_together(
    script: Path,
    words: Sequence,
    logs: Path,
    processes: int = 2,
    limit: float = 240,
    machines: Sequence[Path] = (),
    code: int = 0,
    meanwhile: Callable[[Sequence[multiprocessing.Process]], None] | None = None,
) -> str:
    """Run a script on several CPU processes, as torchrun starts them; returns the first one's standard output.

    words: the command line; logs: folder for a file per process and stream; limit: seconds until they are killed;
    machines: for each process the folder that it runs in, as a machine of its own; code: with which all end;
    meanwhile: called with them when all are started.
    AssertionError with the standard errors where one ends with another code.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    local = 1 if machines else processes
    place |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(local), "CUDA_VISIBLE_DEVICES": ""}
    words = [str(word) for word in words]
    members = []
    for rank in range(processes):
        own = place | {"RANK": str(rank), "LOCAL_RANK": str(rank % local)}
        folder = str(machines[rank]) if machines else None
        members.append(SERVER.Process(target=_become, args=(rank, own, folder, str(logs), str(script), words)))
    for member in members:
        member.start()
    if meanwhile is not None:
        meanwhile(members)
    for member in members:
        member.join(limit)
        member.kill()  # where it hangs
        member.join()
    outputs = [[(logs / f"{stream}-{rank}").read_text() for rank in range(processes)] for stream in ("out", "err")]
    assert all(member.exitcode == code for member in members), "\n".join(outputs[1])
    return outputs[0][0]


def start_alone(script: Path, words: Sequence, logs: Path) -> multiprocessing.Process:
    """Start a script as a process that goes on beside the test, which is to kill it; logs as of run_together."""
    words = [str(word) for word in words]
    member = SERVER.Process(
        target=_become, args=(0, {"CUDA_VISIBLE_DEVICES": ""}, None, str(logs), str(script), words)
    )
    member.start()
    return member


def _become(rank: int, place: dict, folder: str | None, logs: str, script: str, words: list[str]) -> None:
    """In the new process: be this script, whose files are logs/out-RANK and logs/err-RANK."""
    for number, stream in ((1, "out"), (2, "err")):
        with open(f"{logs}/{stream}-{rank}", "wb") as file:
            os.dup2(file.fileno(), number)
    os.environ |= place
    if folder is not None:
        os.chdir(folder)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
