"""Output that appears whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from common.files import give_usual_rights

from .engine import CheckpointError


def apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, contiguous and none on the memory of another, as safetensors wants them; empties `tensors`."""
    result, end = {}, 0
    for name in sorted(tensors, key=lambda name: tensors[name].data_ptr()):
        tensor = tensors.pop(name).contiguous()
        first = tensor.data_ptr()
        result[name] = tensor.clone() if first < end else tensor
        end = max(end, first + tensor.nbytes)
    return result


@contextmanager
def new_output(output: Path) -> Iterator[Path]:
    """A path to make a file or folder at; it becomes output when the block ends, and vanishes if that raises.

    Raises CheckpointError when output exists.
    """
    if os.path.lexists(output):
        raise CheckpointError(f"output {output} must not exist yet; remove it or choose another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        target = Path(scratch) / output.name
        yield target
        give_usual_rights(target.rglob("*.safetensors"))
        os.replace(target, output)
