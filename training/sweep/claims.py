"""Claims: which process works on which job folder, so that two sweeps on one folder never do one job twice.

Each hold on a folder is a file `claim-N` that O_EXCL lets only one process create. Claims are never taken away: who
finds the newest one's owner dead creates the next number, which again only one can. An owner on this machine is alive
while its process, or the child that works for it, runs; one elsewhere while its file's time goes on changing.
"""

import json
import os
import time
from pathlib import Path

from training.files import write_whole
from training.folder_lock import machine, process_start

BEAT_SECONDS, STALE_SECONDS = 5, 60


class Claims:
    """The claims that this process holds, and what it has seen of others'."""

    def __init__(self):
        self.machine = machine()
        self._owner = [[os.getpid(), process_start(os.getpid())]]
        self._held: dict[Path, Path] = {}
        self._beaten = time.monotonic()
        self._seen: dict[Path, tuple[int, float]] = {}  # a claim's time, and when this process first saw it so

    def take(self, folder: Path) -> bool:
        """Claim an existing folder; False if a living process holds it. Look afterwards whether the work is done."""
        newest = self._newest(folder)
        if newest is not None and self._alive(newest):
            return False
        path = folder / f"claim-{_number(newest) + 1 if newest else 0}"
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(self._record([]))
        self._held[folder] = path
        return True

    def work_through(self, folder: Path, pid: int) -> None:
        """Name the child that works in a claimed folder: the claim lives on in it, should this process be killed."""
        write_whole(self._held[folder], self._record([[pid, process_start(pid)]]))

    def holder(self, folder: Path) -> str | None:
        """The machine of the living process that holds a folder, None if there is none."""
        newest = self._newest(folder)
        if newest is None or not self._alive(newest):
            return None
        return (_read(newest) or {}).get("machine", "unknown").split()[0]

    def beat(self) -> list[Path]:
        """Show that the held claims live, every few seconds; returns folders that others have taken meanwhile."""
        if time.monotonic() - self._beaten < BEAT_SECONDS:
            return []
        self._beaten = time.monotonic()
        lost = [folder for folder, path in self._held.items() if self._newest(folder) != path]
        for folder in lost:
            del self._held[folder]
        for path in self._held.values():
            os.utime(path)
        return lost

    def release(self, folder: Path) -> None:
        """Let others have a folder whose work is not done."""
        path = self._held.pop(folder, None)
        if path is not None:
            write_whole(path, json.dumps({"machine": self.machine, "processes": [], "released": True}))

    def clear(self, folder: Path) -> None:
        """Remove the claims of a folder whose work is done, as all who claim it will find."""
        self._held.pop(folder, None)
        for path in folder.glob("claim-*"):
            path.unlink(missing_ok=True)

    def _record(self, workers: list) -> str:
        return json.dumps({"machine": self.machine, "processes": self._owner + workers})

    def _newest(self, folder: Path) -> Path | None:
        return max(folder.glob("claim-*"), key=_number, default=None)

    def _alive(self, path: Path) -> bool:
        record = _read(path)
        if record is not None and record.get("released"):
            return False
        if record is not None and record["machine"] == self.machine:
            return any(process_start(pid) == start for pid, start in record["processes"])
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:  # given up this moment
            return False
        if self._seen.get(path, (None, 0))[0] != changed:
            self._seen[path] = (changed, time.monotonic())
        return time.monotonic() - self._seen[path][1] < STALE_SECONDS


def _read(path: Path) -> dict | None:
    """What a claim says, None if it is not yet or no longer there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _number(path: Path) -> int:
    return int(path.name.removeprefix("claim-"))
