"""Documents of random token ids."""

import numpy as np

from data.batches.causal_documents import Documents

END = 99


def documents_of(pairs, end=END):
    lengths = [len(prompt) + len(text) for prompt, text in pairs]
    ids = np.array([token for prompt, text in pairs for token in (*prompt, *text)], np.int32)
    return Documents(ids, np.array(lengths), np.array([len(prompt) for prompt, _ in pairs]), end)


def random_documents(count, seed=0, longest=30):
    rng = np.random.default_rng(seed)
    return documents_of(
        [
            (rng.integers(0, 90, rng.integers(0, 5)), rng.integers(0, 90, rng.integers(1, longest)))
            for _ in range(count)
        ]
    )
