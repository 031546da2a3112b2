"""Where a process waits for its CUDA device, and the steps of a script watched for it.

    python benchmarks/gpu/waits.py run_mlm_wwm --do_train ...    the script, and at last a line of where it waited:
                                                                 in steps, and in its evaluations of so many batches

Of transformers' own waits one kind is known and cannot be avoided from here: whether a mask is all ones, asked once a
forward of BERT and RoBERTa and twice of ELECTRA.
"""

import importlib
import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from transformers import TrainerCallback  # noqa: E402

from training.loop.trainer import Trainer  # noqa: E402

MARK = "waits for the device: "
FIRST, LAST = 5, 8  # steps that are watched: loaders and allocators have settled
KNOWN = "transformers/masking_utils.py"


class WaitsSeen:
    """Context manager; places: file:line -> how often the host waited for the device there, on CUDA."""

    def __init__(self):
        self.places = Counter()

    def __enter__(self):
        if torch.cuda.is_available():
            self._caught = warnings.catch_warnings()
            self._caught.__enter__()
            warnings.simplefilter("always")
            warnings.showwarning = self._note
            torch.set_warn_always(True)
            torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *error):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
            torch.set_warn_always(False)
            self._caught.__exit__(*error)

    def _note(self, message, category, filename, lineno, file=None, line=None):
        if "called a synchronizing" in str(message):  # and not what the mode says of itself
            self.places[f"{'/'.join(Path(filename).parts[-2:])}:{lineno}"] += 1


def unknown(places: dict[str, int]) -> int:
    """How many waits are not transformers' question about masks."""
    return sum(count for place, count in places.items() if not place.startswith(KNOWN))


class _Watch(TrainerCallback):
    """evaluation: the waits of all evaluations; batches: that the model was given in them."""

    def __init__(self):
        self.steps, self.evaluation, self.batches = WaitsSeen(), WaitsSeen(), 0

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == FIRST - 1:
            self.steps.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == LAST:
            self.steps.__exit__()

    def _count(self, *arguments):
        self.batches += 1

    def evaluate(self, evaluate, trainer, *arguments, **options):
        counting = trainer.model.register_forward_pre_hook(self._count)
        with self.evaluation:
            numbers = evaluate(trainer, *arguments, **options)
        counting.remove()
        return numbers


def main(words: list[str]) -> None:
    """Run the script named first with the other words, as if it had been called itself."""
    watch, train, evaluate = _Watch(), Trainer.train, Trainer.evaluate

    def watched(trainer, *arguments, **options):
        trainer.add_callback(watch)
        return train(trainer, *arguments, **options)

    with (
        patch.object(Trainer, "train", watched),
        patch.object(Trainer, "evaluate", lambda *words, **options: watch.evaluate(evaluate, *words, **options)),
    ):
        importlib.import_module(words[0]).main(words[1:])
    places = {"steps": watch.steps.places, "evaluation": watch.evaluation.places, "batches": watch.batches}
    print(MARK + json.dumps(places))


if __name__ == "__main__":
    main(sys.argv[1:])
