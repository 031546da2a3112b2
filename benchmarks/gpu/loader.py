"""Whether masking and collating keep up with a device: tokens a second of the loader, by its workers."""

import time
from collections.abc import Iterator

from torch.utils.data import DataLoader, Dataset

from benchmarks.collator import MASK, PAD, SPECIAL, VOCAB, make_rows
from benchmarks.gpu.table import Case, Check
from data.batches.masking import MaskCollator, WholeWordMasking

GOAL = 1e6  # tokens a second, twice what the fastest recipe of one card is meant to take


class _Rows(Dataset):
    """The same few rows over and over, each time as another sample."""

    def __init__(self, count: int, length: int, total: int):
        self.rows = [{name: row[name] for name in ("input_ids", "continuation")} for row in make_rows(count, length)]
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> dict:
        return {"epoch": 0, "index": index, **self.rows[index % len(self.rows)]}


def loader(check: Check) -> Iterator[Case]:
    length, rows, limit = check.size(512, 32), check.size(64, 4), check.size(3.0, 0.2)

    def measure(workers):
        collator = MaskCollator(WholeWordMasking(VOCAB, MASK, SPECIAL), PAD, pad_to_multiple_of=8)
        dataset = _Rows(256, length, check.size(100_000, 64) * rows)
        batches = iter(
            DataLoader(dataset, rows, collate_fn=collator, num_workers=workers, pin_memory=check.cuda, shuffle=False)
        )
        next(batches)  # workers have started
        count, start = 0, time.perf_counter()
        for batch in batches:
            count += batch["input_ids"].numel()
            if time.perf_counter() - start > limit:
                break
        speed = count / (time.perf_counter() - start)
        return {"workers": workers, "tokens_per_second": round(speed), "share_of_a_million": speed / GOAL}

    for workers in check.size((0, 6, 12), (0, 1)):
        yield f"{workers} workers", lambda workers=workers: measure(workers)
