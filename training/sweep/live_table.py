"""One table of a whole sweep, redrawn in place on a terminal; elsewhere a plain line for each change of a job.

What a running job has reached is read from the train_log.jsonl that it appends to: "step" and "max_steps" of its last
line, "primary" of each evaluation.
"""

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from training.loop.logs import clock

HEAD = ("task", "config", "seed", "state", "done", "best", "device", "elapsed")
_ORDER = ("running", "elsewhere", "failed", "blocked", "waiting", "finished")  # what is cut off first stands last
_SECONDS = 1.0  # between two drawings


@dataclass
class Row:
    """What the table shows of a job. share: of its steps, 0 to 1; best: primary metric on dev, in percent."""

    task: str
    config: str
    seed: int
    state: str = "waiting"
    share: float | None = None
    best: float | None = None
    device: str = ""
    seconds: float | None = None

    def cells(self) -> tuple[str, ...]:
        share = "" if self.share is None else f"{self.share:.0%}"
        best = "" if self.best is None else f"{self.best:.2f}"
        return (self.task, self.config, str(self.seed), self.state, share, best, self.device, clock(self.seconds))


class TrainLog:
    """Follows a train_log.jsonl that another process appends to, or begins anew."""

    def __init__(self, path: Path):
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self.share, self.best, self._offset = None, None, 0

    def read(self) -> None:
        """Take in the lines that were completed since the last call; a missing file is an empty one."""
        try:
            with open(self.path, "rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._begin()
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in filter(None, whole.split(b"\n")):
            record = json.loads(line)
            if record.get("max_steps"):
                self.share = record.get("step", 0) / record["max_steps"]
            if record.get("primary") is not None:
                self.best = max(record["primary"], self.best if self.best is not None else -float("inf"))


class LiveTable:
    """Draws rows into a text stream: in place when that is a terminal, else only what `say` is told."""

    def __init__(self, stream):
        self.stream = stream
        self.in_place = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._lines, self._drawn = 0, -_SECONDS

    def show(self, rows: list[Row], at_once: bool = False) -> None:
        """Redraw, at most once a second unless asked at once."""
        if self.in_place and (at_once or time.monotonic() - self._drawn >= _SECONDS):
            columns, height = shutil.get_terminal_size()
            self._erase()
            lines = [line[: columns - 1] for line in render(rows, height - 2)]
            self.stream.write("".join(line + "\n" for line in lines))
            self.stream.flush()
            self._lines, self._drawn = len(lines), time.monotonic()

    def say(self, line: str) -> None:
        """A line that stays, above the table where there is one."""
        self._erase()
        self.stream.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        self.stream.flush()
        self._drawn = -_SECONDS

    def _erase(self) -> None:
        if self._lines:
            self.stream.write(f"\x1b[{self._lines}F\x1b[J")
            self._lines = 0


def render(rows: list[Row], height: int) -> list[str]:
    """Lines of the table, at most `height` of them: what runs first, what is left out counted in the last line."""
    ordered = sorted(rows, key=lambda row: _ORDER.index(row.state))
    shown = ordered[: max(1, height - 2)]
    cells = [HEAD, *(row.cells() for row in shown)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    counts = {state: sum(row.state == state for row in rows) for state in _ORDER}
    total = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    left_out = len(ordered) - len(shown)
    return [*lines, f"{len(rows)} jobs: {total}" + (f"; {left_out} not shown" if left_out else "")]
