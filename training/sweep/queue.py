"""Run the jobs of a sweep, each as a child process, on CPUs or GPUs, and share them with other sweeps on the folder.

What is done is read from the folders alone (result.json: finished; failure.json: given up by some sweep), so that the
same command goes on after any kind of end, and several may run at once (claims.py). A child writes its output
to FOLDER/console.log and dies with its parent; SIGINT and SIGTERM end the children before the sweep.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import ArgumentError
from training import folder_lock
from training.files import write_whole
from training.finetune.job import CONSOLE_FILE, FAILURE_FILE, RESULT_FILE, TRAIN_LOG, Job
from training.sweep.claims import Claims
from training.sweep.grid import varying
from training.sweep.live_table import LiveTable, Row, TrainLog, clock

POLL_SECONDS, LOOK_SECONDS, GRACE_SECONDS = 0.1, 1.0, 30.0  # own children; others' jobs; from SIGTERM to SIGKILL
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TAIL_LINES = 20


@dataclass
class Failure:
    """A job that did not finish, why, and the end of its log."""

    job: Job
    reason: str
    tail: str = ""


@dataclass
class _Child:
    process: subprocess.Popen
    slot: str
    started: float


def find_devices(gpus: str | None, use_cpu: bool = False) -> list[str]:
    """Ids for CUDA_VISIBLE_DEVICES, or ["cpu"]. gpus: `0,1` counts within the GPUs this process may see; None: all.

    Raises:
        ArgumentError: a GPU that is not there or is named twice.
    """
    import torch

    count = torch.cuda.device_count()
    if use_cpu or (gpus is None and not count):
        return ["cpu"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    wanted = [word.strip() for word in gpus.split(",")] if gpus is not None else [str(i) for i in range(count)]
    known = [str(number) for number in range(count)]
    if not set(wanted) <= set(known) or len(set(wanted)) < len(wanted):
        raise ArgumentError(
            f"--gpus must be distinct numbers of visible GPUs, got {gpus}; there are {count}, from 0 on"
        )
    return [ids[int(number)] for number in wanted]


def run_jobs(
    jobs: Sequence[Job],
    command: Sequence[str],
    devices: Sequence[str],
    jobs_per_device: int = 1,
    max_retries: int = 1,
    stream=None,
) -> list[Failure]:
    """Run `command --job FOLDER` for every job that is not finished; those that others work on are waited for.

    devices: find_devices'; max_retries: further attempts at a job that fails; stream: where the table goes, stderr.

    Returns:
        The jobs that failed and those that waited for them; empty when all are finished.

    Raises:
        ArgumentError: no job, or numbers that cannot be.
        SystemExit: after SIGINT or SIGTERM, when the children have ended.
    """
    if not jobs or jobs_per_device < 1 or max_retries < 0:
        raise ArgumentError(
            f"a sweep must have jobs, --jobs_per_gpu above 0 and --max_retries from 0 on, "
            f"got {len(jobs)} jobs, {jobs_per_device} and {max_retries}"
        )
    sweep = _Sweep(jobs, command, devices, jobs_per_device, max_retries, LiveTable(stream or sys.stderr))
    previous = {number: signal.signal(number, sweep.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        sweep.run()
    finally:
        sweep.stop_children()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if sweep.signals:
        sweep.table.say("stopped; the same command goes on from here")
        raise SystemExit(128 + sweep.signals[0])
    return sweep.failures()


def describe(failures: Sequence[Failure]) -> str:
    """The failed jobs, each with the end of its log."""
    parts = [f"{len(failures)} jobs failed:"]
    for failure in failures:
        job = failure.job
        parts.append(f"== {job.task} {job.config} seed {job.seed}: {failure.reason} ({job.folder / CONSOLE_FILE})")
        parts += [f"   {line}" for line in failure.tail.split("\n") if line]
    return "\n".join(parts)


class _Sweep:
    """One process's part of a sweep."""

    def __init__(self, jobs, command, devices, jobs_per_device, max_retries, table: LiveTable):
        self.jobs, self.command, self.max_retries, self.table = list(jobs), list(command), max_retries, table
        self.free = [device for _ in range(jobs_per_device) for device in devices]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, cores // len(self.free))
        self.claims = Claims()
        self.children: dict[Path, _Child] = {}
        self.attempts: dict[Path, int] = {}
        self.signals: list[int] = []
        self._looked = -LOOK_SECONDS
        names = varying([job.settings for job in self.jobs])
        self.rows, self.logs = {}, {}
        for job in self.jobs:
            label = ",".join(f"{name}={job.settings[name]}" for name in names if name in job.settings) or job.config
            state = "finished" if _finished(job.folder) else "waiting"
            self.rows[job.folder] = Row(job.task, label, job.seed, state)
            self.logs[job.folder] = TrainLog(job.folder / TRAIN_LOG)
        # What earlier sweeps gave up is tried again; what another gives up from now on is not.
        self.old_failures = {job.folder: _read(job.folder / FAILURE_FILE) for job in self.jobs}

    def on_signal(self, number, frame):
        self.signals.append(number)

    def run(self) -> None:
        """Until every job is finished or given up, or a signal has come."""
        before = sum(row.state == "finished" for row in self.rows.values())
        if before:
            self.table.say(f"{before} of {len(self.rows)} jobs were finished before")
        while not self.signals:
            changed = self._reap()
            for folder in self.claims.beat():
                self._lose(folder)
            if changed or time.monotonic() - self._looked >= LOOK_SECONDS:
                self._looked = time.monotonic()
                if self._look() and not self.children:
                    break
            self.table.show(list(self.rows.values()), at_once=changed)
            time.sleep(POLL_SECONDS)
        self._tidy()
        self.table.show(list(self.rows.values()), at_once=True)

    def _tidy(self) -> None:
        """Remove what sweeps that were killed left in the folders of finished jobs."""
        for job in self.jobs:
            if _finished(job.folder) and self.claims.holder(job.folder) is None:
                (job.folder / FAILURE_FILE).unlink(missing_ok=True)
                self.claims.clear(job.folder)

    def failures(self) -> list[Failure]:
        """The jobs without a result."""
        failed = []
        for job in self.jobs:
            if self.rows[job.folder].state == "blocked":
                failed.append(Failure(job, f"not begun, because {job.init_from} failed"))
            elif not _finished(job.folder):
                reason = json.loads(_read(job.folder / FAILURE_FILE) or '{"reason": "another sweep tries it again"}')
                failed.append(Failure(job, reason["reason"], _tail(job.folder / CONSOLE_FILE)))
        return failed

    def _look(self) -> bool:
        """Start what can be started and bring the table up to date; whether nothing is left to do or to wait for."""
        settled = True
        for job in self.jobs:
            row, before = self.rows[job.folder], self.rows[job.folder].state
            self.logs[job.folder].read()
            row.share, row.best = self.logs[job.folder].share, self.logs[job.folder].best
            row.state = self._state(job)
            if row.state == "waiting" and self.free and (job.init_from is None or _finished(job.init_from)):
                row.state = self._start(job)
            settled &= row.state in ("finished", "failed", "blocked")
            if job.folder in self.children:
                row.seconds = time.monotonic() - self.children[job.folder].started
            if row.state != before:
                self._announce(row)
        return settled

    def _announce(self, row: Row) -> None:
        done = sum(other.state == "finished" for other in self.rows.values())
        detail = {"running": f" on {row.device}", "elsewhere": f" on {row.device}"}.get(row.state, "")
        if row.state == "finished":
            detail = (f", best {row.best:.2f}" if row.best is not None else "") + f" ({done} of {len(self.rows)})"
            detail += f" after {clock(row.seconds)}" if row.seconds is not None else ""
        if not self.table.in_place:
            self.table.say(f"{row.task} {row.config} seed {row.seed}: {row.state}{detail}")

    def _state(self, job: Job) -> str:
        if job.folder in self.children:
            return "running"
        if _finished(job.folder):
            return "finished"
        if self._given_up(job.folder):
            return "failed"
        if job.init_from is not None and self._hopeless(job.init_from):
            return "blocked"
        # A sweep, or a job run by itself.
        holder = self.claims.holder(job.folder) or folder_lock.holder(job.folder)
        if holder is not None:
            self.rows[job.folder].device = holder
            return "elsewhere"
        return "waiting"

    def _given_up(self, folder: Path) -> bool:
        record = _read(folder / FAILURE_FILE)
        return record is not None and record != self.old_failures.get(folder)

    def _hopeless(self, folder: Path) -> bool:
        return not _finished(folder) and folder not in self.children and self._given_up(folder)

    def _start(self, job: Job) -> str:
        """Claim a job and start its child; the state that it is in then."""
        job.folder.mkdir(parents=True, exist_ok=True)
        if not self.claims.take(job.folder):
            return "elsewhere"
        if _finished(job.folder):  # by the one who held it until now
            self.claims.clear(job.folder)
            return "finished"
        if self._given_up(job.folder):
            self.claims.release(job.folder)
            return "failed"
        self._spawn(job, self.free.pop(0))
        return "running"

    def _spawn(self, job: Job, device: str) -> None:
        job.write()
        attempt = self.attempts[job.folder] = self.attempts.get(job.folder, 0) + 1
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        with open(job.folder / CONSOLE_FILE, "ab") as log:
            log.write(f"== attempt {attempt}, {time.strftime('%Y-%m-%d %H:%M:%S')}, on {device}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [*self.command, "--job", str(job.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the sweep, which then ends its children and theirs
                preexec_fn=_die_with_parent(os.getpid()),
            )
        self.children[job.folder] = _Child(process, device, time.monotonic())
        self.rows[job.folder].device = device
        self.claims.work_through(job.folder, process.pid)

    def _reap(self) -> bool:
        """Settle the children that have ended; whether there were any."""
        ended = [job for job in self.jobs if self._ended(job.folder)]
        for job in ended:
            child = self.children.pop(job.folder)
            _signal_group(child.process, signal.SIGKILL)  # what it may have left behind
            code = child.process.returncode
            if _finished(job.folder):  # whatever the code: the result is written last
                self.free.append(child.slot)
                (job.folder / FAILURE_FILE).unlink(missing_ok=True)
                self.claims.clear(job.folder)
                continue
            reason = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}" if code else ""
            reason = reason or f"ended without {RESULT_FILE}"
            if self.attempts[job.folder] <= self.max_retries:
                self.table.say(f"{job.task} {job.config} seed {job.seed}: {reason}; trying again")
                self._spawn(job, child.slot)
                continue
            self.free.append(child.slot)
            _write_failure(job.folder, reason, self.attempts[job.folder])
            self.claims.release(job.folder)
        return bool(ended)

    def _ended(self, folder: Path) -> bool:
        return folder in self.children and self.children[folder].process.poll() is not None

    def _lose(self, folder: Path) -> None:
        """Another machine took this one for dead and works on its job."""
        child = self.children.pop(folder)
        _signal_group(child.process, signal.SIGKILL)
        child.process.wait()
        self.free.append(child.slot)

    def stop_children(self) -> None:
        """End all children: SIGTERM, then SIGKILL after some seconds or at a second signal."""
        signals, deadline = len(self.signals), time.monotonic() + GRACE_SECONDS
        for child in self.children.values():
            _signal_group(child.process, signal.SIGTERM)
        while any(child.process.poll() is None for child in self.children.values()):
            if time.monotonic() > deadline or len(self.signals) > signals:
                break
            time.sleep(POLL_SECONDS)
        for folder, child in self.children.items():
            _signal_group(child.process, signal.SIGKILL)
            child.process.wait()
            if _finished(folder):
                self.claims.clear(folder)
            else:
                self.claims.release(folder)
        self.children.clear()


def _die_with_parent(parent: int):
    """For the child before it becomes the command: the kernel is to kill it when the sweep is gone (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def arrange():
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of them ended before
        os.killpg(process.pid, number)


def _finished(folder: Path) -> bool:
    return (folder / RESULT_FILE).is_file()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write_failure(folder: Path, reason: str, attempts: int) -> None:
    """failure.json; its id makes each giving up another one."""
    record = {"reason": reason, "attempts": attempts, "id": f"{os.getpid()}-{time.time_ns()}"}
    write_whole(folder / FAILURE_FILE, json.dumps(record) + "\n")


def _tail(path: Path) -> str:
    text = (_read(path) or b"").decode("utf-8", errors="replace")
    return "\n".join(text.rstrip("\n").split("\n")[-_TAIL_LINES:])
