"""What a conversion writes is there whole or not at all, each tensor on memory of its own."""

from itertools import pairwise

import pytest
import torch

from models.convert import CheckpointError
from models.convert.output import apart, new_output


def test_tensors_on_the_memory_of_another_become_copies():
    base = torch.arange(12.0).view(3, 4)
    views = {"whole": base, "tied": base.view(4, 3), "part": base[1:], "turned": base.T, "own": torch.ones(2)}
    separate = apart(dict(views))
    assert all(
        torch.equal(separate[name], tensor) and separate[name].is_contiguous() for name, tensor in views.items()
    )
    ranges = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in separate.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))


def test_an_output_appears_when_all_has_gone_well(tmp_path):
    with new_output(tmp_path / "a" / "out") as folder:
        folder.mkdir()
        (folder / "model.safetensors").touch(0o600)
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "model.safetensors").stat().st_mode & 0o044
    with pytest.raises(OSError, match="disk"), new_output(tmp_path / "b") as folder:
        folder.mkdir()
        raise OSError("disk")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and len(list((tmp_path / "a").iterdir())) == 1
    with pytest.raises(CheckpointError, match="must not exist yet"), new_output(tmp_path / "a"):
        pass
