"""Start and end of a run: logging, memory settings, which checkpoint of which folder it goes on from, leaving.

A folder is a run when it holds run.json, which says what decides the run's course. The same settings resume, other
settings or other contents are refused unless --overwrite_output_dir is given, and then nothing is ever deleted:
what stands in the way is moved to a folder beside.
"""

import ctypes
import hashlib
import json
import logging
import platform
import secrets
import sys
import time
from pathlib import Path

import torch
import transformers
from accelerate.utils import broadcast_object_list
from transformers.utils.logging import disable_progress_bar

from training.arguments import course_settings
from training.checkpoints import all_checkpoints, named_checkpoint, newest_checkpoint, remove_partial, step_of
from training.files import PARTIAL, write_whole
from training.pretrained import ArgumentError

logger = logging.getLogger(__name__)

RUN_FILE, LOG_FILE = "run.json", "log.jsonl"
# What a run writes into its folder, apart from TensorBoard's files; globs.
_OWNED = (RUN_FILE, LOG_FILE, "checkpoint-*", "model*.safetensors*", "pytorch_model*.bin", "training_args.bin")
_OWNED += ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_OWNED += ("generator", "discriminator")
# What a named checkpoint may go on with, because the schedule is made anew: everything else lies in the checkpoint.
_SCHEDULE = ("max_steps", "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "schedule", "schedule_floor")
_MAY_CHANGE = {f"arguments.{name}" for name in _SCHEDULE}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def set_up_process(args) -> None:
    """Log lines to the console (warnings only, on all processes but the first); keep freed memory on CPU runs."""
    level = logging.INFO if args.process_index == 0 else logging.WARNING
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=level, stream=sys.stderr)
    logging.getLogger("training").setLevel(level)
    disable_progress_bar()
    if args.device.type == "cpu":
        tune_cpu()


def tune_cpu() -> None:
    """Settings that every computation on a CPU gains from; call it before the first tensor is made.

    Denormal numbers, which gradients through a squared ReLU are full of, multiply many times slower than others and
    are flushed to zero. Threads that start later inherit that.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)


def keep_freed_memory() -> bool:
    """Tell glibc to keep the pages of freed tensors for the next step; False where the C library is another.

    By default each large tensor is unmapped when freed and faulted in again, a quarter of a CPU step's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # No size gets a mapping of its own: M_MMAP_THRESHOLD stops at 32 MiB in some versions, activations are larger.
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)])


def settle_seed(args) -> None:
    """Draw the seed of a run that was given 0, and log it; a run that goes on keeps the one it drew."""
    if args.seed:
        return
    wanted = args.resume_from_checkpoint or "auto"
    folder = Path(args.output_dir if wanted in ("auto", "none") else wanted).resolve()
    before = _read_settings(folder if wanted == "auto" else folder.parent) if wanted != "none" else None
    drawn = [(before or {}).get("arguments", {}).get("seed", secrets.randbelow(1_000_000))]
    if args.world_size > 1:
        broadcast_object_list(drawn)
    args.seed = drawn[0]
    logger.info("seed %d, drawn", args.seed)


def run_settings(args, data_args, manifest: dict, config, sources: dict) -> dict:
    """All that decides which weights a run ends with: a run is resumed only with equal settings.

    data_args: dataclass; manifest: of the corpus, which stands for its folder or file; config: the model's; sources:
    more.
    """
    data = {name: value for name, value in vars(data_args).items() if not name.endswith(("_dir", "_file"))}
    data["train_dir"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    model = {k: v for k, v in config.to_diff_dict().items() if k not in ("transformers_version", "_name_or_path")}
    return {"arguments": course_settings(args), "data": data, "model": model, **sources}


def start_run(args, settings: dict) -> Path | None:
    """Make output_dir ready for a run with these settings; the first process decides for all.

    settings: nested JSON values; two runs with equal ones end with equal weights.

    Returns:
        The checkpoint to go on from, None for a fresh start.

    Raises:
        ArgumentError: the folder is in use by something else and --overwrite_output_dir is not given.
    """
    settings = json.loads(json.dumps(settings, default=str))
    answer = [None, None]
    if args.process_index == 0:
        try:
            answer[0] = _prepare(args, settings)
        except ArgumentError as error:
            answer[1] = str(error)
    if args.world_size > 1:
        broadcast_object_list(answer)
    if answer[1] is not None:
        raise ArgumentError(answer[1])
    return answer[0]


def _prepare(args, settings: dict) -> Path | None:
    output_dir = Path(args.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ArgumentError(f"--output_dir {output_dir} must be a folder, got a file; name another one")
    output_dir.mkdir(parents=True, exist_ok=True)
    before = _read_settings(output_dir)
    if before is not None:
        remove_partial(output_dir)
    wanted = args.resume_from_checkpoint or "auto"
    if wanted not in ("auto", "none"):
        checkpoint = named_checkpoint(wanted, args)
        _make_way_for(checkpoint, output_dir, args, settings)
    elif before is None:
        checkpoint = None
        if any(not path.name.startswith(PARTIAL) for path in output_dir.iterdir()):
            if not args.overwrite_output_dir:
                raise ArgumentError(
                    f"--output_dir {output_dir} must be empty or a run of this script, got a folder with "
                    f"{min(output_dir.iterdir()).name!r}; name another one or add --overwrite_output_dir"
                )
            move_aside(_owned(output_dir), output_dir)
    elif wanted == "none":
        checkpoint = None
        move_aside(_owned(output_dir), output_dir)
    elif before == settings:
        checkpoint = newest_checkpoint(output_dir, args)
    elif not args.overwrite_output_dir:
        raise ArgumentError(
            f"--output_dir {output_dir} must hold a run with the same settings, got one with "
            f"{_differences(before, settings, _changed(before, settings))}; "
            f"name another one, or add --overwrite_output_dir to move it aside"
        )
    else:
        checkpoint = None
        move_aside(_owned(output_dir), output_dir)
    _write_settings(output_dir, settings, args.world_size)
    logger.info("starting %s in %s", f"from {checkpoint}" if checkpoint else "at step 0", output_dir)
    return checkpoint


def _make_way_for(checkpoint: Path, output_dir: Path, args, settings: dict) -> None:
    """Before going on from a named checkpoint: its settings must fit, and newer ones belong to another future."""
    before = _read_settings(checkpoint.parent)
    if before and (changed := _changed(before, settings) - _MAY_CHANGE):
        raise ArgumentError(
            f"--resume_from_checkpoint {checkpoint} must be of a run with the same settings, got one with "
            f"{_differences(before, settings, changed)}; train on from its weights with --model_name_or_path instead"
        )
    if checkpoint.resolve().parent == output_dir.resolve():
        later = [folder for folder in all_checkpoints(output_dir) if step_of(folder) > step_of(checkpoint)]
        move_aside(later, output_dir)
    elif any(output_dir.iterdir()) and not args.overwrite_output_dir:
        raise ArgumentError(
            f"--output_dir {output_dir} must be empty to go on from a checkpoint elsewhere, got a used folder; "
            f"name another one or add --overwrite_output_dir"
        )
    else:
        move_aside(_owned(output_dir), output_dir)


def _owned(output_dir: Path) -> list[Path]:
    return sorted({path for pattern in _OWNED for path in output_dir.glob(pattern)})


def move_aside(paths: list[Path], output_dir: Path) -> None:
    """Move files and folders of output_dir into a new folder beside it, and say where."""
    if not paths:
        return
    base = output_dir.resolve()
    number = 1
    while (aside := base.with_name(f"{base.name}.old-{number}")).exists():
        number += 1
    aside.mkdir()
    for path in paths:
        path.rename(aside / path.name)
    logger.warning("moved %d files and folders of %s to %s", len(paths), output_dir, aside)


def _read_settings(output_dir: Path) -> dict | None:
    path = output_dir / RUN_FILE
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))["settings"]
    return {} if all_checkpoints(output_dir) else None  # somebody else's run: no settings equal its


def _write_settings(output_dir: Path, settings: dict, processes: int) -> None:
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    record = {"command": sys.argv, "started": started, "processes": processes, "versions": versions}
    record["settings"] = settings
    write_whole(output_dir / RUN_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _changed(before: dict, now: dict) -> set[str]:
    old, new = _flat(before), _flat(now)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _differences(before: dict, now: dict, names: set[str]) -> str:
    """The first few of the settings that differ, `name old (now new)`."""
    if not before:
        return "unknown settings"
    old, new = _flat(before), _flat(now)
    shown = [f"{name} {old.get(name)} (now {new.get(name)})" for name in sorted(names)[:4]]
    return ", ".join(shown) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
