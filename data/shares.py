"""Work that runs on any machines share, with one disk between them: their flags, their parts, and what they tell.

What one run leaves for the others is a file of JSON with its checksum before it.
"""

import argparse
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from common.errors import ArgumentError, UserError
from common.flags import FlagParser
from data.outputs import atomic_output


def add_share_flags(parser: FlagParser, merge: bool = True) -> None:
    """The flags by which several runs make one output."""
    add = parser.add_argument
    add("--shard_index", type=int, help="do one share of the work, by number from 0, on a disk that all runs share")
    add("--num_shards", type=int, help="how many shares there are")
    add("--work_dir", help="folder on that disk in which an output with a scheme is made; default: a temporary one")
    if merge:
        add("--merge", action="store_true", help="join the shares, when all of them are there")


def check_share_flags(args: argparse.Namespace) -> None:
    """ArgumentError naming the flag where they cannot go together."""
    index, count = args.shard_index, args.num_shards
    if count is not None and count < 1:
        raise ArgumentError(f"--num_shards must be at least 1, got {count}; raise it")
    if getattr(args, "merge", False):
        if index is not None:
            raise ArgumentError(f"--merge joins all shares, got --shard_index {index} beside it; leave one out")
    elif (index is None) != (count is None):
        raise ArgumentError("--shard_index and --num_shards must be given together, got one of them; add the other")
    elif index is not None and not 0 <= index < count:
        raise ArgumentError(f"--shard_index must lie in 0..{count - 1} by --num_shards, got {index}; change it")


def share_of(items: Sequence, index: int, count: int) -> Sequence:
    """Part `index` of `count` parts, in order, that differ by one item at most."""
    return items[len(items) * index // count : len(items) * (index + 1) // count]


def leave(path: Path, content: dict) -> None:
    """Write what other runs read with `take`; paths become strings, tuples lists."""
    text = json.dumps(content, default=os.fspath).encode()
    with atomic_output(path) as partial:
        partial.write_bytes(b"%d\n%s\n" % (zlib.crc32(text), text))


def take(path: Path) -> dict:
    """What a run has left. UserError naming the file when it is damaged."""
    crc, _, text = path.read_bytes().partition(b"\n")
    if crc != b"%d" % zlib.crc32(text := text.removesuffix(b"\n")):
        raise UserError(
            f"{path} must be as it was written, got a damaged one; remove {path.parent} and run what made it again"
        )
    return json.loads(text)


def refuse_changes(begun: dict, now: dict, folder: Path, flag: str) -> None:
    """UserError naming the flag whose value is another one than `folder` was begun with; `flag` names the folder."""
    for name, value in now.items():
        if begun.get(name) != value:
            raise UserError(
                f"{name} must be the same as when {folder} was begun, {begun.get(name)}, got {value}; go back to it, "
                f"or choose another {flag}"
            )
