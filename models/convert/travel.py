"""The code of our models that travels with a saved folder, brought to today's."""

import json
import os
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from .engine import CheckpointError

OURS = Path(__file__).resolve().parents[1]


def refresh_code(folder: Path) -> int:
    """Replace the code in a folder that a model of ours saved, and nothing else; returns the number of files.

    Each file is written whole; after a crash another call goes on. Raises CheckpointError for any other folder.
    """
    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8"))["auto_map"]["AutoConfig"]
        main = OURS / f"{named.split('.')[0]}.py"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"input {folder} must have a config.json that save_pretrained of a model of ours wrote, got: {error!r}; "
            "choose such a folder"
        ) from error
    saved = [OURS / file.name for file in folder.glob("*.py")]
    if main not in saved or not main.is_file():
        raise CheckpointError(f"input {folder} must hold code of ours, got {named} in its config.json; leave it as is")
    saved = [file for file in saved if file.is_file()]
    files = {Path(name) for file in saved for name in (file, *get_relative_import_files(file))}
    for file in files:
        partial = folder / f".{file.name}.partial"
        shutil.copyfile(file, partial)
        os.replace(partial, folder / file.name)
    return len(files)
