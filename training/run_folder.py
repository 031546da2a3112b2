"""Start and end of a run: which checkpoint of which folder it goes on from, and what makes way for it.

A folder is a run when it holds run.json, which says what decides the run's course. The same settings resume, other
settings or other contents are refused unless --overwrite_output_dir is given, and then nothing is ever deleted:
what stands in the way is moved to a folder beside.
"""

import hashlib
import json
import logging
import secrets
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import broadcast_object_list

from common.errors import ArgumentError, UserError
from common.script import PREEMPTED, end_with
from training.arguments import course_settings
from training.files import PARTIAL, read_json
from training.folder_lock import LOCK, locked
from training.loop.checkpoints import all_checkpoints, named_checkpoint, newest_checkpoint, remove_partial, step_of
from training.loop.logs import read_log
from training.run_file import (
    MODEL,
    RUN_FILE,
    WEIGHTS,
    differences,
    has_ended,
    hindering_settings,
    read_settings,
    same_rows,
    with_eval_masks,
    write_end,
    write_settings,
)
from training.samples.report import SAMPLES
from training.sharing.model_folder import CARD, command_line, write_card

logger = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"
# What a run writes into its folder, apart from TensorBoard's files; globs.
_OWNED = (RUN_FILE, LOG_FILE, SAMPLES, "checkpoint-*", "training_args.bin", CARD, *MODEL)
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
    args.seed = first_decides(args, lambda: _begun_with(args).get("seed", secrets.randbelow(1_000_000)))
    logger.info("seed %d, drawn", args.seed)


def settle_row_order(args) -> None:
    """Let a run that was begun when epochs had another order, or rows were made otherwise, go on with that."""
    begun = first_decides(args, lambda: _begun_with(args)) if args.do_train else {}
    if begun:
        args.row_order = begun.get("row_order", "sorted")
        args.rows_by_chunk = begun.get("rows_by_chunk", False)
    if args.row_order == "sorted":
        logger.info("rows come in the order of sorted draws, with which this run was begun")


def _begun_with(args) -> dict:
    """The arguments in the settings of the run that would be gone on with; {} of a new one."""
    wanted = args.resume_from_checkpoint or "auto"
    if wanted == "none":
        return {}
    folder = Path(args.output_dir if wanted == "auto" else wanted).resolve()
    try:
        return (read_settings(folder if wanted == "auto" else folder.parent) or {}).get("arguments", {})
    except ArgumentError:  # a damaged file, which is told where the folder is prepared, if it does not make way
        return {}


def run_settings(args, data_args, manifest: dict, config, sources: dict) -> dict:
    """All that decides which weights a run ends with, and what evaluates it: a run is resumed only with equal settings
    (but for the masks of the evaluation).

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


def run_to_end(trainer, settings: dict, save: Callable[[str], None], data: str) -> dict[str, float]:
    """Train in args.output_dir, which is locked meanwhile, from where it stands; save(folder) writes the model there.

    settings: nested JSON values; two runs with equal ones end with equal weights. data: of the model card, what it was
    trained on, in words.

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
            if args.push_to_hub:
                trainer.push_to_hub()
            return start.finished
        trainer.train(start.checkpoint)
        if trainer.stop.reason in ("SIGTERM", "SIGUSR1"):
            end_with(PREEMPTED)
        if not trainer.stop.signalled:
            save(args.output_dir)
            if args.process_index == 0:
                _write_cards(Path(args.output_dir), settings, data, _last_numbers(trainer.state))
            if args.process_index == 0 and trainer.state.global_step >= args.max_steps:
                write_end(Path(args.output_dir), trainer.state.global_step)
            if args.push_to_hub:
                trainer.push_to_hub()
    return _last_numbers(trainer.state)


def _last_numbers(state) -> dict[str, float]:
    """Of the last evaluation of a run."""
    return next((logs for logs in reversed(state.log_history) if "eval_loss" in logs), {})


def _write_cards(output_dir: Path, settings: dict, data: str, scores: dict[str, float]) -> None:
    """A card for each model of the run; run.json has the command."""
    command = command_line(read_json(output_dir / RUN_FILE)["command"])
    for folder in (output_dir, output_dir / "discriminator", output_dir / "generator"):
        if (folder / "config.json").is_file():
            write_card(folder, data, command, scores, settings.get("model_name_or_path"))


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
        before = read_settings(output_dir)
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
    elif not (changed := hindering_settings(before := with_eval_masks(before, settings), settings)):
        start = _find_start(output_dir, args)
    elif not args.overwrite_output_dir:
        raise ArgumentError(
            f"--output_dir {output_dir} must hold a run with the same settings, got one with "
            f"{differences(before, settings, changed)}; {same_rows(before, changed)}"
            f"name another one, or add --overwrite_output_dir to move it aside"
        )
    else:
        move_aside(_owned(output_dir), output_dir)
    if start.finished is not None:
        logger.info("the run in %s is finished; --resume_from_checkpoint none starts it over", output_dir)
        return start
    write_settings(output_dir, settings, args.world_size)
    logger.info("starting %s in %s", f"from {start.checkpoint}" if start.checkpoint else "at step 0", output_dir)
    return start


def _find_start(output_dir: Path, args) -> Start:
    """Of a run with the same settings: its end, its newest usable checkpoint, or step 0 if it got to none."""
    way_out = "name another --output_dir, or start over with --resume_from_checkpoint none, which moves the run aside"
    checkpoint = newest_checkpoint(output_dir, args, way_out)
    if has_ended(output_dir) and (checkpoint is None or step_of(checkpoint) >= args.max_steps):
        return Start(checkpoint, _last_evaluation(output_dir / LOG_FILE))
    if checkpoint is None and (weights := [path for pattern in WEIGHTS for path in output_dir.glob(pattern)]):
        raise ArgumentError(
            f"--output_dir {output_dir} must hold a checkpoint to go on from, got none with {weights[0].name}; "
            f"{way_out}"
        )
    if checkpoint is not None:  # what lies beyond is damaged, and would count among those that are kept
        with suppress(OSError):  # no room beside the folder: the run writes over them when it gets there
            beyond = [path for path in all_checkpoints(output_dir) if step_of(path) > step_of(checkpoint)]
            move_aside(beyond, output_dir)
    return Start(checkpoint)


def _make_way_for(checkpoint: Path, output_dir: Path, args, settings: dict) -> None:
    """Before going on from a named checkpoint: its settings must fit, and newer ones belong to another future."""
    before = read_settings(checkpoint.parent)
    before = before and with_eval_masks(before, settings)
    if before and (changed := hindering_settings(before, settings, _MAY_CHANGE)):
        raise ArgumentError(
            f"--resume_from_checkpoint {checkpoint} must be of a run with the same settings, got one with "
            f"{differences(before, settings, changed)}; train on from its weights with --model_name_or_path instead"
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


def _last_evaluation(log: Path) -> dict[str, float]:
    record = next((record for record in reversed(read_log(log)) if "eval_loss" in record), {})
    return {name: value for name, value in record.items() if name != "max_steps"}
