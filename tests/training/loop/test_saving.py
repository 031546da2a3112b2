"""What a checkpoint lacks of the processes that go on from it is made up for, the same way each time."""

import random
from types import SimpleNamespace

import numpy as np
import torch

from training.loop.trainer import Trainer


def test_lacking_random_numbers_are_a_function_of_seed_step_and_process(tmp_path, monkeypatch):
    drawn = {}
    for step, number in ((3, 1), (3, 2), (4, 1), (3, 1)):
        trainer = object.__new__(Trainer)
        trainer.args = SimpleNamespace(process_index=number, world_size=3, seed=7)
        trainer.state, trainer.peers = SimpleNamespace(global_step=step), SimpleNamespace(clear=lambda: None)
        trainer._load_rng_state(str(tmp_path))
        numbers = (torch.rand(4).tolist(), np.random.rand(4).tolist(), random.random())
        assert drawn.setdefault((step, number), numbers) == numbers
    assert len({repr(numbers) for numbers in drawn.values()}) == 3
