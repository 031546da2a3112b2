"""What it takes to open a corpus of two billion rows and to begin a run on it: seconds and memory, one row each.

The run's rows are those of the corpus, and those that --packing and run_electra.py make of them.

    python benchmarks/large_corpus.py         10,000 shards of 200,000 rows; three minutes, 0.4 GB of disk
    python benchmarks/large_corpus.py --tiny  a few seconds

The corpus has --files real shards (random ids, rows of 16 to 112 tokens) under --shards names, as hard links: the page
cache holds what is read, so that a cold disk's time comes on top. Each round is a fresh process. A process's own
memory is what it alone has written; the maps of shards are pages of files, which the processes of a machine share.
Computed rows say so.
"""

import argparse
import multiprocessing
import operator
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import add_options, report
from data.batches.corpora import check_maskable, load_rows, settle_length
from data.batches.electra_rows import electra_rows
from data.batches.masking import make_collator
from data.batches.packing import pack
from data.batches.sampling import EpochRows, make_train_batches
from data.corpus.arrow_shards import checksum, shard_name, write_shard
from data.corpus.manifest import FORMAT, write_manifest
from data.corpus.store import Corpus
from data.tokens.tokenizer_files import tokenizer_hash

ENTRIES = 21_128  # of the vocabulary of Chinese BERT
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
LENGTH = 128  # of rows that are made of those of the corpus
KINDS = ("as they are", "--packing concat", "--packing isolated", "--electra_data packed")
LOADERS = 48  # processes: 8 that train, with 6 workers each


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL.values(), *(f"w{number}" for number in range(ENTRIES - len(SPECIAL)))]
    backend = Tokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    frame = [(token, words.index(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def make_corpus(folder: Path, args) -> None:
    rng, described, sums, blocks = np.random.default_rng(0), [], {}, args.rows
    for number in range(args.shards):
        path, real = folder / shard_name(number), folder / shard_name(number % args.files)
        if number < args.files:
            lengths = rng.integers(16, 113, blocks)
            ids = rng.integers(len(SPECIAL), ENTRIES, lengths.sum(), np.uint16)
            marks, ends = rng.integers(0, 2, len(ids), np.uint8), np.cumsum(lengths)
            for places, token in ((ends - lengths, "[CLS]"), (ends - 1, "[SEP]")):
                ids[places], marks[places] = list(SPECIAL.values()).index(token), 0
            marks[ends - lengths + 1] = 0
            write_shard(path, ids, marks, lengths, np.zeros(blocks, np.int64), {})
            sums[path.name] = checksum(path)
        else:
            os.link(real, path)
            sums[path.name] = sums[real.name]
        described.append({"file": path.name, "bytes": path.stat().st_size, "blocks": blocks})
    backend = make_tokenizer().backend_tokenizer
    tokenizer = {"name": "words", "hash": tokenizer_hash(backend), "size": ENTRIES}
    manifest = {"format": FORMAT, "complete": True, "tokenizer": tokenizer, "settings": {"max_seq_length": 112}}
    write_manifest(folder, manifest | {"shards": described}, sums)


def memory(process: int | str = "self") -> dict[str, float]:
    """MB of a process: resident in all, written by it alone, and in pages of files; and how many maps it has."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    sizes = {name: int(rest.split()[0]) / 1024 for name, rest in (line.split(":") for line in lines)}
    maps = len(Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines())
    return {
        "rss": sizes["Rss"],
        "own": sizes["Private_Dirty"],
        "files": sizes["Rss"] - sizes["Anonymous"],
        "maps": maps,
    }


def open_corpus(folder: Path) -> dict[str, float]:
    before, start, cpu = memory(), time.perf_counter(), time.process_time()
    corpus = Corpus(folder)
    seconds, cpu, after = time.perf_counter() - start, time.process_time() - cpu, memory()
    sizes = {"rss": after["rss"], "growth": after["rss"] - before["rss"]}
    return {"rows": len(corpus), "seconds": seconds, "cpu": cpu, **sizes}


class Run:
    """What make_train_batches reads of RunArguments."""

    train_batch_size, gradient_accumulation_steps, data_processes, data_process = 32, 1, 1, 0
    max_steps, seed, data_seed, row_order, train_sampling_strategy = 10**6, 1, None, "permuted", "random"


def make_rows(kind: str, plain, backend: Tokenizer):
    """One of KINDS."""
    if kind == KINDS[0]:
        return plain
    flag, name = kind.split()
    if flag == "--packing":
        return pack(plain, name, LENGTH, backend, chunked=True)
    return electra_rows(plain, name, LENGTH, backend, seed=1, chunked=True)


def begin_run(folder: Path, workers: int, batches: int, kind: str) -> dict:
    """Seconds from opening to the first batch, and the memory of the process and of a worker some batches later."""
    tokenizer, start, cpu = make_tokenizer(), time.perf_counter(), time.process_time()
    plain, _ = load_rows(str(folder), None, None, tokenizer.backend_tokenizer)
    check_maskable(plain, tokenizer.all_special_ids, "--train_dir")
    settle_length(plain, None)
    rows = make_rows(kind, plain, tokenizer.backend_tokenizer)
    micro_batches = make_train_batches(Run, rows, plain, 8)
    collator = make_collator(tokenizer, ENTRIES, "word", 8, seed=1)
    others = {child.pid for child in multiprocessing.active_children()}
    options = {"batch_sampler": micro_batches, "collate_fn": collator, "num_workers": workers}
    loader = iter(DataLoader(EpochRows(rows), multiprocessing_context="fork", **options))
    next(loader)
    first, cpu = time.perf_counter() - start, time.process_time() - cpu
    begun = time.perf_counter()
    for _ in range(batches):
        next(loader)
    each = (time.perf_counter() - begun) / batches
    worker = memory(next(child.pid for child in multiprocessing.active_children() if child.pid not in others))
    return {"seconds": first, "cpu": cpu, "each": each, "process": memory(), "worker": worker}


def quickest(args, function, *arguments) -> dict:
    """What the round said that took the least time; each is a fresh process."""
    if args.tiny:
        return function(*arguments)
    return min((in_fresh(function, *arguments) for _ in range(args.rounds)), key=operator.itemgetter("seconds"))


def in_fresh(function, *arguments):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # whose processes may have children
        return pool.submit(function, *arguments).result()


def spent(measured: dict) -> str:
    return f"{measured['seconds']:.2f} s ({measured['cpu']:.2f} s of CPU)"


def rows(args):
    with tempfile.TemporaryDirectory(dir=args.corpus_dir) as name:
        folder = Path(name)
        make_corpus(folder, args)
        os.sync()  # no measurement waits for the disk that takes all this
        opened = quickest(args, open_corpus, folder)
        yield {"what": "rows of the corpus", "asked": "2 billion", "measured": f"{opened['rows']:,}"}
        yield {"what": "shards", "asked": "10,000", "measured": f"{args.shards:,}"}
        yield {"what": "opening", "asked": "2 s", "measured": spent(opened)}
        text = f"{opened['rss']:.0f} MB, {opened['growth']:.0f} MB more than before"
        yield {"what": "memory of the process that has opened it", "asked": "300 MB", "measured": text}
        runs = {}
        for kind in KINDS:
            runs[kind] = run = quickest(args, begin_run, folder, args.workers, args.batches, kind)
            what = f"rows {kind}: from opening to the first batch"
            yield {"what": what, "asked": "5 s", "measured": spent(run)}
            text = f"{run['process']['own']:.0f} MB of its own, {run['worker']['own']:.0f} MB a loader worker"
            text += f", {1000 * run['each'] / 32:.2f} ms a row"
            yield {"what": f"rows {kind}: memory after {args.batches} batches of 32", "asked": "", "measured": text}
    process, worker = (runs[KINDS[0]][name] for name in ("process", "worker"))
    for name, own in (("training process", process), ("loader worker", worker)):
        text = f"{own['own']:.0f} MB of its own, {own['files']:.0f} MB of files, {own['maps']:,} maps"
        yield {"what": f"a {name} after {args.batches} batches of 32", "asked": "", "measured": text}
    text = f"{LOADERS * worker['own'] / 1000:.1f} GB of their own; their maps are the same pages"
    yield {"what": f"computed: {LOADERS} loader workers", "asked": "", "measured": text}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=200_000, help="of a shard")
    parser.add_argument("--files", type=int, default=8, help="shards that are written; the others are links to them")
    parser.add_argument("--workers", type=int, default=2, help="loader workers of the run")
    parser.add_argument("--batches", type=int, default=1000, help="after which memory is measured")
    parser.add_argument("--rounds", type=int, default=3, help="of which the quickest counts")
    parser.add_argument("--corpus_dir", default=None, help="where the corpus lies meanwhile; default: the usual place")
    parser.add_argument("--tiny", action="store_true", help="20 shards of 300 rows, 5 batches, no fresh processes")
    add_options(parser)
    args = parser.parse_args(argv)
    if args.tiny:
        args.shards, args.rows, args.batches, args.workers = 20, 300, 5, 1
    report("large_corpus", rows(args), argv, args)


if __name__ == "__main__":
    main()
