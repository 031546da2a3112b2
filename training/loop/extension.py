"""What one script adds to the loop: where transformers' callbacks end, these begin."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from transformers import TrainerCallback

from training.run_folder import LOG_FILE


class Extension(TrainerCallback):
    """A callback of transformers with a few calls more; this one adds nothing.

    Attributes:
        log_file: name of the log in output_dir.
        rate_factors: what the learning rate of parameters is multiplied with, by their names; 1 for all others.
        kept_steps: after these steps a checkpoint is written and kept for good.
        keeps_best: whether it writes the best weights itself, so that no checkpoint has to be kept for them.
        models: the folders of models below output_dir, by what is added to their names on a hub.
    """

    log_file: str = LOG_FILE
    rate_factors: Mapping[str, float] = MappingProxyType({})
    kept_steps: Collection[int] = ()
    keeps_best: bool = False
    models: Mapping[str, str] = MappingProxyType({"": ""})

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step in self.kept_steps

    def after_backward(self, trainer, model: torch.nn.Module, inputs: dict, counts: dict) -> None:
        """After the backward of each micro-batch; trainer.backward adds to the gradients before they are clipped."""

    def after_evaluation(self, trainer, is_best: bool) -> None:
        """After an evaluation in training, where there is a metric that says whether it is the best so far."""

    def add_to_checkpoint(self, trainer, folder: Path) -> None:
        """On all processes: the one with args.should_save may write more into a checkpoint before it appears."""
