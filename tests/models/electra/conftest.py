"""The batch that tests of ELECTRA share."""

import pytest
import torch


@pytest.fixture
def batch():
    """The batch of the published parity case: ids, lengths and segments by formula, six tokens masked, one of them
    kept as it is."""
    lengths, first = torch.tensor([12, 12, 10, 7]), torch.tensor([6, 12, 5, 7])
    rows, places = torch.arange(4).unsqueeze(1), torch.arange(12).unsqueeze(0)
    ids = 110 + (37 * rows + 11 * places) % 80
    ids[:, 0] = 101
    ids.scatter_(1, (first - 1).unsqueeze(1), 102).scatter_(1, (lengths - 1).unsqueeze(1), 102)
    real = places < lengths.unsqueeze(1)
    ids = ids.masked_fill(~real, 0)
    positions = torch.tensor([[2, 7], [3, 9], [1, 0], [4, 0]])
    labels = torch.full_like(ids, -100).scatter_(1, positions, ids.gather(1, positions))
    labels[:, 0] = -100
    masked = ids.masked_fill((labels != -100) & ~((rows == 1) & (places == 9)), 103)
    return {
        "input_ids": masked,
        "attention_mask": real.long(),
        "labels": labels,
        "masked_positions": positions,
        "noise_seed": torch.tensor([5, 6, 7, 8]),
        "token_type_ids": (places >= first.unsqueeze(1)).long(),
    }
