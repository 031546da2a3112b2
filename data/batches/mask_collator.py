"""Turn rows of a corpus, masking words or tokens, or rows of a task into the tensors of one micro-batch.

B rows of the batch, T tokens of its longest row (rounded up to a multiple), P labelled tokens of the fullest row, C
choices of the row that has most.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.batches.masking import Masking

IGNORED = -100  # the label that torch's cross entropy leaves out
FIXED_EPOCH = 2**63 - 1  # no training epoch is ever this one


@dataclass(frozen=True)
class MaskCollator:
    """Collator for masked language modelling on a prepared corpus.

    Attributes:
        masking: which tokens are labelled and what replaces them.
        pad_token_id: fills input_ids on the right.
        pad_to_multiple_of: T is rounded up to a multiple of it (8 suits half-precision matrix units).
        fixed: give a sample the same mask in every epoch (evaluation).
        noise: add noise_seed, for models that sample.
    """

    masking: Masking
    pad_token_id: int
    pad_to_multiple_of: int = 1
    fixed: bool = False
    noise: bool = False

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Collate rows with keys epoch, sample (int), input_ids and continuation ([t] integer arrays).

        Returns:
            int64 tensors: input_ids, attention_mask, labels [B, T]; labels are -100 where nothing is predicted.
            masked_positions [B, P]: where the labelled tokens of each row stand, filled up with the row's first
            position whose label is -100; that is 0, the place of [CLS], unless the row begins inside a document.
            Of rows with the key pieces (the lengths of parts to keep apart) also document_ids [B, T], 1, 2, ...
            within the row and 0 at padding, and position_ids [B, T] that count from 0 in each piece.
            Of rows with the key first_segment (its tokens, separator included) token_type_ids [B, T]: 0, then 1, and
            0 at padding. With noise, noise_seed [B].
        """
        lengths = np.array([len(row["input_ids"]) for row in rows], np.int64)
        input_ids = np.concatenate([row["input_ids"] for row in rows]).astype(np.int64)
        continuation = np.concatenate([row["continuation"] for row in rows])
        samples = np.array([row["sample"] for row in rows], np.int64)
        epochs = np.array([FIXED_EPOCH if self.fixed else row["epoch"] for row in rows], np.int64)
        chosen, replacement = self.masking(input_ids, continuation, lengths, epochs, samples)

        width = -(-lengths.max() // self.pad_to_multiple_of) * self.pad_to_multiple_of
        row = np.repeat(np.arange(len(rows)), lengths)[chosen]  # [K]
        position = chosen - (np.cumsum(lengths) - lengths)[row]
        real = np.arange(width) < lengths[:, None]  # [B, T]
        padded = np.full(real.shape, self.pad_token_id, np.int64)
        padded[real] = input_ids
        labels = np.full(real.shape, IGNORED, np.int64)
        labels[row, position] = input_ids[chosen]
        padded[row, position] = replacement

        labelled = np.bincount(row, minlength=len(rows))
        masked_positions = np.empty((len(rows), max(1, labelled.max())), np.int64)
        masked_positions[:] = (labels == IGNORED).argmax(axis=1)[:, None]
        masked_positions[row, np.arange(len(row)) - (np.cumsum(labelled) - labelled)[row]] = position
        arrays = {
            "input_ids": padded,
            "attention_mask": real.astype(np.int64),
            "labels": labels,
            "masked_positions": masked_positions,
        }
        if self.noise:
            arrays["noise_seed"] = self.masking.noise_seeds(epochs, samples)
        if "first_segment" in rows[0]:
            second = np.arange(width) >= np.array([row["first_segment"] for row in rows])[:, None]
            arrays["token_type_ids"] = (second & real).astype(np.int64)
        if "pieces" in rows[0]:
            arrays |= piece_arrays([row["pieces"] for row in rows], real)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def piece_arrays(pieces: list[np.ndarray], real: np.ndarray) -> dict[str, np.ndarray]:
    """document_ids and position_ids, int64 [B, T], of rows of pieces of these lengths; real [B, T] is no padding."""
    counts = np.array([len(found) for found in pieces])
    sizes = np.concatenate(pieces)
    numbers = np.arange(1, len(sizes) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
    documents, positions = np.zeros(real.shape, np.int64), np.zeros(real.shape, np.int64)
    documents[real] = np.repeat(numbers, sizes)
    positions[real] = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return {"document_ids": documents, "position_ids": positions}
