"""Turn rows of a task into the tensors of one micro-batch."""

from dataclasses import dataclass

import numpy as np
import torch

from data.batches.mask_collator import IGNORED


@dataclass(frozen=True)
class TaskCollator:
    """Collator for the rows of data/features/build.py.

    Attributes:
        task_kind: of data/tasks/task.py.
        pad_token_id: fills input_ids on the right.
        multiple: T is rounded up to a multiple of it (8 suits half-precision matrix units).
    """

    task_kind: str
    pad_token_id: int
    multiple: int = 1

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Collate rows of one split.

        Returns:
            int64 tensors: input_ids, attention_mask and, of rows that have them, token_type_ids [B, T]. Of multiple
            choice these are [B, C, T], with choice_mask bool [B, C]; a choice that a row lacks is one padding token,
            which may be attended to, so that no model sees an empty sequence.
            Where they are known labels: int64 [B], float32 [B] of regression, int64 [B, T] of tagging, -100 where
            nothing is asked; or start_positions and end_positions int64 [B].
        """
        choices = None
        if self.task_kind == "multiple_choice":
            choices = np.array([len(row["input_ids"]) for row in rows], np.int64)
            sequences = {name: [part for row in rows for part in row[name]] for name in _TEXTUAL if name in rows[0]}
        else:
            sequences = {name: [row[name] for row in rows] for name in _TEXTUAL if name in rows[0]}
        lengths = np.array([len(ids) for ids in sequences["input_ids"]], np.int64)
        width = -(-lengths.max() // self.multiple) * self.multiple
        real = np.arange(width) < lengths[:, None]
        arrays = {
            "input_ids": _padded(sequences["input_ids"], real, self.pad_token_id),
            "attention_mask": real.astype(np.int64),
        }
        if "token_type_ids" in sequences:
            arrays["token_type_ids"] = _padded(sequences["token_type_ids"], real, 0)
        if choices is not None:
            arrays = _by_choice(arrays, choices, self.pad_token_id)
        if self.task_kind == "tagging" and "labels" in rows[0]:
            arrays["labels"] = _padded([row["labels"] for row in rows], real, IGNORED)
        else:
            dtype = np.float32 if self.task_kind == "regression" else np.int64
            targets = ("labels", "start_positions", "end_positions")
            arrays |= {name: np.array([row[name] for row in rows], dtype) for name in targets if name in rows[0]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


_TEXTUAL = ("input_ids", "token_type_ids")


def _padded(sequences: list[np.ndarray], real: np.ndarray, filling: int) -> np.ndarray:
    """int64, the shape of `real`, which says where the items of the sequences stand."""
    padded = np.full(real.shape, filling, np.int64)
    padded[real] = np.concatenate(sequences)
    return padded


def _by_choice(arrays: dict[str, np.ndarray], choices: np.ndarray, pad_token_id: int) -> dict[str, np.ndarray]:
    """[sum of choices, T] -> [B, C, T], and choice_mask [B, C]."""
    there = np.arange(choices.max()) < choices[:, None]
    shaped = {}
    for name, found in arrays.items():
        shaped[name] = np.full((*there.shape, found.shape[1]), pad_token_id if name == "input_ids" else 0, np.int64)
        shaped[name][there] = found
    shaped["attention_mask"][~there, 0] = 1
    return shaped | {"choice_mask": there}
