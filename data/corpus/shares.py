"""A corpus made in shares, by runs on any machines with one disk between them: which part each does, and the joining.

A run with --shard_index makes a part of the shards in a folder of its own, OUTPUT/shares/00003; one with --merge moves
all of them to OUTPUT, which then is what a single run writes. The first run reads the inputs and leaves a plan beside
these folders, so that they are read once, and a column of a table with it, so that it is converted once.
"""

import argparse
import math
import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from common.errors import ArgumentError
from data.corpus.arrow_shards import CorpusError, check_sum, read_arrow, shard_name
from data.corpus.chinese_ref_files import REFERENCE
from data.corpus.concat_shards import group_rows
from data.corpus.manifest import MANIFEST, known_checksums, read_manifest
from data.corpus.output_folder import begin, finish, locked_output
from data.corpus.preparation import Preparer, count_unknown, prepare_units
from data.corpus.sources import LineSource, Source, Span, TableSource, Unit
from data.outputs import atomic_output
from data.shares import leave, refuse_changes, share_of, take
from data.unchanged_inputs import Stamp

SHARES = "shares"
PLAN, COLUMN, RESULT = "plan.json", "column.arrow", "share.json"


def share_folder(folder: Path, index: int) -> Path:
    return folder / SHARES / f"{index:05d}"


class Work(NamedTuple):
    """What a run does: it writes to `folder`; `scan` gives the inputs of the corpus and the units that are its own.

    index: of its share, if it makes one; shares: how many it joins, if it joins.
    """

    folder: Path
    source: Source
    scan: Callable[[], tuple[list[dict], list[Unit]]]
    index: int | None = None
    shares: int | None = None


def plan_work(
    folder: Path, args: argparse.Namespace, typed: dict, terms: tuple, open_source: Callable[[], Source]
) -> Work | None:
    """What the flags of `add_share_flags` ask of this run; None, with a line, where the corpus is joined already.

    typed: the flags that name the inputs, with their values; terms: of `begin`, behind the inputs.
    CorpusError where the shares were begun otherwise.
    """
    if args.num_shards is None and not args.merge:
        if (folder / SHARES).is_dir():
            raise CorpusError(
                f"--output_dir must not have been begun in shares, got {str(folder)!r}; go on with --shard_index and "
                f"--num_shards or with --merge, or remove {folder / SHARES}"
            )
        source = open_source()
        return Work(folder, source, cache(source.scan))
    path = folder / SHARES / PLAN
    if not path.is_file():
        if (folder / MANIFEST).is_file() and (manifest := read_manifest(folder, "--output_dir"))["complete"]:
            begin(folder, open_source().scan()[0] if args.merge else manifest["inputs"], *terms)
            shutil.rmtree(folder / SHARES, ignore_errors=True)
            print(f"nothing to do: {folder} is finished", file=sys.stderr)
            return None
        if args.merge:
            raise CorpusError(f"--merge needs shares, got none in {str(folder)!r}; make them with --shard_index first")
        with locked_output(folder, patience=math.inf):
            if not path.is_file():  # another run may have written it meanwhile
                _write_plan(path, args.num_shards, typed, terms, open_source())
    plan = take(path)
    count, source = plan["num_shards"], _load_source(plan["source"], path.parent)
    units = [
        Unit(number, document, tuple(Span(Path(name), *place) for name, *place in spans), size)
        for number, document, spans, size in plan["units"]
    ]
    now = {"--num_shards": args.num_shards or count, **typed}
    refuse_changes({"--num_shards": count, **plan["typed"]}, now, folder, "--output_dir")
    begin(folder, plan["inputs"], *terms)
    index = args.shard_index
    own = units if args.merge else share_of(units, index, count)
    target = folder if args.merge else share_folder(folder, index)
    return Work(target, source, lambda: (plan["inputs"], own), index, count if args.merge else None)


def _write_plan(path: Path, count: int, typed: dict, terms: tuple, source: Source) -> None:
    inputs, units = source.scan()
    begin(path.parent.parent, inputs, *terms)
    state = _save_source(source, path.parent)
    leave(path, {"num_shards": count, "typed": typed, "inputs": inputs, "source": state, "units": units})


def _save_source(source: Source, folder: Path) -> dict:
    """What `_load_source` makes the source of again, on another machine."""
    if isinstance(source, LineSource):
        return {"key": source.key, "files": [[path, *stamp] for path, stamp in source.stamps.items()]}
    with atomic_output(folder / COLUMN) as partial:
        schema = pa.schema([("text", source.column.type)])
        with pa.OSFile(os.fsencode(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
            for chunk in source.column.chunks:
                out.write_batch(pa.record_batch([chunk], schema=schema))
    return {"name": source.name}


def _load_source(state: dict, folder: Path) -> Source:
    if "files" in state:
        stamps = {Path(name): Stamp(*values) for name, *values in state["files"]}
        return LineSource(list(stamps), Path(), state["key"], stamps)
    with pa.memory_map(os.fsencode(folder / COLUMN)) as mapped:  # the map outlives the open file
        return TableSource(pa.ipc.open_stream(mapped).read_all().column(0), state["name"], [folder / COLUMN])


def make_corpus(
    work: Work,
    terms: tuple,
    make_preparer: Callable[[Path], Preparer],
    workers: int,
    below: str = "",
    flag: str = "--workers",
    log_interval: int = 100,
    row_length: int | None = None,
) -> tuple[dict, int] | None:
    """Write a corpus, in `below` the folder of `work`; return manifest and unknown tokens, of a share None.

    terms: of `begin`, behind the inputs; row_length: of rows that run on across documents; the rest as prepare_units.
    """
    folder, sums, unknown = work.folder / below, None, None
    with locked_output(folder):
        inputs, units = work.scan()
        manifest, preparer = begin(folder, inputs, *terms), make_preparer(folder)
        if work.shares:
            shares = [share_folder(work.folder, index) / below for index in range(work.shares)]
            records, unknown, sums = _join(folder, shares, units, terms, preparer.skip_errors)
        elif (folder / RESULT).is_file():  # what is here may be moved by now
            return None
        else:
            records = prepare_units(preparer, units, workers, log_interval, flag)
        if work.index is not None:
            _finish_share(folder, preparer, records)
            return None
        if not any(record["tokens"] for record in records):
            raise ArgumentError(
                f"{terms[-1][0]} must hold text for {folder}, got no token to write; check the input and what is left "
                "out of it"
            )
        if preparer.reference:
            preparer.reference.finish(len(units))
        if row_length is not None:
            records, sums = group_rows(folder, records, row_length), None
        manifest = finish(folder, manifest, records, sums)
        if unknown is None:
            names = [shard["file"] for shard in manifest["shards"]]
            unknown = count_unknown(folder, names, preparer.tokenizer.unknown_id)
    return manifest, unknown


def _finish_share(folder: Path, preparer: Preparer, records: list[dict]) -> None:
    """Write what says that a share is finished: which units, and the checksums of all its shards, read once more."""
    known, names = known_checksums(folder), [shard_name(record["unit"]) for record in records]
    files = [*names, *(f"{REFERENCE}/{name}" for name in names if preparer.reference)]
    result = {
        "units": [record["unit"] for record in records],
        "unknown": count_unknown(folder, names, preparer.tokenizer.unknown_id),
        "crc32": {name: check_sum(folder / name, known.get(folder / name)) for name in files},
    }
    leave(folder / RESULT, result)


def _join(folder: Path, shares: list[Path], units: list[Unit], terms: tuple, skip_errors: bool):
    """Move the shards of all shares to `folder`, where some may be already; CorpusError when a share does not fit.

    Returns the records of all units, the number of unknown tokens and the checksums of all files, by name.
    """
    inputs, results = read_manifest(folder, "--output_dir")["inputs"], []
    for index, share in enumerate(shares):
        if not (share / RESULT).is_file():
            raise CorpusError(
                f"--merge needs all {len(shares)} shares, got number {index} missing or unfinished in {share}; run the"
                f" same command with --shard_index {index} --num_shards {len(shares)}"
            )
        begin(share, inputs, *terms)
        results.append(take(share / RESULT))
        if results[-1]["units"] != [unit.number for unit in share_of(units, index, len(shares))]:
            raise CorpusError(f"{share} must have the units of share {index}, got others; remove it and make it again")
    for share, result in zip(shares, results, strict=True):
        with locked_output(share):
            for name in result["crc32"]:
                _move(share / name, folder / name)
    records = [read_arrow(folder / shard_name(unit.number), whole=False)[0] for unit in units]
    if not skip_errors and (skipped := sum(record["skipped_lines"] for record in records)):
        raise CorpusError(f"--on_error must be skip, with which shares left out {skipped} lines, got fail; change it")
    sums = {name: crc for result in results for name, crc in result["crc32"].items()}
    return records, sum(result["unknown"] for result in results), dict(sorted(sums.items()))


def _move(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(exist_ok=True)
        os.replace(source, target)
    elif not target.is_file():
        raise CorpusError(
            f"{source} must stay until it is merged, got it removed; remove {source.parent} and make it again"
        )


def drop_shares(work: Work) -> None:
    """Remove what only the joining needed."""
    if work.shares:
        shutil.rmtree(work.folder / SHARES)


def describe_share(work: Work) -> str:
    _, units = work.scan()
    size = sum(unit.size for unit in units)
    return f"share {work.index} is finished: {len(units):,} shards of {size:,} bytes of input in {work.folder}"
