"""What transformers' Trainer does with finished folders: whole weights in them, and the way to a hub.

Our Trainer (training/loop/trainer.py) stands on this; what it has besides is the loop.
"""

from pathlib import Path

import transformers

from training.run_folder import first_decides
from training.sharing.hub import make_repositories, push_folders


class FolderTrainer(transformers.Trainer):
    """A Trainer with an `extension`, whose models are the folders that are written and uploaded."""

    def init_hf_repo(self, token=None, private=None):
        """As transformers', which calls it before training; a repository for each model, an error on all processes."""
        folders = {end: Path(self.args.output_dir, folder) for end, folder in self.extension.models.items()}
        self.repositories = first_decides(self.args, lambda: make_repositories(self.args, folders))

    def push_to_hub(self) -> None:
        """Upload the models of output_dir as they lie there."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        first_decides(self.args, lambda: push_folders(self.repositories, self.args))

    def _save(self, output_dir=None, state_dict=None):
        """As transformers', with each tied weight once, where FSDP has put together a tensor for each of its names."""
        if state_dict is not None:
            tied = self.model.all_tied_weights_keys
            state_dict = {name: tensor for name, tensor in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict)

    def save_model(self, output_dir=None, _internal_call=False):
        """As transformers', which would push the folder as well: it is pushed when its card is there, too."""
        super().save_model(output_dir, _internal_call=True)
