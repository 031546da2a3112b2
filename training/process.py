"""How a process of a run is set up: its log, kernels, and what memory and denormal numbers cost on a CPU."""

import ctypes
import logging
import sys

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils.logging import disable_progress_bar

from training.loop.stopping import obey_parent_only

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def spreads_weights(args) -> bool:
    """Whether a model's weights are spread over the processes, by FSDP or DeepSpeed's ZeRO stage 3."""
    return bool(args.fsdp) or is_deepspeed_zero3_enabled()


def set_up_process(args) -> None:
    """Log lines to the console (warnings only, on all processes but the first); sound kernels; a CPU's settings."""
    level = logging.INFO if args.process_index == 0 else logging.WARNING
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=level, stream=sys.stderr)
    logging.getLogger("training").setLevel(level)
    disable_progress_bar()
    avoid_broken_kernels()
    if args.device.type == "cpu":
        tune_cpu()


def set_up_worker(index: int) -> None:
    """For a DataLoader: it allocates the same few arrays for each batch, and outlives SIGTERM to the process group."""
    keep_freed_memory()
    obey_parent_only()


def tune_cpu() -> None:
    """Settings that every computation on a CPU gains from; call it before the first tensor is made.

    Denormal numbers, which gradients through a squared ReLU are full of, multiply many times slower than others and
    are flushed to zero. Threads that start later inherit that.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)


def avoid_broken_kernels() -> None:
    """Leave attention to torch's kernels and FlashAttention's.

    The backward of cuDNN's, from torch 2.11 on, gives NaN on Hopper cards where there is a mask, the length leaves a
    remainder of 64 by 128 and a row's logsumexp is below -88.7 (pytorch issue 196678). Rows are padded to multiples of
    8 here, so that such lengths occur.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def keep_freed_memory() -> bool:
    """Tell glibc to keep the pages of freed tensors for the next step; False where the C library is another.

    By default each large tensor is unmapped when freed and faulted in again, a quarter of a CPU step's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # No size gets a mapping of its own: M_MMAP_THRESHOLD stops at 32 MiB in some versions, activations are larger.
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)])
