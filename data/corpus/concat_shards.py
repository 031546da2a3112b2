"""Cut the shards of a corpus, one row per document so far, into rows of equal length that run on across everything.

The same rows as group_texts of transformers' run_mlm.py gives for all documents at once, with the remainder kept: only
the last row of the corpus is shorter. A row that begins in one shard is completed from those behind it.

Letters: L tokens of a row.
"""

from pathlib import Path

import numpy as np

from data.corpus.arrow_shards import CorpusError, read_shard, shard_name, write_shard


def group_rows(folder: Path, records: list[dict], length: int) -> list[dict]:
    """Rewrite the shards of these records, in order, with rows of `length` tokens; return the new records.

    A shard that is rewritten says so in its record, and only shards behind it, which are not yet, give it tokens: a
    run that is stopped here goes on at the first shard left.
    """
    ends = np.cumsum([record["stream"] for record in records], dtype=np.int64).tolist()
    total, grouped = ends[-1] if ends else 0, []
    for number, record in enumerate(records):
        if not record["grouped"]:
            start = -(-(ends[number] - record["stream"]) // length) * length
            stop = min(-(-ends[number] // length) * length, total)
            record = {**record, "grouped": True, "blocks": max(0, -(-(stop - start) // length))}
            _rewrite(folder, records, ends, number, start, stop, record, length)
        grouped.append(record)
    return grouped


def _rewrite(folder, records, ends, number, start, stop, record, length) -> None:
    """Make shard `number` hold the rows that begin in it, which are start:stop of the stream."""
    begin = ends[number] - record["stream"]
    _, ids, marks, offsets, documents, _ = read_shard(folder / shard_name(number))
    row_starts = np.arange(start, stop, length)
    row_documents = documents[np.searchsorted(offsets, row_starts - begin, side="right") - 1]
    parts = [(ids[start - begin :], marks[start - begin :])]
    for later in range(number + 1, len(records)):
        room = stop - ends[later - 1]
        if room <= 0 or start >= stop:
            break
        if records[later]["grouped"]:
            raise CorpusError(
                f"--output_dir {folder} must hold all shards, got one without {shard_name(number)} behind which rows "
                "were cut already; remove the folder and run the same command again"
            )
        shard = read_shard(folder / shard_name(later))
        parts.append((shard.ids[:room], shard.marks[:room]))
    ids, marks = (np.concatenate(values) for values in zip(*parts, strict=True))
    marks[row_starts - start] = 0
    lengths = np.minimum(length, stop - row_starts)
    write_shard(folder / shard_name(number), ids, marks, lengths, row_documents, record)
