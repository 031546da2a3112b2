"""Start and end of a run: logging, memory settings, which checkpoint of which folder it goes on from, leaving.

A folder is a run when it holds run.json, which says what decides the run's course. The same settings resume, other
settings or other contents are refused unless --overwrite_output_dir is given, and then nothing is ever deleted:
what stands in the way is moved to a folder beside.
"""

import hashlib
import json
import logging
import platform
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from accelerate.utils import broadcast_object_list

from common.errors import ArgumentError, UserError
from common.secrecy import shown_command
from training.arguments import course_settings
from training.files import PARTIAL, read_json, to_disk, write_whole
from training.folder_lock import LOCK, locked
from training.loop.checkpoints import all_checkpoints, named_checkpoint, newest_checkpoint, remove_partial, step_of
from training.loop.logs import read_log

logger = logging.getLogger(__name__)

RUN_FILE, LOG_FILE = "run.json", "log.jsonl"
# What a run writes into its folder, apart from TensorBoard's files; globs.
_WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin", "generator", "discriminator")
_MODEL = (*_WEIGHTS, "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_OWNED = (RUN_FILE, LOG_FILE, "checkpoint-*", "training_args.bin", *_MODEL)
# What a named checkpoint may go on with, because the schedule is made anew: everything else lies in the checkpoint.
_SCHEDULE = ("max_steps", "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "schedule", "schedule_floor")
_MAY_CHANGE = {f"arguments.{name}" for name in _SCHEDULE}


def first_decides(args, decide: Callable):
    """What decide() returns on the first process, on all of them; an expected error too is raised on all."""
    answer = [None, None]
    if args.process_index == 0:
        try:
            answer[0] = decide()
        except (UserError, OSError) as error:
            answer[1] = error
    if args.world_size > 1:
        broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def settle_seed(args) -> None:
    """Draw the seed of a run that was given 0, and log it; a run that goes on keeps the one it drew."""
    if args.seed:
        return

    def draw() -> int:
        wanted = args.resume_from_checkpoint or "auto"
        folder = Path(args.output_dir if wanted in ("auto", "none") else wanted).resolve()
        before = _read_settings(folder if wanted == "auto" else folder.parent) if wanted != "none" else None
        return (before or {}).get("arguments", {}).get("seed", secrets.randbelow(1_000_000))

    args.seed = first_decides(args, draw)
    logger.info("seed %d, drawn", args.seed)


def run_settings(args, data_args, manifest: dict, config, sources: dict) -> dict:
    """All that decides which weights a run ends with: a run is resumed only with equal settings.

    data_args: dataclass; manifest: of the corpus, which stands for its folder, file and column; config: the model's;
    sources: more.
    """
    data = {name: value for name, value in vars(data_args).items() if not name.endswith(("_dir", "_file", "_column"))}
    data["train_dir"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    model = {k: v for k, v in config.to_diff_dict().items() if k not in ("transformers_version", "_name_or_path")}
    return {"arguments": course_settings(args), "data": data, "model": model, **sources}


@dataclass
class Start:
    """Where a run begins: a checkpoint, None for step 0, or at its end, with the numbers of its last evaluation."""

    checkpoint: Path | None
    finished: dict[str, float] | None = None


def run_to_end(trainer, settings: dict, save: Callable[[str], None]) -> dict[str, float]:
    """Train in args.output_dir, which is locked meanwhile, from where it stands; save(folder) writes the model there.

    settings: nested JSON values; two runs with equal ones end with equal weights.

    Returns:
        The numbers of the last evaluation, {} if there was none.

    Raises:
        ArgumentError: the folder is in use by something else, or holds what this run cannot go on from.
    """
    args = trainer.args
    settings = json.loads(json.dumps(settings, default=str))
    with ExitStack() as held:
        start = first_decides(args, lambda: _prepare(args, settings, held))
        if start.finished is not None:
            return start.finished
        trainer.train(start.checkpoint)
        if not trainer.stop.signalled:
            save(args.output_dir)
            if args.process_index == 0 and trainer.state.global_step >= args.max_steps:
                _write_end(Path(args.output_dir), trainer.state.global_step)
    return next((logs for logs in reversed(trainer.state.log_history) if "eval_loss" in logs), {})


def _prepare(args, settings: dict, held: ExitStack) -> Start:
    """Make output_dir ready for a run with these settings, lock it, and find where the run starts."""
    output_dir = Path(args.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ArgumentError(f"--output_dir {output_dir} must be a folder, got a file; name another one")
    output_dir.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(output_dir, "--output_dir"))
    wanted = args.resume_from_checkpoint or "auto"
    start = Start(None)
    try:
        before = _read_settings(output_dir)
    except ArgumentError:
        if wanted != "none" and not args.overwrite_output_dir:
            raise
        before = {}  # to be moved aside with all else
    if before is not None:
        remove_partial(output_dir)
    if wanted not in ("auto", "none"):
        start.checkpoint = named_checkpoint(wanted, args)
        _make_way_for(start.checkpoint, output_dir, args, settings)
    elif before is None:
        if others := _others(output_dir):
            if not args.overwrite_output_dir:
                raise ArgumentError(
                    f"--output_dir {output_dir} must be empty or a run of this script, got a folder with "
                    f"{others[0]!r}; name another one or add --overwrite_output_dir"
                )
            move_aside(_owned(output_dir), output_dir)
    elif wanted == "none":
        move_aside(_owned(output_dir), output_dir)
    elif before == settings:
        start = _find_start(output_dir, args)
    elif not args.overwrite_output_dir:
        changed = _changed(before, settings)
        raise ArgumentError(
            f"--output_dir {output_dir} must hold a run with the same settings, got one with "
            f"{_differences(before, settings, changed)}; {_same_rows(before, changed)}"
            f"name another one, or add --overwrite_output_dir to move it aside"
        )
    else:
        move_aside(_owned(output_dir), output_dir)
    if start.finished is not None:
        logger.info("the run in %s is finished; --resume_from_checkpoint none starts it over", output_dir)
        return start
    _write_settings(output_dir, settings, args.world_size)
    logger.info("starting %s in %s", f"from {start.checkpoint}" if start.checkpoint else "at step 0", output_dir)
    return start


def _find_start(output_dir: Path, args) -> Start:
    """Of a run with the same settings: its end, its newest usable checkpoint, or step 0 if it got to none."""
    way_out = "name another --output_dir, or start over with --resume_from_checkpoint none, which moves the run aside"
    checkpoint = newest_checkpoint(output_dir, args, way_out)
    if _has_ended(output_dir) and (checkpoint is None or step_of(checkpoint) >= args.max_steps):
        return Start(checkpoint, _last_evaluation(output_dir / LOG_FILE))
    if checkpoint is None and (made := [path for pattern in _WEIGHTS for path in output_dir.glob(pattern)]):
        raise ArgumentError(
            f"--output_dir {output_dir} must hold a checkpoint to go on from, got none with {made[0].name}; {way_out}"
        )
    if checkpoint is not None:  # what lies beyond is damaged, and would count among those that are kept
        with suppress(OSError):  # no room beside the folder: the run writes over them when it gets there
            beyond = [path for path in all_checkpoints(output_dir) if step_of(path) > step_of(checkpoint)]
            move_aside(beyond, output_dir)
    return Start(checkpoint)


def _same_rows(before: dict, changed: set[str]) -> str:
    """How a run that was begun with other processes keeps its course."""
    if "arguments.rows_per_step" not in changed or not before:
        return ""
    rows = before.get("arguments", {}).get("rows_per_step")
    return (
        f"let --per_device_train_batch_size x --gradient_accumulation_steps x processes stay {rows} to go on with "
        f"another number of processes, "
    )


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
    elif _others(output_dir) and not args.overwrite_output_dir:
        raise ArgumentError(
            f"--output_dir {output_dir} must be empty to go on from a checkpoint elsewhere, got a used folder; "
            f"name another one or add --overwrite_output_dir"
        )
    else:
        move_aside(_owned(output_dir), output_dir)


def _others(output_dir: Path) -> list[str]:
    """Names in a folder, but for the lock and what was half-written."""
    return sorted(p.name for p in output_dir.iterdir() if p.name != LOCK and not p.name.startswith(PARTIAL))


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
    """What run.json says; {} of somebody else's run, whose settings equal none; None where there is no run."""
    path = output_dir / RUN_FILE
    if not path.is_file():
        return {} if all_checkpoints(output_dir) else None
    try:
        settings = read_json(path, "settings")["settings"]
        if isinstance(settings, dict) and isinstance(settings.get("arguments", {}), dict):
            return settings
        reason = "settings are no JSON object"
    except (OSError, ValueError) as error:
        reason = error
    raise ArgumentError(
        f"{path} must say with which settings this run was begun, got a damaged file ({reason}); put back a copy, "
        f"or start over with --resume_from_checkpoint none, which moves the run aside"
    )


def _write_settings(output_dir: Path, settings: dict, processes: int) -> None:
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    record = {"command": shown_command(sys.argv), "started": started, "processes": processes, "versions": versions}
    record["settings"] = settings
    _write_record(output_dir, record)


def _write_record(output_dir: Path, record: dict) -> None:
    write_whole(output_dir / RUN_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _write_end(output_dir: Path, step: int) -> None:
    """Note in run.json that the run has ended, and the files of its model, which are on disk by then."""
    files = [path for path in _model_files(output_dir) if path.is_file()]
    for path in files:
        to_disk(path)
    sizes = {str(path.relative_to(output_dir)): path.stat().st_size for path in files}
    end = {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "step": step, "files": sizes}
    _write_record(output_dir, read_json(output_dir / RUN_FILE) | {"finished": end})


def _model_files(output_dir: Path) -> list[Path]:
    found = {path for pattern in _MODEL for path in output_dir.glob(pattern)}
    return sorted(found | {file for path in found if path.is_dir() for file in path.rglob("*")})


def _has_ended(output_dir: Path) -> bool:
    """Whether run.json says so, and all files of the model are there."""
    try:
        files = read_json(output_dir / RUN_FILE, "finished")["finished"]["files"]
        return bool(files) and all((output_dir / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _last_evaluation(log: Path) -> dict[str, float]:
    records = read_log(log)
    found = next((record for record in reversed(records) if "eval_loss" in record), {})
    return {name: value for name, value in found.items() if name != "max_steps"}


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
