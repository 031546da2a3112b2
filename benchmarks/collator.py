"""Tokens per CPU-second of the whole-word-mask collator and of the collator of transformers 4.x, on the same rows.

    python benchmarks/collator.py

The other side is DataCollatorForWholeWordMask's way, written from its behaviour: a Python loop over the tokens of each
row with a list of continued positions, one shuffled list of words, and torch's generator for the replacement. Both
sides get token ids ready made and give padded int64 tensors; 64 rows of 512, one thread, medians over the rounds.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.batches.masking import MaskCollator, WholeWordMasking
from training.process import keep_freed_memory

VOCAB, PAD, UNK, CLS, SEP, MASK = 12000, 0, 100, 101, 102, 103
SPECIAL = (PAD, UNK, CLS, SEP, MASK)


def make_rows(count: int, length: int) -> list[dict]:
    """Random rows whose words have the lengths of Chinese text: 1 to 4 characters, 1.6 on average."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        ids = rng.integers(200, VOCAB, length).astype(np.uint16)
        ids[[0, -1]] = CLS, SEP
        marks = np.ones(length, np.uint8)
        starts = 1 + np.cumsum(rng.choice([1, 2, 3, 4], length, p=[0.52, 0.38, 0.06, 0.04]))
        marks[[0, 1, -1, *starts[starts < length]]] = 0
        chinese_ref = np.flatnonzero(marks).tolist()
        row = {"epoch": 0, "index": index, "input_ids": ids, "continuation": marks}
        rows.append(row | {"list_ids": ids.tolist(), "chinese_ref": chinese_ref})
    return rows


class ListCollator:
    """The order of operations of transformers 4.16 to 4.57."""

    def __init__(self):
        self.tokens = [f"token{number}" for number in range(VOCAB)]
        for number, token in zip(SPECIAL, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), strict=True):
            self.tokens[number] = token

    def __call__(self, rows):
        batch = self.pad([torch.tensor(row["list_ids"]) for row in rows], PAD)
        chosen = []
        for row in rows:
            tokens = []
            for place, number in enumerate(row["list_ids"]):
                token = self.tokens[number]
                tokens.append("##" + token if place in row["chinese_ref"] else token)
            chosen.append(torch.tensor(self.choose(tokens)))
        return self.replace(batch, self.pad(chosen, 0).bool())

    @staticmethod
    def pad(rows, value):
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    @staticmethod
    def choose(tokens):
        words = []
        for place, token in enumerate(tokens):
            if token in ("[CLS]", "[SEP]"):
                continue
            if words and token.startswith("##"):
                words[-1].append(place)
            else:
                words.append([place])
        random.shuffle(words)
        budget = min(512, max(1, round(0.15 * len(tokens))))
        covered = set()
        for word in words:
            if len(covered) >= budget:
                break
            if len(covered) + len(word) <= budget:
                covered.update(word)
        return [1 if place in covered else 0 for place in range(len(tokens))]

    @staticmethod
    def replace(ids, chosen):
        labels = ids.clone()
        special = torch.tensor([[number in SPECIAL for number in row] for row in labels.tolist()])
        chosen = chosen & ~special
        labels[~chosen] = -100
        masked = torch.bernoulli(torch.full(labels.shape, 0.8)).bool() & chosen
        ids[masked] = MASK
        other = torch.bernoulli(torch.full(labels.shape, 0.5)).bool() & chosen & ~masked
        ids[other] = torch.randint(VOCAB, labels.shape)[other]
        return {"input_ids": ids, "labels": labels}


def cpu_seconds(collator, rows, rounds: int) -> float:
    """Median CPU time of one batch."""
    collator(rows)
    times = []
    for _ in range(rounds):
        start = time.process_time()
        collator(rows)
        times.append(time.process_time() - start)
    return statistics.median(times)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=20, help="batches timed on each side")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()  # as in the loader workers of a training; for both sides
    rows = make_rows(args.rows, args.length)
    ours = MaskCollator(WholeWordMasking(VOCAB, MASK, SPECIAL), PAD, pad_to_multiple_of=8)
    tokens = args.rows * args.length
    speeds = {
        "transformers 4.x": tokens / cpu_seconds(ListCollator(), rows, max(3, args.rounds // 4)),
        "data/batches/masking.py": tokens / cpu_seconds(ours, rows, 10 * args.rounds),
    }
    for name, speed in speeds.items():
        print(f"{name:20} {speed / 1e6:8.3f} million tokens per CPU-second")
    print(f"{'ratio':20} {speeds['data/batches/masking.py'] / speeds['transformers 4.x']:8.1f}")


if __name__ == "__main__":
    main()
