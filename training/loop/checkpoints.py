"""Checkpoints that are whole or absent: written under another name, renamed when complete, looked for newest first.

A folder `checkpoint-N` always holds everything a resumed run needs, and complete.json says what its files were when
they were written; what a killed run was still writing is called `incomplete-*` and is removed by the next one.
"""

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from common.errors import ArgumentError
from common.files import give_usual_rights
from training.files import CHECKSUMS, PARTIAL, broken_seal, read_json, seal, to_disk

logger = logging.getLogger(__name__)

COMPLETE, PROGRESS, STATE = "checkpoint-", "progress.json", "trainer_state.json"
_PROGRESS_KEYS = ("step", "places", "window_step", "tokens_seen", "seconds", "sums")


def step_of(folder: Path) -> int:
    """Optimiser step of a folder called checkpoint-N, -1 for any other name."""
    number = folder.name.removeprefix(COMPLETE)
    return int(number) if folder.name.startswith(COMPLETE) and number.isdecimal() else -1


def all_checkpoints(output_dir: Path) -> list[Path]:
    """Folders called checkpoint-N by rising N, complete or not."""
    folders = [folder for folder in output_dir.glob(f"{COMPLETE}*") if folder.is_dir() and step_of(folder) >= 0]
    return sorted(folders, key=step_of)


def fault(folder: Path, args) -> str | None:
    """What keeps a run with these arguments from going on exactly from a checkpoint, None if nothing does."""
    if (folder / CHECKSUMS).is_file():
        reason = broken_seal(folder)
    else:  # of before there were checksums, unless what else it says is newer
        reason = f"lacks {CHECKSUMS}" if b'"processes"' in _bytes(folder / PROGRESS) else None
    missing = _missing_files(folder, args)
    reason = reason or (f"lacks {', '.join(missing)}" if missing else None)
    reason = reason or next((f"has a damaged {path.name}" for path in _contents(folder) if not _readable(path)), None)
    if reason:
        return reason
    progress = read_json(folder / PROGRESS)
    if progress["step"] != read_json(folder / STATE)["global_step"]:
        return f"has {STATE} and {PROGRESS} of different steps"
    if args.deepspeed and (processes := progress.get("processes", args.world_size)) != args.world_size:
        return f"is cut over {processes} processes, and DeepSpeed goes on with as many alone"
    return None


def _missing_files(folder: Path, args) -> list[str]:
    """What a checkpoint lacks of all that a run with these arguments needs to go on exactly."""
    wanted = [STATE, "scheduler.pt", PROGRESS, *(["scaler.pt"] if args.fp16 else [])]
    if not args.deepspeed and not args.fsdp:  # weights lie where these backends put them
        weights = ("model.safetensors", "model.safetensors.index.json")
        wanted += ["optimizer.pt", next((name for name in weights if (folder / name).is_file()), weights[0])]
    missing = [name for name in wanted if not (folder / name).is_file()]
    return missing + ([] if random_states(folder) else [random_state_name(0, args.world_size)])


def random_state_name(number: int, processes: int) -> str:
    """transformers' name of the file of one process's random state."""
    return "rng_state.pth" if processes == 1 else f"rng_state_{number}.pth"


def random_states(folder: Path) -> list[Path]:
    """The saved random states of a checkpoint by the numbers of their processes."""
    return sorted(folder.glob("rng_state*.pth"), key=process_of)


def process_of(path: Path) -> int:
    """The number of the process that a file like rng_state_3.pth is of; 0 without one."""
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


def _contents(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".pt", ".pth"))


def _readable(path: Path) -> bool:
    """Whether a file of a checkpoint is what its name says; nothing in it is executed, and tensors are not read."""
    try:
        if path.name == STATE:
            TrainerState.load_from_json(str(path)).global_step.bit_length()
        elif path.suffix == ".json":
            read_json(path, *(_PROGRESS_KEYS if path.name == PROGRESS else ()))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                file.keys()
        else:
            with safe_globals():
                torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception:  # what parsers raise over damaged bytes has no end
        return False
    return True


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def newest_checkpoint(output_dir: Path, args, way_out: str) -> Path | None:
    """The usable checkpoint with the highest step, None where there is no checkpoint at all.

    Says which ones it had to pass over. ArgumentError, which ends with `way_out`, where none of them is usable.
    """
    faults = []
    for folder in reversed(all_checkpoints(output_dir)):
        reason = fault(folder, args)
        if reason is None:
            return folder
        faults.append(f"{folder.name}, which {reason}")
        logger.warning("passing over %s, which %s", folder, reason)
    if faults:
        raise ArgumentError(
            f"--output_dir {output_dir} must hold a checkpoint to go on from, got {'; '.join(faults[:3])}"
            f"{f' and {len(faults) - 3} more' if len(faults) > 3 else ''}; {way_out}"
        )
    return None


def named_checkpoint(path: str, args) -> Path:
    """The checkpoint that --resume_from_checkpoint names; ArgumentError unless it is usable."""
    folder = Path(path)
    if not folder.is_dir():
        raise ArgumentError(
            f"--resume_from_checkpoint {path} must be auto, none or a checkpoint folder, got no such folder"
        )
    if (reason := fault(folder, args)) is not None:
        raise ArgumentError(
            f"--resume_from_checkpoint {path} must be a whole checkpoint, got one that {reason}; "
            f"name another one, or continue from weights with --model_name_or_path"
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
    """Make a folder appear whole: sealed and on disk first, readable like other new files, then one rename."""
    give_usual_rights(partial.rglob("*"))
    seal(partial)
    if final.exists():
        discard(final)
    partial.rename(final)
    to_disk(final.parent)


def discard(folder: Path) -> None:
    """Delete a checkpoint so that a kill halfway leaves nothing that looks like one."""
    doomed = folder.with_name(f"{PARTIAL}old-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def rotate(
    output_dir: Path, limit: int | None, best: str | None, kept_steps: Collection[int] = (), newest: int | None = None
) -> None:
    """Keep the newest `limit` checkpoints (None: all), the best one, and those after kept_steps, which count apart.

    newest: step of the one that was just written, None for the highest; what lies beyond is left alone, as no course
    that leads to it wrote it.
    """
    if limit is None or limit <= 0:
        return
    own = [folder for folder in all_checkpoints(output_dir) if newest is None or step_of(folder) <= newest]
    for folder in [folder for folder in own if step_of(folder) not in kept_steps][:-limit]:
        if best is None or folder.resolve() != Path(best).resolve():
            discard(folder)
