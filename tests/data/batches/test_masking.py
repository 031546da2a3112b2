"""Masks: statistics over a million tokens, the budget rule word by word, draws by place alone; the collator: shapes,
padding, fixed masks, speed, and no dependence on workers.
"""

import random
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.batches.masking import IGNORED, MASK_STYLES, MaskCollator, TokenMasking, WholeWordMasking
from data.batches.sampling import draw, draw_at
from training.process import keep_freed_memory

VOCAB, MASK = 12000, 103
SPECIAL = (0, 100, 101, 102, 103)


def make_rows(seed, lengths, word_sizes=(1, 2, 3, 4), unknown=0.0):
    """Random rows laid end to end: input_ids [N], continuation [N]; each row is [CLS] words [SEP]."""
    rng = np.random.default_rng(seed)
    ids, marks = [], []
    for length in lengths:
        row = rng.integers(200, VOCAB, length)
        row[rng.random(length) < unknown] = 100
        row[[0, -1]] = 101, 102
        mark = np.ones(length, np.uint8)
        sizes = rng.choice(word_sizes, length, p=np.array([4, 4, 1, 1])[: len(word_sizes)] / 10)
        starts = 1 + np.cumsum(sizes)
        mark[starts[starts < length]] = 0
        mark[[0, 1, -1]] = 0
        ids.append(row)
        marks.append(mark)
    return np.concatenate(ids), np.concatenate(marks)


def mask(masking, ids, marks, lengths, epoch=0):
    lengths = np.asarray(lengths)
    return masking(ids, marks, lengths, np.full(len(lengths), epoch), np.arange(len(lengths)))


def words_of(marks):
    return np.cumsum(marks == 0) - 1


def test_statistics_over_a_million_tokens():
    lengths = np.full(2048, 512)
    ids, marks = make_rows(0, lengths)
    masking = WholeWordMasking(VOCAB, MASK, SPECIAL, seed=7)
    chosen, replacement = mask(masking, ids, marks, lengths)
    assert len(ids) >= 1_000_000
    assert len(chosen) == 77 * len(lengths)  # round(0.15 * 512), filled exactly in every row
    masked, kept = replacement == MASK, replacement == ids[chosen]
    # One standard error is 0.1 % for the masked share and 0.08 % for the other two.
    assert abs(masked.mean() - 0.8) < 0.005
    assert abs(kept.mean() - 0.1) < 0.004
    changed = replacement[~masked & ~kept]
    assert abs(len(changed) / len(chosen) - 0.1) < 0.004
    assert changed.min() < 10 and changed.max() > VOCAB - 10 and abs(changed.mean() / VOCAB - 0.5) < 0.02
    # Every place of a row is chosen alike, and a long word hardly less often than a short one.
    per_place = np.bincount(chosen % 512, minlength=512)[1:-1] / len(lengths)
    assert abs(per_place.mean() - 77 / 510) < 1e-6 and per_place.std() < 0.02
    sizes = np.bincount(words_of(marks))
    taken = np.bincount(words_of(marks)[chosen], minlength=len(sizes)) > 0
    rates = [taken[sizes == size].mean() for size in (1, 2, 3, 4)]
    assert max(rates) - min(rates) < 0.01


def test_words_are_never_split_and_specials_never_chosen():
    lengths = [512, 40, 7, 300]
    ids, marks = make_rows(1, lengths, unknown=0.1)
    for epoch in range(20):
        chosen, _ = mask(WholeWordMasking(VOCAB, MASK, SPECIAL), ids, marks, lengths, epoch)
        assert not np.isin(ids[chosen], SPECIAL).any()
        free = ~np.isin(ids, SPECIAL)
        labelled = np.zeros(len(ids), bool)
        labelled[chosen] = True
        word = words_of(marks)
        whole = np.bincount(word[free], minlength=word[-1] + 1)
        part = np.bincount(word[labelled], minlength=word[-1] + 1)
        assert ((part == 0) | (part == whole)).all()


@pytest.mark.parametrize("probability", [0.01, 0.15, 0.3, 0.6])
def test_budget_rule_is_that_of_a_loop_over_shuffled_words(probability):
    lengths = [3, 4, 9, 64, 511, 512, 200]
    ids, marks = make_rows(2, lengths, word_sizes=(1, 2, 7, 19), unknown=0.05)
    masking = WholeWordMasking(VOCAB, MASK, SPECIAL, probability=probability, seed=3)
    chosen, _ = mask(masking, ids, marks, lengths)
    first = 0
    for row, length in enumerate(lengths):
        inside = range(first, first + length)
        words = {}
        for index in inside:
            words.setdefault(int(words_of(marks)[index]), []).append(index)
        positions = np.array([words[number][0] - first for number in words])
        keys = dict(zip(words, draw_at(draw(draw(3, 0, row), 1), positions) >> np.uint64(32), strict=True))
        left, expected = max(1, round(probability * length)), []
        for number in sorted(words, key=keys.get):
            free = [index for index in words[number] if ids[index] not in SPECIAL]
            if 0 < len(free) <= left:
                expected += free
                left -= len(free)
        assert sorted(expected) == [index for index in chosen if index in inside]
        first += length


def test_a_row_of_specials_only_has_no_labels():
    chosen, replacement = mask(WholeWordMasking(VOCAB, MASK, SPECIAL), np.array([101, 102]), np.zeros(2), [2])
    assert len(chosen) == len(replacement) == 0


def test_masks_depend_on_seed_epoch_and_row_and_on_nothing_else():
    lengths = np.array([100, 60, 80])
    ids, marks = make_rows(4, lengths)

    def masks(seed=1, epoch=0, indices=(5, 6, 7)):
        chosen, replacement = WholeWordMasking(VOCAB, MASK, SPECIAL, seed=seed)(
            ids, marks, lengths, np.full(3, epoch), np.array(indices)
        )
        return chosen.tolist(), replacement.tolist()

    alone, _ = WholeWordMasking(VOCAB, MASK, SPECIAL, seed=1)(
        ids[100:160], marks[100:160], lengths[1:2], np.zeros(1, int), np.array([6])
    )
    assert [index for index in masks()[0] if 100 <= index < 160] == (alone + 100).tolist()
    np.random.seed(0)
    random.seed(0)
    assert masks() == masks()
    others = [masks(seed=2), masks(epoch=1), masks(indices=(8, 9, 10))]
    assert all(other[0] != masks()[0] for other in others)


def test_shares_and_replacement_by_word():
    lengths = np.full(256, 512)
    ids, marks = make_rows(5, lengths)
    masking = WholeWordMasking(VOCAB, MASK, SPECIAL, mask_share=0.5, random_share=0.25, by_word=True)
    chosen, replacement = mask(masking, ids, marks, lengths)
    word = words_of(marks)[chosen]
    masked = np.bincount(word[replacement == MASK], minlength=word.max() + 1)
    whole = np.bincount(word, minlength=word.max() + 1)
    split = np.sum((masked != 0) & (masked != whole))
    assert split <= 5  # a random token may be [MASK] itself, once in 12,000
    assert abs((replacement == MASK).mean() - 0.5) < 0.02
    assert abs((replacement == ids[chosen]).mean() - 0.25) < 0.02
    by_token = WholeWordMasking(VOCAB, MASK, SPECIAL, mask_share=0.5, random_share=0.25)
    masked = np.bincount(word[mask(by_token, ids, marks, lengths)[1] == MASK], minlength=word.max() + 1)
    assert np.sum((masked != 0) & (masked != whole)) > 1000


@pytest.mark.parametrize("style, probability", [("electra", 0.15), ("bert", 0.15), ("electra", 0.25)])
def test_single_tokens_are_labelled_independently_with_the_shares_of_their_style(style, probability):
    lengths = np.full(7850, 128)
    ids, marks = make_rows(6, lengths)
    mask_share, random_share = MASK_STYLES[style]
    masking = TokenMasking(VOCAB, MASK, SPECIAL, probability, mask_share, random_share, seed=11)
    chosen, replacement = mask(masking, ids, marks, lengths)
    free = (~np.isin(ids, SPECIAL)).sum()
    assert free > 985_000 and not np.isin(ids[chosen], SPECIAL).any()
    masked, kept = replacement == MASK, replacement == ids[chosen]
    assert abs(len(chosen) / free - probability) < 4 * (probability * (1 - probability) / free) ** 0.5
    # Four standard errors at 150,000 draws.
    assert abs(masked.mean() - mask_share) < 0.004
    assert abs(kept.mean() - (1 - mask_share - random_share)) < 0.004
    assert abs((~masked & ~kept).mean() - random_share) < 0.004
    # Counts per row are binomial: mean 126 p, variance 126 p (1 - p).
    per_row = np.bincount(chosen // 128, minlength=len(lengths))
    assert abs(per_row.mean() - 126 * probability) < 0.2
    assert abs(per_row.std() - (126 * probability * (1 - probability)) ** 0.5) < 0.15
    neighbours = np.diff(chosen) == 1
    assert abs(neighbours.mean() - probability) < 0.005


def test_single_tokens_depend_on_their_place_alone():
    lengths = np.array([100, 60, 80])
    ids, marks = make_rows(4, lengths)
    masking = TokenMasking(VOCAB, MASK, SPECIAL, seed=1)
    whole, replaced = masking(ids, marks, lengths, np.full(3, 2), np.array([5, 6, 7]))
    alone, replaced_alone = masking(ids[100:160], marks[100:160], lengths[1:2], np.array([2]), np.array([6]))
    inside = (whole >= 100) & (whole < 160)
    assert whole[inside].tolist() == (alone + 100).tolist() and replaced[inside].tolist() == replaced_alone.tolist()
    assert whole.tolist() != mask(masking, ids, marks, lengths, epoch=3)[0].tolist()


def test_noise_seeds_are_distinct_and_depend_on_seed_epoch_and_row_alone():
    epochs, indices = np.repeat([0, 1], 500), np.tile(np.arange(500), 2)
    seeds = TokenMasking(VOCAB, MASK, SPECIAL, seed=1).noise_seeds(epochs, indices)
    assert seeds.dtype == np.int64 and seeds.min() >= 0 and len(set(seeds.tolist())) == 1000
    assert WholeWordMasking(VOCAB, MASK, SPECIAL, seed=1).noise_seeds(epochs[::-1], indices[::-1]).tolist() == (
        seeds[::-1].tolist()
    )
    assert not set(TokenMasking(VOCAB, MASK, SPECIAL, seed=2).noise_seeds(epochs, indices)) & set(seeds)


@pytest.mark.parametrize(
    "options",
    [{"probability": 0.0}, {"probability": 1.0}, {"mask_share": 1.2}, {"mask_share": 0.9, "random_share": 0.2}],
)
def test_a_bad_share_is_refused_by_name(options):
    with pytest.raises(ValueError, match=r"mlm_probability|mask_share"):
        WholeWordMasking(VOCAB, MASK, SPECIAL, **options)


# The collator


def make_row(index, length, epoch=0):
    rng = np.random.default_rng(index)
    ids = rng.integers(200, 12000, length).astype(np.uint16)
    ids[[0, -1]] = 101, 102
    marks = (rng.random(length) < 0.35).astype(np.uint8)
    marks[[0, 1, -1]] = 0
    return {"epoch": epoch, "index": index, "input_ids": ids, "continuation": marks}


def make_collator(**options):
    return MaskCollator(WholeWordMasking(12000, 103, SPECIAL, seed=1), pad_token_id=0, **options)


def test_tensors_fit_together():
    rows = [make_row(index, length) for index, length in enumerate([37, 12, 2, 61])]
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

    fixed, other = (
        MaskCollator(WholeWordMasking(12000, 103, SPECIAL, seed=seed), pad_token_id=0, fixed=True) for seed in (1, 2)
    )
    assert torch.equal(labels(fixed, 0), labels(fixed, 5))
    assert not torch.equal(labels(make_collator(), 0), labels(make_collator(), 5))
    assert not torch.equal(labels(fixed, 0), labels(make_collator(), 0))
    assert not torch.equal(labels(fixed, 0), labels(other, 0))


class RowsByIndex(Dataset):
    def __len__(self):
        return 64

    def __getitems__(self, indices):
        return [make_row(index, 40 + index) for index in indices]


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_are_the_same_for_any_number_of_workers_and_any_batch(workers):
    seen = {}
    for size in (4, 16):
        loader = DataLoader(RowsByIndex(), batch_size=size, num_workers=workers, collate_fn=make_collator())
        seen[size] = [
            tuple(row[mask == 1].tolist())
            for b in loader
            for row, mask in zip(b["input_ids"], b["labels"] != IGNORED, strict=True)
        ]
    alone = [make_collator()([make_row(index, 40 + index)]) for index in range(64)]
    assert seen[4] == seen[16] == [tuple(b["input_ids"][b["labels"] != IGNORED].tolist()) for b in alone]


def test_five_million_tokens_per_cpu_second():
    rows = [make_row(index, 512) for index in range(64)]
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
    for index in range(60):
        batch = make_collator()([full | {"index": index}, short | {"index": index}])
        labels = batch["labels"]
        gathered = labels.gather(1, batch["masked_positions"])
        assert ((gathered != IGNORED).sum(1) == (labels != IGNORED).sum(1)).all()


def test_noise_seeds_of_a_batch_depend_on_epoch_and_row_alone():
    def seeds(epoch, indices):
        return make_collator(noise=True)([make_row(index, 12, epoch) for index in indices])["noise_seed"].tolist()

    assert seeds(0, [3, 4]) == [*seeds(0, [3]), *seeds(0, [4])]
    assert len({*seeds(0, [3, 4]), *seeds(1, [3, 4])}) == 4 and min(seeds(0, range(20))) >= 0
