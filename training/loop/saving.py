"""What a checkpoint holds beside transformers' own files, and in which order all of it is written and read."""

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, set_seed
from transformers.trainer_pt_utils import safe_globals

from common.errors import ArgumentError
from common.files import give_usual_rights
from training.files import PARTIAL, read_json
from training.loop.checkpoints import (
    COMPLETE,
    PROGRESS,
    STATE,
    process_of,
    publish,
    random_state_name,
    random_states,
    rotate,
)
from training.loop.finiteness import state_tensors
from training.process import spreads_weights
from training.sharing.adapters import has_adapters, save_model
from training.sharing.model_folder import save_tokenizer

logger = logging.getLogger(__name__)


def write_model(trainer, save: Callable, folder: str | None, in_checkpoint: bool) -> None:
    """What Trainer.save_model leaves: the files of `save`, transformers' own, or a model with its adapters merged.

    In a checkpoint adapters stay apart. Beside it stand the tokenizer's files, and all have the rights of new files.
    """
    args, tokenizer, path = trainer.args, trainer.processing_class, Path(folder or trainer.args.output_dir)
    if in_checkpoint or not has_adapters(trainer.model):
        save(folder)
    elif args.should_save:
        save_model(trainer.model, path)
    if args.should_save:
        if tokenizer is not None:
            save_tokenizer(tokenizer, path)
        give_usual_rights([*path.glob("*.safetensors"), *path.glob("adapter/*")])


def whole_weights(trainer) -> dict[str, torch.Tensor] | None:
    """The state dict of a model that is spread over the processes, which all call this; None of one that is not."""
    return trainer.accelerator.get_state_dict(trainer.model_wrapped) if spreads_weights(trainer.args) else None


def write_checkpoint(trainer, limit: int | None) -> None:
    """The state of a Trainer as checkpoint-N, whole or not at all; of older ones `limit` are kept (None: all)."""
    args, state, extension = trainer.args, trainer.state, trainer.extension
    checkpoint = Path(args.output_dir) / f"{COMPLETE}{state.global_step}"
    if state.best_global_step == state.global_step and not extension.keeps_best:
        state.best_model_checkpoint = str(checkpoint)
    progress = trainer.progress.record(state.global_step, trainer.stop.seconds)
    with _in_the_making(checkpoint, trainer.accelerator, args.should_save) as partial:
        memory = trainer.objective.state() if args.model_part == 0 else {}
        trainer.guard.check(weights=True, state=[*state_tensors(trainer.optimizer), *memory.values()])
        trainer.save_model(str(partial), _internal_call=True)
        trainer._save_optimizer_and_scheduler(str(partial))
        trainer._save_scaler(str(partial))
        with trainer.peers.delivery(partial) as folder:
            trainer._save_rng_state(str(folder))
            if memory:
                save_file(memory, folder / f"memory_{args.data_process}.safetensors")
        if args.should_save:
            state.save_to_json(str(partial / STATE))
            (partial / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
        extension.add_to_checkpoint(trainer, partial)
    if args.should_save:
        best, step = state.best_model_checkpoint, state.global_step
        rotate(Path(args.output_dir), limit, best, extension.kept_steps, newest=step)
    trainer.accelerator.wait_for_everyone()


@contextmanager
def _in_the_making(checkpoint: Path, accelerator, saves: bool) -> Iterator[Path]:
    """A folder for all processes to write a checkpoint into, which has its name when it is whole.

    saves: whether this process is the one that publishes it.
    """
    if saves and not checkpoint.parent.is_dir():  # to make a new one would hide that all else is gone
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(checkpoint.parent))
    partial = checkpoint.with_name(f"{PARTIAL}{checkpoint.name}")
    if saves:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    yield partial
    accelerator.wait_for_everyone()
    if saves:
        publish(partial, checkpoint)


def take_up(trainer, checkpoint: Path) -> None:
    """Let a Trainer go on from what a checkpoint says beside transformers' own files."""
    record = read_json(checkpoint / PROGRESS)
    trainer.progress.restore(record)
    trainer.stop.seconds_before = record["seconds"]
    # The memories of all processes, whose rows may be dealt out anew.
    memories = [load_file(file) for file in sorted(checkpoint.glob("memory_*.safetensors"), key=process_of)]
    trainer.objective.restore(*memories, device=trainer.args.device)
    trainer.args.eval_on_start = False  # the log has that record


class Start(TrainerCallback):
    """Settles what a resumed state says of another call or folder, and starts the clock of a Trainer's progress."""

    def __init__(self, trainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)  # this call's intervals, not those of the checkpoint
        best = Path(args.output_dir, f"{COMPLETE}{state.best_global_step}")
        if best.is_dir() and not self._trainer.extension.keeps_best:
            state.best_model_checkpoint = str(best)  # wherever the folder has been moved to
        if args.model_parallel_size > 1:  # DeepSpeed's check that a group has the same rows knows no tuple of tensors
            self._trainer.deepspeed.first_dataloader_check.remove()
        self._trainer.progress.start_clock()


@contextmanager
def own_random_state(checkpoint: Path, args, step: int) -> Iterator[str | None]:
    """A folder in which transformers finds the random state of this process; None where it had none.

    Of as many processes it is the checkpoint. Otherwise a process takes up the state of its number, and the random
    numbers of one that had none are a function of seed, step and process.
    """
    saved, number = random_states(checkpoint), args.process_index
    names = [random_state_name(number, args.world_size) for number in range(args.world_size)]
    if [file.name for file in saved] == names:
        yield str(checkpoint)
        return
    set_seed(int(np.random.SeedSequence([args.seed, step, number]).generate_state(1)[0]))
    logger.info("going on with %d processes instead of %d", args.world_size, len(saved))
    with tempfile.TemporaryDirectory() as folder:
        own = [file for file in saved if process_of(file) == number]
        for file in own:
            copy_random_state(file, Path(folder) / names[number], alone=args.world_size == 1)
        yield folder if own else None


def copy_random_state(file: Path, copy: Path, alone: bool) -> None:
    """Write a random state as transformers reads it where a process is alone, or one of several.

    Of the devices it holds the state of the one that a single process uses, else those of all.
    """
    with safe_globals():
        state = torch.load(file, weights_only=True)
    for name in state.keys() - {"python", "numpy", "cpu"}:
        states = state[name] if isinstance(state[name], list) else [state[name]]
        state[name] = states[0] if alone else states
    torch.save(state, copy)


def check_loaded(model: torch.nn.Module, load_result) -> None:
    """A checkpoint that does not fit the model is an error: transformers would train on with random weights."""
    missing = set(load_result.missing_keys) - set(model.all_tied_weights_keys)
    if missing or load_result.unexpected_keys:
        raise ArgumentError(
            f"--resume_from_checkpoint must name a checkpoint of this model, got one with missing tensors "
            f"{sorted(missing)[:3]} and unexpected ones {load_result.unexpected_keys[:3]}; start over with none"
        )
