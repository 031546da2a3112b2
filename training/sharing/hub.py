"""Finished folders to a model hub (--push_to_hub), by huggingface_hub's client.

A repository is made before anything is trained, so that a hub that cannot be reached, a name or a token that it does
not take are told then. A folder goes up as one commit when all of it is on the disk: checkpoints and what is
half-written stay here.
"""

import logging
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.errors import ArgumentError, library_errors
from training.files import PARTIAL
from training.folder_lock import LOCK

logger = logging.getLogger(__name__)

_STAYS = ("checkpoint-*", f"{PARTIAL}*", LOCK, "training_args.bin")  # globs of what a folder holds beside its model


def make_repositories(args, models: Mapping[str, Hashable]) -> dict[Hashable, str]:
    """The repository of each model, with its owner: made where it is not there.

    models: by what is added to --hub_model_id (default: the name of output_dir). args: --hub_token and
    --hub_private_repo, too. ArgumentError where the hub does not answer or refuses.
    """
    from huggingface_hub import HfApi

    name = args.hub_model_id or Path(args.output_dir).absolute().name
    with _hub_errors(name, "log in with hf auth login or correct it, or leave it out and push the finished folder"):
        options = {"token": args.hub_token, "private": args.hub_private_repo, "exist_ok": True}
        return {model: HfApi().create_repo(name + end, **options).repo_id for end, model in models.items()}


def push_folders(repositories: Mapping[Path, str], args) -> None:
    """Commit what each folder holds, but for checkpoints, to a branch (--hub_revision) of its repository.

    ArgumentError where the hub does not answer or refuses: nothing of that folder is there then.
    """
    from huggingface_hub import HfApi

    options = {"commit_message": "End of training", "token": args.hub_token, "revision": args.hub_revision}
    for folder, repository in repositories.items():
        with _hub_errors(repository, f"{folder} is whole here, and the same command pushes it again"):
            commit = HfApi().upload_folder(
                repo_id=repository, folder_path=folder, ignore_patterns=list(_STAYS), **options
            )
        logger.info("pushed %s: %s", folder, commit.commit_url)


@contextmanager
def _hub_errors(repository: str, advice: str) -> Iterator[None]:
    with library_errors(ArgumentError, f"--push_to_hub: the hub does not answer, or take {repository}", advice):
        yield
