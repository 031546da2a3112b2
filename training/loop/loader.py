"""The one DataLoader of training and evaluation: its workers leave signals to their parent, and its order is ours."""

import torch
from torch.utils.data import DataLoader

from training.loop.stopping import obey_parent_only
from training.process import keep_freed_memory


def make_loader(dataset, batches, collator, args, workers: int = 0) -> DataLoader:
    """Loader of the dataset's rows that the sampler names; args: dataloader_prefetch_factor and its like."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collator,
        num_workers=workers,
        prefetch_factor=args.dataloader_prefetch_factor if workers else None,
        pin_memory=args.dataloader_pin_memory,
        multiprocessing_context=args.dataloader_multiprocessing_context if workers else None,
        worker_init_fn=_set_up_worker,
        generator=torch.Generator(),  # its own, so that making an iterator leaves the model's random numbers alone
    )


def _set_up_worker(number: int) -> None:
    """Workers allocate the same few arrays for each batch, and outlive a SIGTERM to the process group."""
    keep_freed_memory()
    obey_parent_only()
