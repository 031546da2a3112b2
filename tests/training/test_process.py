"""Settings of a process: memory that is freed stays its own, denormals are flushed."""

import torch

from training.process import keep_freed_memory, tune_cpu


def test_freed_memory_is_kept_where_glibc_is():
    assert keep_freed_memory() in (True, False)


def test_a_cpu_run_flushes_denormals():
    try:
        tune_cpu()
        assert (torch.tensor([1e-30]) * torch.tensor([1e-10])).item() == 0
    finally:
        torch.set_flush_denormal(False)
