"""What every writer of model files needs."""

import os
from collections.abc import Iterable
from pathlib import Path


def give_usual_rights(paths: Iterable[Path]) -> None:
    """Give files the rights that new files have in this process; safetensors lets nobody but the owner read its."""
    umask = os.umask(0)
    os.umask(umask)
    for path in paths:
        if path.is_file():
            path.chmod(0o666 & ~umask)
