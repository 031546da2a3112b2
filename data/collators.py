"""Turn corpus rows into the tensors of one micro-batch, masking whole words on the way.

B rows of the batch, T tokens of its longest row (rounded up to a multiple), P labelled tokens of the fullest row.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.masking import WholeWordMasking

IGNORED = -100  # the label that torch's cross entropy leaves out
FIXED_EPOCH = 2**63 - 1  # no training epoch is ever this one


@dataclass(frozen=True)
class WholeWordMaskCollator:
    """Collator for masked language modelling on a prepared corpus.

    Attributes:
        masking: which tokens are labelled and what replaces them.
        pad_token_id: fills input_ids on the right.
        pad_to_multiple_of: T is rounded up to a multiple of it (8 suits half-precision matrix units).
        fixed: give a sample the same mask in every epoch (evaluation).
    """

    masking: WholeWordMasking
    pad_token_id: int
    pad_to_multiple_of: int = 1
    fixed: bool = False

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Collate rows with keys epoch, sample (int), input_ids and continuation ([t] integer arrays).

        Returns:
            int64 tensors: input_ids, attention_mask, labels [B, T]; labels are -100 where nothing is predicted.
            masked_positions [B, P]: where the labelled tokens of each row stand, filled up with 0, the place of
            [CLS], whose label is always -100.
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
        masked_positions = np.zeros((len(rows), max(1, labelled.max())), np.int64)
        masked_positions[row, np.arange(len(row)) - (np.cumsum(labelled) - labelled)[row]] = position
        return {
            "input_ids": torch.from_numpy(padded),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
            "labels": torch.from_numpy(labels),
            "masked_positions": torch.from_numpy(masked_positions),
        }
