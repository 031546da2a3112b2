"""Files that are whole or absent whatever kills their writer."""

import os
from pathlib import Path

PARTIAL = "incomplete-"  # how the name of anything half-written begins


def write_whole(path: Path, text: str) -> None:
    """Write a small UTF-8 file under another name in its folder, then rename it; several processes may."""
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)
