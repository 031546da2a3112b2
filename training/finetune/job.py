"""What one finetuning job is: task, flags and seed, which its folder's job.json holds, and the names of its files."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import ArgumentError
from training.files import read_json, write_whole
from training.folder_lock import LOCK, locked

logger = logging.getLogger(__name__)

JOB_FILE, RESULT_FILE, FAILURE_FILE, CONSOLE_FILE = "job.json", "result.json", "failure.json", "console.log"
TRAIN_LOG, BEST = "train_log.jsonl", "best"


@dataclass(frozen=True)
class Job:
    """One training of one task.

    settings: flag -> value, as typed; init_from: folder of the job whose best weights it starts from, which is waited
    for.
    """

    task: str
    settings: dict
    seed: int
    folder: Path
    init_from: Path | None = None

    @property
    def config(self) -> str:
        """Hash of the settings, which is the name of the folder above."""
        return self.folder.parent.name

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """What the folder's job.json says. ArgumentError unless it has one."""
        try:
            record = read_json(folder / JOB_FILE)
            before = record.get("init_from")
            return cls(record["task"], record["settings"], record["seed"], folder, Path(before) if before else None)
        except (OSError, ValueError, KeyError) as error:
            raise ArgumentError(
                f"--job {folder} must hold a {JOB_FILE} with task, settings and seed: {error}"
            ) from error

    def write(self) -> None:
        """Write job.json, unless it says the same: another process may work in the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"task": self.task, "settings": self.settings, "seed": self.seed}
        record["init_from"] = str(self.init_from) if self.init_from else None
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        file = self.folder / JOB_FILE
        if not file.is_file() or file.read_bytes() != text.encode():
            write_whole(file, text)


def read_result(folder: Path) -> dict | None:
    """result.json of a finished job, None of any other. ArgumentError for a damaged one."""
    file = folder / RESULT_FILE
    try:
        return read_json(file, "task", "metrics") if file.is_file() else None
    except ValueError as error:
        raise ArgumentError(
            f"{file} must be the result of a finished job, got a damaged file ({error}); move {folder} away, and the "
            f"same command runs the job again"
        ) from error


def log_to_console() -> None:
    """Lines of the log from now on, warnings alone of all processes but the first."""
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=level, stream=sys.stderr)


def move_jobs_aside(folders: Sequence[Path]) -> None:
    """Rename, on the first process, what earlier calls left of these jobs, so that they start over."""
    for folder in folders:
        if folder.exists() and os.environ.get("RANK", "0") == "0":
            number = 1
            while (aside := folder.with_name(f"old-{folder.name}-{number}")).exists():
                number += 1
            with locked(folder, f"--output_dir with {folder.name}"):
                folder.rename(aside)
            (aside / LOCK).unlink()
            logger.warning("moved %s to %s", folder, aside)


def best_folder(configuration: dict) -> str:
    """Of a configuration of training/sweep/results.py: the folder of the run with the best score on validation."""
    values = configuration["values"] or [0]
    return configuration["folders"][values.index(max(values))]
