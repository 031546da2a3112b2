"""Checkpoints that are whole or absent: written under another name, renamed when complete, looked for newest first.

A folder `checkpoint-N` always holds everything a resumed run needs; what a killed run was still writing is called
`incomplete-*` and is removed by the next one.
"""

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from transformers import TrainerCallback

from training.files import PARTIAL
from training.pretrained import ArgumentError

logger = logging.getLogger(__name__)

COMPLETE, PROGRESS = "checkpoint-", "progress.json"


def step_of(folder: Path) -> int:
    """Optimiser step of a folder called checkpoint-N, -1 for any other name."""
    number = folder.name.removeprefix(COMPLETE)
    return int(number) if folder.name.startswith(COMPLETE) and number.isdigit() else -1


def all_checkpoints(output_dir: Path) -> list[Path]:
    """Folders called checkpoint-N by rising N, complete or not."""
    folders = [folder for folder in output_dir.glob(f"{COMPLETE}*") if folder.is_dir() and step_of(folder) >= 0]
    return sorted(folders, key=step_of)


def missing_files(folder: Path, args) -> list[str]:
    """What a checkpoint lacks of all that a run with these arguments needs to go on exactly."""
    wanted = ["trainer_state.json", "scheduler.pt", PROGRESS]
    wanted += ["rng_state.pth"] if args.world_size <= 1 else [f"rng_state_{i}.pth" for i in range(args.world_size)]
    wanted += ["scaler.pt"] if args.fp16 else []
    if args.deepspeed or args.fsdp:
        return [name for name in wanted if not (folder / name).is_file()]  # weights lie where these backends put them
    wanted.append("optimizer.pt")
    missing = [name for name in wanted if not (folder / name).is_file()]
    weights = ("model.safetensors", "model.safetensors.index.json")
    return missing + ([weights[0]] if not any((folder / name).is_file() for name in weights) else [])


def newest_checkpoint(output_dir: Path, args) -> Path | None:
    """The complete checkpoint with the highest step; says which ones it had to pass over."""
    for folder in reversed(all_checkpoints(output_dir)):
        missing = missing_files(folder, args)
        if not missing:
            return folder
        logger.warning("passing over %s, which lacks %s", folder, ", ".join(missing))
    return None


def named_checkpoint(path: str, args) -> Path:
    """The checkpoint that --resume_from_checkpoint names; ArgumentError unless it is complete."""
    folder = Path(path)
    if not folder.is_dir():
        raise ArgumentError(
            f"--resume_from_checkpoint {path} must be auto, none or a checkpoint folder, got no such folder"
        )
    missing = missing_files(folder, args)
    if missing:
        raise ArgumentError(
            f"--resume_from_checkpoint {path} must be a complete checkpoint, got one without {', '.join(missing)}; "
            f"name another one, or continue from its weights with --model_name_or_path"
        )
    return folder


def remove_partial(output_dir: Path) -> None:
    """Delete what a killed run had begun to write or to delete."""
    for path in output_dir.glob(f"{PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def publish(partial: Path, final: Path) -> None:
    """Make a checkpoint appear whole: to disk first, readable like other new files, then one rename."""
    umask = os.umask(0)
    os.umask(umask)
    for path in sorted(partial.rglob("*"), reverse=True):
        if path.is_file():
            path.chmod(0o666 & ~umask)  # safetensors writes 0600
            _to_disk(path)
    if final.exists():
        discard(final)
    partial.rename(final)
    _to_disk(final.parent)


def discard(folder: Path) -> None:
    """Delete a checkpoint so that a kill halfway leaves nothing that looks like one."""
    doomed = folder.with_name(f"{PARTIAL}old-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


class SaveAfter(TrainerCallback):
    """Asks for a checkpoint after each of some steps."""

    def __init__(self, steps: Collection[int]):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step in self.steps


def rotate(output_dir: Path, limit: int | None, best: str | None, kept_steps: Collection[int] = ()) -> None:
    """Keep the newest `limit` checkpoints (None: all), the best one, and those after kept_steps, which count apart."""
    if limit is None or limit <= 0:
        return
    for folder in [folder for folder in all_checkpoints(output_dir) if step_of(folder) not in kept_steps][:-limit]:
        if best is None or folder.resolve() != Path(best).resolve():
            discard(folder)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
