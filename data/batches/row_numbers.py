"""Which rows of a corpus are used, and their lengths, worked out where they are asked for: no array over all rows.

Letters: N rows of the corpus that are used.
"""

from collections.abc import Sequence

import numpy as np

from data.corpus.store import Corpus


class AllBut:
    """The numbers below `rows` without some of them, in order: what an array of N numbers gives, in no memory.

    without: int64, increasing, of the numbers that are left out.
    """

    def __init__(self, rows: int, without: Sequence[int] | np.ndarray = ()):
        without = np.asarray(without, np.int64)
        self._rows = rows
        self._before = without - np.arange(len(without))  # how many numbers are kept below each

    def __len__(self) -> int:
        return self._rows - len(self._before)

    def __getitem__(self, places) -> np.ndarray:
        """int64 places in 0..N-1 -> int64 numbers."""
        places = np.asarray(places, np.int64)
        return places + np.searchsorted(self._before, places, side="right")

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[np.arange(len(self))].astype(dtype or np.int64, copy=False)


class RowLengths:
    """Tokens of the used rows of a corpus: what an int64 array of N gives, read from the shards when asked for.

    indices: N numbers of rows of the corpus, an array or AllBut.
    """

    def __init__(self, corpus: Corpus, indices: np.ndarray | AllBut):
        self._corpus, self._indices = corpus, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, places) -> np.ndarray:
        """int64 places in 0..N-1 -> int64 tokens."""
        return self._corpus.lengths_of(self._indices[places])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        lengths = self._corpus.lengths[np.asarray(self._indices)]
        return lengths.astype(dtype or np.int64, copy=False)

    def max(self) -> int:
        """Tokens of the longest used row; of a corpus that is not small those that no row has more of."""
        return int(np.asarray(self).max()) if self._corpus.maps.is_small else self._corpus.longest

    def mean(self) -> float:
        """Tokens of a used row on average; of a corpus that is not small those of any row."""
        return float(np.asarray(self).mean()) if self._corpus.maps.is_small else self._corpus.mean_length
