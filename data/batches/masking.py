"""Mask rows of a corpus: which tokens are labelled, what replaces them, and the tensors of a micro-batch of rows.

Masks are a pure function of (seed, epoch, index of the row, position).

Whole words: semantics of transformers 4.x' DataCollatorForWholeWordMask. Words are taken in random order, each one
that still fits a budget of round(probability * tokens of the row, [CLS] and [SEP] included), at least one, so that the
budget is filled exactly wherever the words allow it. Single tokens: each is labelled with the given probability on its
own, as in transformers' DataCollatorForLanguageModeling and richarddwang/electra_pytorch's mask_tokens. Of the
labelled tokens some become [MASK], some a random token, the rest stay: 80/10/10 in BERT, 85/0/15 in ELECTRA.
Where we differ: special tokens ([UNK] among them, unless told otherwise) are never chosen and take nothing from the
budget, and every draw is a hash of where it stands instead of a generator's next number, so that workers, restarts and
process counts cannot change it.

Letters: N tokens of the batch without padding, R rows, T tokens of the longest row (rounded up to a multiple), W words
of the row that has most, K labelled tokens, P labelled tokens of the fullest row.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from common.errors import ArgumentError
from data.batches.sampling import HELD_OUT_SEED, draw, draw_at, share_of

IGNORED = -100  # the label that torch's cross entropy leaves out
FIXED_EPOCH = 2**63 - 1  # no training epoch is ever this one: the highest int64
# A word's index in its row and its size lie under a 32-bit random key, 16 bits each: one sort orders all three.
_MAX_ROW = (1 << 16) - 1
_SIXTEEN, _LOW = np.uint64(16), np.uint64(0xFFFF)
_NOTHING = np.uint64(0xFFFFFFFFFFFFFFFF)  # sorts last, and a word of 65,535 tokens fits no budget
_ORDER, _REPLACEMENT, _RANDOM_TOKEN, _NOISE = 1, 2, 3, 4  # one stream of draws per purpose
MASK_STYLES = {"electra": (0.85, 0.0), "bert": (0.8, 0.1)}  # name -> (mask_share, random_share)


@dataclass(frozen=True)
class Masking:
    """The rule by which the tokens of a batch are labelled and replaced; a subclass says which ones.

    Attributes:
        vocab_size: random tokens are uniform over all ids below it, as in transformers 4.x.
        mask_token_id: id of [MASK].
        special_ids: ids that are never labelled.
        probability: labelled tokens per token of a row, in (0, 1).
        mask_share, random_share: of the labelled tokens, how many become [MASK] and a random token.
        by_word: draw the replacement once per word (ZhuiyiTechnology) instead of once per token (transformers).
        seed: of every draw.

    Raises:
        ArgumentError: a probability or share is out of range.
    """

    vocab_size: int
    mask_token_id: int
    special_ids: tuple[int, ...]
    probability: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    by_word: bool = False
    seed: int = 0
    _is_special: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if not 0 < self.probability < 1:
            raise ArgumentError(f"--mlm_probability must lie between 0 and 1, got {self.probability}")
        for name in ("mask_share", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"--{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ArgumentError(
                f"--mask_share must leave room for random_share, got {self.mask_share} + {self.random_share} > 1"
            )
        table = np.zeros(self.vocab_size, bool)
        table[list(self.special_ids)] = True
        object.__setattr__(self, "_is_special", table)

    def __call__(
        self,
        input_ids: np.ndarray,
        continuation: np.ndarray,
        lengths: np.ndarray,
        epochs: np.ndarray,
        indices: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose and replace the tokens of a batch of rows laid end to end.

        Args:
            input_ids: [N] integer; every row begins with [CLS] or another word start.
            continuation: [N] 0/1; 1 where a token belongs to the word of the token before it.
            lengths: [R] int64, tokens of each row, each below 65,535; they sum to N.
            epochs, indices: [R] int64, of each row, what its draws depend on besides the seed.

        Returns:
            chosen [K] int64, increasing indices into input_ids; replacement [K] int64, the ids to put there.
        """
        if len(lengths) and lengths.max() >= _MAX_ROW:
            raise ValueError(f"a row must be shorter than {_MAX_ROW} tokens, got {lengths.max()}")
        row_keys = draw(self.seed, epochs, indices)
        row = np.repeat(np.arange(len(lengths)), lengths)  # [N]
        position = np.arange(len(input_ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        word_first = np.flatnonzero(np.asarray(continuation) == 0)  # index of each word's first token
        special = self._is_special[input_ids]
        chosen = self._choose(word_first, special, lengths, draw(row_keys, _ORDER), row, position)
        decided_at = chosen
        if self.by_word:
            decided_at = word_first[np.searchsorted(word_first, chosen, side="right") - 1]
        return chosen, self._replace(input_ids[chosen], row_keys, row[chosen], position[chosen], position[decided_at])

    def noise_seeds(self, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Seed of what is sampled for each row besides its mask: int64 [R], not negative."""
        return (draw(self.seed, _NOISE, epochs, indices) >> np.uint64(1)).astype(np.int64)

    def _choose(self, word_first, special, lengths, keys, row, position) -> np.ndarray:
        """Indices of the labelled tokens, int64 [K]. keys: uint64 [R], of the rows' draws; special: bool [N]."""
        raise NotImplementedError

    def _replace(self, ids, row_keys, row, position, decided_at):
        """What stands at the chosen tokens after masking: [K] int64."""
        share = share_of(draw_at(draw(row_keys, _REPLACEMENT)[row], decided_at))
        random_ids = draw_at(draw(row_keys, _RANDOM_TOKEN)[row], position) % np.uint64(self.vocab_size)
        kept_or_random = np.where(share < self.mask_share + self.random_share, random_ids.astype(np.int64), ids)
        return np.where(share < self.mask_share, self.mask_token_id, kept_or_random)


class WholeWordMasking(Masking):
    """Labels whole words, a fixed number of tokens per row."""

    def _choose(self, word_first, special, lengths, keys, row, position):
        word_length = np.diff(word_first, append=len(special))
        word_of_special = np.searchsorted(word_first, np.flatnonzero(special), side="right") - 1
        sizes = word_length - np.bincount(word_of_special, minlength=len(word_first))
        order = draw_at(keys[row[word_first]], position[word_first])
        budgets = np.maximum(1, np.rint(self.probability * lengths)).astype(np.int64)
        taken = _fill_budgets(sizes, row[word_first], order, budgets)
        return np.flatnonzero(np.repeat(taken, word_length) & ~special)


class TokenMasking(Masking):
    """Labels each token with the same probability, independently of all others; a row may end up without labels."""

    def _choose(self, word_first, special, lengths, keys, row, position):
        return np.flatnonzero((share_of(draw_at(keys[row], position)) < self.probability) & ~special)


def _fill_budgets(sizes, word_row, order, budgets) -> np.ndarray:
    """Take words of each row in the order of their keys, skipping those that no longer fit: bool per word.

    One pass takes, in every row, all words up to the first that does not fit. A word skipped once never fits later,
    because what is left only shrinks, so the passes (about three) give exactly what a loop over the words would.
    They look at the first columns only until these have nothing more to give.
    """
    counts = np.bincount(word_row, minlength=len(budgets))
    start = np.cumsum(counts) - counts
    column = np.arange(len(sizes)) - start[word_row]
    packed = np.full((len(budgets), counts.max()), _NOTHING)  # [R, W]
    key = order & ~np.uint64(0xFFFFFFFF) | column.astype(np.uint64) << _SIXTEEN | sizes.astype(np.uint64)
    packed[word_row, column] = np.where(sizes > 0, key, _NOTHING)
    packed.sort(axis=1)
    size = (packed & _LOW).astype(np.int32)
    taken = np.zeros(packed.shape, bool)
    left = budgets.astype(np.int32)
    # A budget of n tokens is spent within its first n words but for those that do not fit: 8 more are mostly enough.
    rows, width = np.arange(len(budgets)), budgets.max() + 8
    while len(rows):
        seen, room = size[rows, :width], left[rows, None]
        fits = (seen <= room) & ~taken[rows, :width]
        fits &= np.cumsum(np.where(fits, seen, 0), axis=1) <= room
        taken[rows, :width] |= fits
        left[rows] -= np.where(fits, seen, 0).sum(axis=1)
        if not fits.any():
            if width >= packed.shape[1]:
                break
            width = packed.shape[1]
        rows = rows[left[rows] > 0]
    row, rank = np.nonzero(taken)
    result = np.zeros(len(sizes), bool)
    result[start[row] + (packed[row, rank] >> _SIXTEEN & _LOW).astype(np.int64)] = True
    return result


MASKINGS = {"word": WholeWordMasking, "token": TokenMasking}  # --mask_unit -> its rule


@dataclass(frozen=True)
class MaskCollator:
    """Collator for masked language modelling on a prepared corpus.

    Attributes:
        masking: which tokens are labelled and what replaces them.
        pad_token_id: fills input_ids on the right.
        pad_to_multiple_of: T is rounded up to a multiple of it (8 suits half-precision matrix units).
        fixed: give a row the same mask in every epoch (evaluation).
        noise: add noise_seed, for models that sample.
    """

    masking: Masking
    pad_token_id: int
    pad_to_multiple_of: int = 1
    fixed: bool = False
    noise: bool = False

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Collate rows with keys epoch, index (int), input_ids and continuation ([t] integer arrays).

        Returns:
            int64 tensors: input_ids, attention_mask, labels [R, T]; labels are -100 where nothing is predicted.
            masked_positions [R, P]: where the labelled tokens of each row stand, filled up with the row's first
            position whose label is -100; that is 0, where [CLS] stands, unless the row begins inside a document.
            Of rows with the key pieces (the lengths of parts to keep apart) also document_ids [R, T], 1, 2, ...
            within the row and 0 at padding, and position_ids [R, T] that count from 0 in each piece.
            Of rows with the key first_segment (its tokens, separator included) token_type_ids [R, T]: 0, then 1, and
            0 at padding. With noise, noise_seed [R].
        """
        lengths = np.array([len(row["input_ids"]) for row in rows], np.int64)
        input_ids = np.concatenate([row["input_ids"] for row in rows]).astype(np.int64)
        continuation = np.concatenate([row["continuation"] for row in rows])
        indices = np.array([row["index"] for row in rows], np.int64)
        epochs = np.array([FIXED_EPOCH if self.fixed else row["epoch"] for row in rows], np.int64)
        chosen, replacement = self.masking(input_ids, continuation, lengths, epochs, indices)

        width = -(-lengths.max() // self.pad_to_multiple_of) * self.pad_to_multiple_of
        row = np.repeat(np.arange(len(rows)), lengths)[chosen]  # [K]
        position = chosen - (np.cumsum(lengths) - lengths)[row]
        real = np.arange(width) < lengths[:, None]  # [R, T]
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
            arrays["noise_seed"] = self.masking.noise_seeds(epochs, indices)
        if "first_segment" in rows[0]:
            second = np.arange(width) >= np.array([row["first_segment"] for row in rows])[:, None]
            arrays["token_type_ids"] = (second & real).astype(np.int64)
        if "pieces" in rows[0]:
            arrays |= piece_arrays([row["pieces"] for row in rows], real)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def piece_arrays(pieces: list[np.ndarray], real: np.ndarray) -> dict[str, np.ndarray]:
    """document_ids and position_ids, int64 [R, T], of rows of pieces of these lengths; real [R, T] is no padding."""
    counts = np.array([len(lengths) for lengths in pieces])
    sizes = np.concatenate(pieces)
    ranks = np.arange(1, len(sizes) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
    documents, positions = np.zeros(real.shape, np.int64), np.zeros(real.shape, np.int64)
    documents[real] = np.repeat(ranks, sizes)
    positions[real] = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return {"document_ids": documents, "position_ids": positions}


def make_collator(tokenizer, vocab_size: int, unit: str, multiple: int, *, noise=False, **options) -> MaskCollator:
    """The collator of a training run, from a tokenizer of transformers and the values of flags.

    unit: one of MASKINGS; multiple: rows are padded to a multiple of it; noise: as for MaskCollator; options: further
    attributes of the Masking. ArgumentError naming the flag.
    """
    options = {"special_ids": tuple(tokenizer.all_special_ids)} | options
    masking = MASKINGS[unit](vocab_size=vocab_size, mask_token_id=tokenizer.mask_token_id, **options)
    return MaskCollator(masking, tokenizer.pad_token_id, multiple, noise=noise)


def make_eval_collator(tokenizer, vocab_size: int, unit: str, multiple: int, **options) -> MaskCollator:
    """The collator of held-out rows, as make_collator: a row has the same mask in every epoch, every run and script.

    ArgumentError naming the flag.
    """
    try:
        collator = make_collator(tokenizer, vocab_size, unit, multiple, seed=HELD_OUT_SEED, **options)
    except ArgumentError as error:  # which names the training's flag
        raise ArgumentError(str(error).replace("--", "--eval_", 1)) from error
    return replace(collator, fixed=True)
