"""run.json: with which settings a run was begun, which decide its course, and that it has ended, with which files."""

import json
import logging
import platform
import sys
import time
from collections.abc import Collection
from pathlib import Path

import torch
import transformers

from common.errors import ArgumentError
from common.secrecy import shown_command
from training.files import read_json, to_disk, write_whole
from training.loop.checkpoints import all_checkpoints

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
# The files of a model, as globs.
WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin", "generator", "discriminator", "adapter")
MODEL = (*WEIGHTS, "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def read_settings(output_dir: Path) -> dict | None:
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


def write_settings(output_dir: Path, settings: dict, processes: int) -> None:
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


def write_end(output_dir: Path, step: int) -> None:
    """Note in run.json that the run has ended, and the files of its model, which are on disk by then."""
    files = [path for path in _model_files(output_dir) if path.is_file()]
    for path in files:
        to_disk(path)
    sizes = {str(path.relative_to(output_dir)): path.stat().st_size for path in files}
    end = {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "step": step, "files": sizes}
    _write_record(output_dir, read_json(output_dir / RUN_FILE) | {"finished": end})


def _model_files(output_dir: Path) -> list[Path]:
    paths = {path for pattern in MODEL for path in output_dir.glob(pattern)}
    return sorted(paths | {file for path in paths if path.is_dir() for file in path.rglob("*")})


def has_ended(output_dir: Path) -> bool:
    """Whether run.json says so, and all files of the model are there."""
    try:
        files = read_json(output_dir / RUN_FILE, "finished")["finished"]["files"]
        return bool(files) and all((output_dir / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def with_eval_masks(before: dict, now: dict) -> dict:
    """Settings of a run as they would be written now: evaluation masks were those of the training once."""
    data = before.get("data", {})
    masks = {name: data.get(name.removeprefix("eval_")) for name in now.get("data", {}) if name.startswith("eval_")}
    return before | {"data": masks | data} if data else before


def hindering_settings(before: dict, now: dict, may_change: Collection[str] = ()) -> set[str]:
    """Settings that differ, so that a run cannot go on; other evaluation masks do not hinder it, and are told."""
    changed = changed_settings(before, now).difference(may_change)
    masks = {name for name in changed if name.startswith("data.eval_")}
    if masks and masks == changed:
        logger.warning(
            "evaluation is on other masks from here on, its numbers do not compare with those before: %s",
            differences(before, now, masks),
        )
    return changed - masks


def changed_settings(before: dict, now: dict) -> set[str]:
    """Names of settings that differ; a switch that an older run did not know was off there."""
    old, new = _flat(before), _flat(now)
    names = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    return {name for name in names if name in old or new.get(name) is not False}


def differences(before: dict, now: dict, names: set[str]) -> str:
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


def same_rows(before: dict, changed: set[str]) -> str:
    """How a run that was begun with other processes keeps its course."""
    if "arguments.rows_per_step" not in changed or not before:
        return ""
    rows = before.get("arguments", {}).get("rows_per_step")
    return (
        f"let --per_device_train_batch_size x --gradient_accumulation_steps x processes stay {rows} to go on with "
        f"another number of processes, "
    )
