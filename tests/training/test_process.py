"""Settings of a process: memory that is freed stays its own, denormals are flushed."""

from types import SimpleNamespace

import torch

from training.process import keep_freed_memory, set_up_process, tune_cpu


def test_freed_memory_is_kept_where_glibc_is():
    assert keep_freed_memory() in (True, False)


def test_a_cpu_run_flushes_denormals():
    try:
        tune_cpu()
        assert (torch.tensor([1e-30]) * torch.tensor([1e-10])).item() == 0
    finally:
        torch.set_flush_denormal(False)


def test_a_run_leaves_out_cudnn_attention_whose_backward_may_give_nan():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        set_up_process(SimpleNamespace(process_index=0, device=torch.device("meta")))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
