"""Rows for tagging: every character (or word) of a record is tokenised on its own and never lost.

A unit is what has a tag, a character or a word. Its label stands at its first token, the others carry -100. A unit
that gives no token, such as white space or a control character, becomes [UNK]. Units of one character are taken out
of running text, so that the mark of a leading space that some tokenizers set goes; words keep the space before them.
Long records are cut into chunks of whole units, which share a quarter of their tokens: training counts a shared unit
once, evaluation averages its logits.

Letters: U units of all records, R rows, t tokens of a row, C tags.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.batches.masking import IGNORED
from data.features.rows import Building, Features, Slices, index_runs, label_id, must_be_labelled

_SHARED = 4  # neighbouring chunks share one in so many of their tokens


@dataclass
class TagFeatures(Features):
    """Chunks of units.

    units int64 [R, 2]: the first unit of each row and one past its last; fresh int64 [R]: its first unit that the row
    before does not hold; starts int64 [U + 1]: where among the tokens of all records each unit begins; first_units
    int64 [N + 1]: of each record; tags int64 [U], None when a record has none; offset: of a row's first unit in it.
    """

    units: np.ndarray | None = None
    fresh: np.ndarray | None = None
    starts: np.ndarray | None = None
    first_units: np.ndarray | None = None
    tags: np.ndarray | None = None
    offset: int = 0

    def _positions(self, row: int) -> np.ndarray:
        """Where in the row each of its units begins."""
        first, last = self.units[row].tolist()
        return self.offset + self.starts[first:last] - self.starts[first]

    def _targets(self, index: int, row: dict) -> dict:
        if self.tags is None:
            return {}
        labels = np.full(len(row["input_ids"]), IGNORED, np.int64)
        (first, last), fresh = self.units[index].tolist(), int(self.fresh[index])
        labels[self._positions(index)[fresh - first :]] = self.tags[fresh:last]
        return {"labels": labels}

    def combine(self, logits: Sequence[np.ndarray]) -> list[np.ndarray]:
        """logits: [t, C] or longer of each row."""
        classes = np.shape(logits[0])[-1]
        total, rows = np.zeros((len(self.starts) - 1, classes)), np.zeros((len(self.starts) - 1, 1))
        for row, scores in enumerate(logits):
            here = slice(*self.units[row].tolist())
            total[here] += np.asarray(scores)[self._positions(row)]
            rows[here] += 1
        return np.split((total / rows).astype(np.float32), self.first_units[1:-1])


def tag_features(task, records: Sequence[dict], building: Building) -> TagFeatures:
    """Chunks of every record."""
    units = [unit for record in records for unit in record["chars"]]
    room = building.room(paired=False)
    tokens = _unit_tokens(units, building, room)
    starts = np.append(0, np.cumsum(tokens.counts))
    first_units = np.append(0, np.cumsum([len(record["chars"]) for record in records])).astype(np.int64)
    rows = [
        (index, *chunk)
        for index, (first, last) in enumerate(zip(first_units[:-1].tolist(), first_units[1:].tolist(), strict=True))
        for chunk in _chunks(starts, first, last, room)
    ]
    record, first, last, fresh = np.array(rows, np.int64).reshape(-1, 4).T
    before, after = (Slices.constant(items, len(rows)) for items in building.frame.single)
    chunk = Slices(tokens.flat[index_runs(tokens.begins, tokens.counts)], starts[first], starts[last] - starts[first])
    return TagFeatures(
        kind=task.kind,
        records=len(records),
        record=record,
        parts=(before, chunk, after),
        marks=building.frame.single_marks if building.token_types else None,
        truncated=float((np.bincount(record) > 1).mean()),
        units=np.stack([first, last], axis=1),
        fresh=fresh,
        starts=starts,
        first_units=first_units,
        tags=_tag_ids(task, records, building),
        offset=len(building.frame.single[0]),
    )


def _unit_tokens(units: list[str], building: Building, room: int) -> Slices:
    """Ids of each unit, at least one and at most `room`."""
    tokenizer = building.tokenizer
    are_words = any(len(unit) > 1 for unit in units)
    texts = [f" {unit}" for unit in units] if are_words else units
    tokens = building.texts(texts).slices(texts)
    flat, begins, counts = tokens.flat, tokens.begins.copy(), tokens.counts.copy()
    space = tokenizer.convert_tokens_to_ids("\u2581")
    if not are_words and space not in (None, tokenizer.unk_token_id):
        led = (counts > 1) & (flat[np.minimum(begins, len(flat) - 1)] == space)
        begins, counts = begins + led, counts - led
    unknown = tokenizer.pad_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    begins[counts == 0] = len(flat)
    return Slices(np.append(flat, np.int32(unknown)), begins, counts.clip(1, room))


def _chunks(starts: np.ndarray, first: int, last: int, room: int) -> Iterator[tuple[int, int, int]]:
    """Units first ... last - 1 in chunks of up to `room` tokens: where each begins and ends, and what is new."""
    begin = fresh = first
    while True:
        end = min(int(np.searchsorted(starts, starts[begin] + room, side="right")) - 1, last)
        yield begin, end, fresh
        if end == last:
            return
        fresh = end
        # What is shared must leave room for the next unit.
        begin = int(np.searchsorted(starts, max(starts[end] - room // _SHARED, starts[end + 1] - room)))


def _tag_ids(task, records: Sequence[dict], building: Building) -> np.ndarray | None:
    for record in records:
        if record["tags"] is None:
            must_be_labelled(task, record, building)
            return None
    return np.array([label_id(tag, building.label_ids) for record in records for tag in record["tags"]], np.int64)
