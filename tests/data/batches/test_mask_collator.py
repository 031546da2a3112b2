"""The whole-word-mask collator: shapes and padding, fixed masks, speed, and no dependence on workers."""

import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.batches.mask_collator import IGNORED, MaskCollator
from data.batches.masking import WholeWordMasking
from training.process import keep_freed_memory

SPECIAL = (0, 100, 101, 102, 103)


def make_row(sample, length, epoch=0):
    rng = np.random.default_rng(sample)
    ids = rng.integers(200, 12000, length).astype(np.uint16)
    ids[[0, -1]] = 101, 102
    marks = (rng.random(length) < 0.35).astype(np.uint8)
    marks[[0, 1, -1]] = 0
    return {"epoch": epoch, "sample": sample, "input_ids": ids, "continuation": marks}


def make_collator(**options):
    return MaskCollator(WholeWordMasking(12000, 103, SPECIAL, seed=1), pad_token_id=0, **options)


def test_tensors_fit_together():
    rows = [make_row(sample, length) for sample, length in enumerate([37, 12, 2, 61])]
    batch = make_collator(pad_to_multiple_of=8)(rows)
    assert {name: tensor.dtype for name, tensor in batch.items()} == dict.fromkeys(batch, torch.int64)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape == (4, 64)
    assert batch["attention_mask"].sum(1).tolist() == [37, 12, 2, 61]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    labels = batch["labels"]
    assert (labels != IGNORED).sum(1).tolist() == [6, 2, 0, 9]  # round(0.15 * 37), ..., nothing but specials, ...
    for row, ids in zip(range(4), rows, strict=True):
        original = torch.from_numpy(ids["input_ids"].astype(np.int64))
        predicted = torch.where(labels[row] == IGNORED, batch["input_ids"][row], labels[row])
        assert torch.equal(predicted[: len(original)], original)
    positions = batch["masked_positions"]
    assert positions.shape == (4, 9)
    gathered = labels.gather(1, positions)
    assert torch.equal(gathered[gathered != IGNORED], labels[labels != IGNORED])
    assert (positions[gathered == IGNORED] == 0).all() and (labels[:, 0] == IGNORED).all()


def test_a_batch_without_labels_has_one_empty_position():
    batch = make_collator()([make_row(0, 2), make_row(1, 2)])
    assert batch["masked_positions"].tolist() == [[0], [0]] and (batch["labels"] == IGNORED).all()


def test_fixed_masks_ignore_the_epoch_and_training_masks_do_not():
    def labels(collator, epoch):
        return collator([make_row(3, 200, epoch)])["labels"]

    assert torch.equal(labels(make_collator(fixed=True), 0), labels(make_collator(fixed=True), 5))
    assert not torch.equal(labels(make_collator(), 0), labels(make_collator(), 5))
    assert not torch.equal(labels(make_collator(fixed=True), 0), labels(make_collator(), 0))


class Rows(Dataset):
    def __len__(self):
        return 64

    def __getitems__(self, indices):
        return [make_row(index, 40 + index) for index in indices]


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_are_the_same_for_any_number_of_workers_and_any_batch(workers):
    seen = {}
    for size in (4, 16):
        loader = DataLoader(Rows(), batch_size=size, num_workers=workers, collate_fn=make_collator())
        seen[size] = [
            tuple(row[mask == 1].tolist())
            for b in loader
            for row, mask in zip(b["input_ids"], b["labels"] != IGNORED, strict=True)
        ]
    alone = [make_collator()([make_row(index, 40 + index)]) for index in range(64)]
    assert seen[4] == seen[16] == [tuple(b["input_ids"][b["labels"] != IGNORED].tolist()) for b in alone]


def test_five_million_tokens_per_cpu_second():
    rows = [make_row(sample, 512) for sample in range(64)]
    collator = make_collator(pad_to_multiple_of=8)
    keep_freed_memory()  # as loader workers do
    collator(rows)
    best = min(_seconds(collator, rows) for _ in range(15))
    assert 64 * 512 / best >= 5e6, f"{64 * 512 / best / 1e6:.1f} million tokens per CPU-second"


def _seconds(collator, rows):
    start = time.process_time()
    collator(rows)
    return time.process_time() - start


def test_pieces_become_documents_and_positions_that_restart():
    rows = [make_row(0, 9) | {"pieces": np.array([4, 5])}, make_row(1, 7) | {"pieces": np.array([7])}]
    batch = make_collator(pad_to_multiple_of=4)(rows)
    assert batch["document_ids"].tolist() == [[1] * 4 + [2] * 5 + [0] * 3, [1] * 7 + [0] * 5]
    assert batch["position_ids"].tolist() == [[*range(4), *range(5), 0, 0, 0], [*range(7), 0, 0, 0, 0, 0]]
    assert {batch[name].dtype for name in ("document_ids", "position_ids")} == {torch.int64}


def test_positions_are_filled_with_one_that_has_no_label():
    full, short = make_row(0, 40), make_row(1, 8)
    full["input_ids"], short["input_ids"] = np.full(40, 500, np.uint16), np.full(8, 500, np.uint16)  # no specials
    for sample in range(60):
        batch = make_collator()([full | {"sample": sample}, short | {"sample": sample}])
        labels = batch["labels"]
        gathered = labels.gather(1, batch["masked_positions"])
        assert ((gathered != IGNORED).sum(1) == (labels != IGNORED).sum(1)).all()


def test_noise_seeds_depend_on_epoch_and_sample_alone():
    def seeds(epoch, samples):
        return make_collator(noise=True)([make_row(sample, 12, epoch) for sample in samples])["noise_seed"].tolist()

    assert seeds(0, [3, 4]) == [*seeds(0, [3]), *seeds(0, [4])]
    assert len({*seeds(0, [3, 4]), *seeds(1, [3, 4])}) == 4 and min(seeds(0, range(20))) >= 0
