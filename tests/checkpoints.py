"""What tests of converted checkpoints share."""

import torch

from convert_checkpoint import main
from models.convert import thudm

END = ["--config", '{"eos_token_id": 63}']  # of the Transformer-XL of the fixtures


def assert_equal(actual, expected):
    """Two state dicts, bit for bit."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name


def read(folder, rank=0):
    """The state dict of a Transformer-XL as its authors publish it."""
    return torch.load(folder / thudm.SHARD.format(rank), weights_only=True)["module"]


def there_and_back(folder, tmp_path, *options):
    """A published Transformer-XL: our folder of it, and the state dict made of that."""
    main([str(folder), str(tmp_path / "ours"), *options])
    main(["--reverse", str(tmp_path / "ours"), str(tmp_path / "theirs")])
    return tmp_path / "ours", read(tmp_path / "theirs")
