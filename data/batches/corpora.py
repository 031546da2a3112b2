"""Rows of the corpora that a run trains on and is measured by, one corpus or several in shares of their tokens.

`dir1,dir2:0.3` trains on both: 0.3 of the tokens that are seen are of dir2. Folders without a share take what the
others leave, by their sizes, so that without any share each row comes once an epoch. Which row stands at a place of
the stream is worked out there, as for one corpus: neither time nor memory grows with the rows.

Letters: C corpora; N places.
"""

import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data.batches.sampling import HELD_OUT, HELD_OUT_SEED, PERMUTED, SORTED, PlainRows, Rows, permuted
from data.corpus.arrow_shards import CorpusError
from data.corpus.store import AllBut, Corpus

_PERIOD = 1 << 16  # places in which each corpus has its share exactly, in random order
_TURNS, _PARTS = 17, 1 << 20  # streams of draws: whose turn it is, and the order in each corpus
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+")
_TOGETHER = 1024  # rows that are looked at together


def named_corpora(train_dir: str) -> tuple[list[str], list[float | None]]:
    """`dir1,dir2:0.3` -> folders and shares, None for one without. CorpusError when they cannot be met."""
    if Path(train_dir).exists():  # whatever its name holds
        return [train_dir], [None]
    folders, shares = [], []
    for word in train_dir.split(","):
        folder, _, share = word.rpartition(":")
        has_share = bool(folder) and not Path(word).exists() and bool(_NUMBER.fullmatch(share))
        folders.append(folder if has_share else word)
        shares.append(float(share) if has_share else None)
    given = [share for share in shares if share is not None]
    open_ended = len(given) < len(shares)
    if not all(0 < share < 1 for share in given) or (sum(given) >= 1 if open_ended else abs(sum(given) - 1) > 1e-6):
        raise CorpusError(
            f"--train_dir must give shares between 0 and 1 that leave some for the folders without one, or else sum "
            f"to 1, got {train_dir}; change them"
        )
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise CorpusError(f"--train_dir must name each folder once, got {train_dir}; give one a larger share")
    return folders, shares


class Mixture:
    """Which row of which corpus stands at each place of the stream.

    A period of the stream has the same number of places of each corpus, in random order; those of a corpus follow its
    own stream, in which every row comes once before any comes again.

    sizes: rows of each corpus; counts: places of each in a period; names: of each, with its share.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], names: Sequence[str]):
        self._names = names
        self._sizes, self._counts = np.array(sizes, np.int64), np.array(counts, np.int64)
        self._first_rows, self._ends = np.cumsum(self._sizes) - self._sizes, np.cumsum(self._counts)

    def describe(self, places: int) -> str:
        """Each corpus with its share, and how often so many places go through it."""
        passes = places * self._counts / self._ends[-1] / self._sizes
        return "; ".join(f"{name}, {times:.3g} passes" for name, times in zip(self._names, passes, strict=True))

    def at(self, places: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Passes over its corpus that are done, and index of the row, of each place: int64 [N]."""
        periods, within = np.divmod(places, int(self._ends[-1]))
        turns = permuted(within, int(self._ends[-1]), seed, periods, _TURNS)
        parts = np.searchsorted(self._ends, turns, side="right")
        counts = self._counts[parts]
        epochs, rows = np.divmod(periods * counts + turns - (self._ends[parts] - counts), self._sizes[parts])
        for part in np.unique(parts).tolist():
            here = parts == part
            rows[here] = permuted(rows[here], int(self._sizes[part]), seed, epochs[here], _PARTS + part)
        return epochs, rows + self._first_rows[parts]


class MixedRows(Rows):
    """Rows of C corpora, one corpus's behind the other's; the index of a row is that of all of them.

    Attributes: parts, Rows of each corpus; shares of the tokens, None for what is left.
    """

    def __init__(self, parts: Sequence[Rows], shares: Sequence[float | None]):
        self.parts, self.shares = list(parts), list(shares)
        self.lengths = MixedLengths([part.lengths for part in parts])
        self.corpus = MixedCorpora([part.corpus for part in parts], shares)
        self._first_rows = np.cumsum([0, *map(len, parts)])
        if any(share is not None for share in shares):
            self.mixture = self._mix()

    def _mix(self) -> Mixture:
        """At least one place of each corpus in a period."""
        means, sizes = np.array([float(part.lengths.mean()) for part in self.parts]), [*map(len, self.parts)]
        shares = self.corpus.full_shares(means * sizes)
        rows = shares / means
        ends = np.round(np.cumsum(rows / rows.sum()) * (_PERIOD - len(rows))).astype(np.int64)
        folders = [part.corpus.folder for part in self.parts]
        names = [f"{share:.1%} of the tokens of {folder}" for share, folder in zip(shares, folders, strict=True)]
        return Mixture(sizes, np.diff(ends, prepend=0) + 1, names)

    @property
    def ranked_lengths(self) -> "MixedLengths":
        return MixedLengths([part.ranked_lengths for part in self.parts])

    def each(self, make: Callable[[PlainRows], Rows]) -> "MixedRows":
        return MixedRows([make(part) for part in self.parts], self.shares)

    def rows(self, indices) -> list[dict]:
        indices = np.asarray(indices, np.int64)
        parts = np.searchsorted(self._first_rows, indices, side="right") - 1
        rows: list[dict] = [{}] * len(indices)
        for part in np.unique(parts).tolist():
            here, first = np.flatnonzero(parts == part), int(self._first_rows[part])
            for place, row in zip(here.tolist(), self.parts[part].rows(indices[here] - first), strict=True):
                rows[place] = row | {"index": int(indices[place])}
        return rows


class MixedLengths:
    """Tokens of the rows of several sources, read where they are asked for, as RowLengths of one."""

    def __init__(self, parts: Sequence):
        self._parts, self._first_rows = list(parts), np.cumsum([0, *map(len, parts)])
        self.is_small = all(getattr(part, "is_small", True) for part in parts)

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def __getitem__(self, places) -> np.ndarray:
        places = np.asarray(places, np.int64)
        parts, lengths = np.searchsorted(self._first_rows, places, side="right") - 1, np.empty(places.shape, np.int64)
        for part in np.unique(parts).tolist():
            here = parts == part
            lengths[here] = self._parts[part][places[here] - self._first_rows[part]]
        return lengths

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        lengths = np.concatenate([np.asarray(part) for part in self._parts])
        return lengths.astype(dtype or np.int64, copy=False)

    def max(self) -> int:
        return max(int(part.max()) for part in self._parts)

    def mean(self) -> float:
        return sum(float(part.mean()) * len(part) for part in self._parts) / len(self)


class MixedCorpora:
    """What a run asks of its corpora as a whole. CorpusError unless they were prepared alike.

    Attributes: folder, their names; manifest, which stands for them and their shares; description.
    """

    def __init__(self, corpora: Sequence[Corpus], shares: Sequence[float | None]):
        self._corpora, self._shares = corpora, shares
        self.folder = ",".join(str(corpus.folder) for corpus in corpora)
        longest = max(corpus.manifest.get("settings", {}).get("max_seq_length", 0) for corpus in corpora)
        self.manifest = {"corpora": [corpus.manifest for corpus in corpora], "shares": list(shares)}
        self.manifest["settings"] = {"max_seq_length": longest}
        for name, what in (("is_grouped", "rows of joined documents"), ("has_lines", "a line in each row")):
            having = [str(corpus.folder) for corpus in corpora if getattr(corpus, name)]
            if 0 < len(having) < len(corpora):
                raise CorpusError(f"--train_dir must name corpora prepared alike, got {what} in {having[0]} alone")

    @cached_property
    def description(self) -> str:
        told = [f" {share:.0%} of the tokens:" if share else "" for share in self._shares]
        return " ".join(f"{of}{corpus.description}" for of, corpus in zip(told, self._corpora, strict=True)).strip()

    def full_shares(self, tokens: np.ndarray) -> np.ndarray:
        """Share of each corpus, those without one by their tokens [C]; sums to 1."""
        shares = np.array([np.nan if share is None else share for share in self._shares], np.float64)
        is_open = np.isnan(shares)
        shares[is_open] = (1 - shares[~is_open].sum()) * tokens[is_open] / tokens[is_open].sum()
        return shares

    def token_counts(self) -> np.ndarray:
        """How often each id occurs, as often as the shares let it be seen, int64 [V]."""
        counts = [corpus.token_counts() for corpus in self._corpora]
        counts = np.stack([np.pad(each, (0, max(map(len, counts)) - len(each))) for each in counts])
        tokens = counts.sum(axis=1)
        factors = self.full_shares(tokens) * tokens.sum() / np.maximum(tokens, 1)
        return np.round(counts.T @ factors).astype(np.int64)


def mixed(parts: Sequence[Rows], shares: Sequence[float | None]) -> Rows:
    """Rows of one corpus or of several."""
    return parts[0] if len(parts) == 1 else MixedRows(parts, shares)


def open_corpus(folder: str, flag: str, backend: Tokenizer) -> Corpus:
    """A corpus to train or measure on. CorpusError unless it has rows and this tokenizer made it."""
    corpus = Corpus(folder, flag)
    corpus.check_tokenizer(backend, "--tokenizer_name")
    if not len(corpus):
        raise CorpusError(f"{flag} {folder} must hold text, got an empty corpus; prepare it from other input")
    share = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    corpus.maps.check_in_background(*share)  # each machine on its own: its disk may be another one
    return corpus


def load_rows(
    train_dir: str, validation_dir: str | None, validation_split: float | None, backend: Tokenizer, order=PERMUTED
) -> tuple[Rows, Rows | None]:
    """Training rows, and held-out rows if there are any. CorpusError unless this tokenizer made the corpora.

    order: that of the run's epochs. Runs that sort take the documents of a split from a list of all of them.
    """

    def split(corpus):
        by_number = corpus.maps.is_small or order == SORTED
        parts = corpus.split_documents(validation_split, HELD_OUT_SEED) if by_number else None
        return [PlainRows(corpus, part) for part in parts or split_at_places(corpus, validation_split)]

    folders, shares = named_corpora(train_dir)
    corpora = [open_corpus(folder, "--train_dir", backend) for folder in folders]
    if validation_split is not None:
        train, held_out = zip(*map(split, corpora), strict=True)
        return mixed(train, shares), mixed(held_out, [None] * len(corpora))
    every = mixed([PlainRows(corpus, AllBut(len(corpus))) for corpus in corpora], shares)
    if validation_dir is None:
        return every, None
    held_out = open_corpus(validation_dir, "--validation_dir", backend)
    return every, PlainRows(held_out, AllBut(len(held_out)))


def split_at_places(corpus: Corpus, share: float) -> tuple[AllBut, np.ndarray]:
    """As Corpus.split_documents with other documents, in no more memory than that of the held-out rows.

    A share of the numbers that documents can have is held out, whether or not each of them has rows.
    """
    corpus.check_splittable()
    numbers = corpus.last_document + 1
    count = round(share * numbers)
    if numbers < 2 or not 0 < count < numbers:
        raise corpus.unsplittable(share, numbers)
    chosen = permuted(np.arange(count), numbers, HELD_OUT_SEED, np.zeros(count, np.int64), HELD_OUT)
    held_out = corpus.rows_of(np.sort(chosen))
    if not 0 < len(held_out) < len(corpus):
        raise corpus.unsplittable(share, numbers)
    return AllBut(len(corpus), held_out), held_out


def check_maskable(rows: Rows, special_ids: list[int], flag: str) -> None:
    """CorpusError naming `flag` when all tokens of the rows are special or unknown, so that there is nothing to mask.

    They are looked at up to the first that can be masked.
    """
    for first in range(0, len(rows), _TOGETHER):
        some = rows.rows(np.arange(first, min(first + _TOGETHER, len(rows))))
        if not np.isin(np.concatenate([row["input_ids"] for row in some]), special_ids).all():
            return
    raise CorpusError(
        f"{flag} must hold tokens to mask, got only special and unknown ones in {rows.corpus.folder}; prepare the "
        "corpus with a tokenizer that knows its text"
    )


def load_maskable_rows(data_args, tokenizer, order: str) -> tuple[Rows, Rows | None]:
    """load_rows of the flags of a corpus, all checked to have tokens that can be masked."""
    folders = data_args.train_dir, data_args.validation_dir, data_args.validation_split
    train, held_out = load_rows(*folders, tokenizer.backend_tokenizer, order)
    check_maskable(train, tokenizer.all_special_ids, "--train_dir")
    if held_out:
        check_maskable(held_out, tokenizer.all_special_ids, "--validation_dir or --validation_split")
    return train, held_out


def settle_length(rows: Rows, length: int | None) -> int:
    """Most tokens of a training row: `length`, by default those that the corpus was prepared for.

    CorpusError when a row of the corpus is longer.
    """
    longest = rows.lengths.max()
    if length is None:
        return max(longest, rows.corpus.manifest.get("settings", {}).get("max_seq_length", 0))
    if length < longest:
        raise CorpusError(
            f"--max_seq_length must be at least the {longest} tokens of the longest row of {rows.corpus.folder}, got "
            f"{length}; raise it or prepare the corpus with shorter rows"
        )
    return length
