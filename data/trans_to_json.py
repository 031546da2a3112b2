"""Turn a folder or file of text into one shuffled JSONL file.

    python data/trans_to_json.py --input_path docs --output_path outputs/mine/all.jsonl --min_doc_length 4

Every file below the folder is read, in sorted order. Documents are separated by blank lines (--doc_spliter) or stand
in JSON lines (--json_field), and are written as {"text": ...}, one a line. The order depends on the documents' places
and on --seed alone. Memory does not grow with the corpus: sorting is done in a temporary folder beside the output,
which takes as much disk space as the output. The output appears when it is complete, and not before.
Source: the pipeline of PaddleNLP's trans_to_json.py, whose flags it keeps; it never writes beside the inputs.
"""

import argparse
import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # started as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    import common.script  # noqa: F401  no traceback of Ctrl-C amid the slow imports

from tqdm import tqdm

from common.errors import UserError
from common.flags import FlagParser
from common.script import run_script, tell_next
from data.files import input_files, refuse_foreign, refuse_json
from data.outputs import atomic_folder, held, is_temporary, put_in_place, resolve_output, telling, temporary_folder
from data.shares import add_share_flags, check_share_flags, leave, refuse_changes, take
from data.staging import sent_away
from data.text.external_sort import BUCKET_BYTES, Buckets, position_keys
from data.text.overlap import Overlap
from data.text.parallel_reader import Counts, Job, count_lengths, read_all
from data.text.raw_documents import Layout, split_units
from data.text.shared_sort import READ, REORDER, SORT, SharedSort
from data.text.streams import Streamed, input_streams
from data.unchanged_inputs import Stamp, stamp

JOIN = "join"  # the last step, which one run does
PLAN, LOCK, LOCK_SECONDS = "plan.json", ".lock", 10.0


def build_parser() -> FlagParser:
    """Return the parser of the command line."""
    parser = FlagParser(doc=__doc__)
    add = parser.add_argument
    add("--input_path", required=True, help="file, or folder of which every file is read")
    add("--output_path", required=True, help="JSONL file to write (.jsonl is appended), or folder with --no-merge")
    add("--json_key", alone=True, default="text", help="key to write each document under")
    add("--doc_spliter", default="", help="line that ends a document, default blank; 'line': each line is a document")
    add(
        "--json_field",
        "--text_column",
        "--text_column_name",
        help="inputs are JSON lines: the key to read documents from",
    )
    add("--min_doc_length", type=int, default=10, help="drop documents of this many characters or fewer")
    add("--workers", type=int, default=1, help="processes that read")
    add("--log_interval", type=float, default=1, help="seconds between updates of the progress bar")
    add("--no-merge", action="store_true", help="write a folder of parts, each of about 32 MB")
    add("--no-shuffle", action="store_true", help="keep the order of the inputs")
    add("--seed", type=int, default=1234, help="seed of the shuffle")
    add("--encoding", default="utf-8", help="encoding of the inputs; the output is UTF-8")
    add("--on_error", choices=("fail", "skip"), default="fail", help="for bytes or JSON that cannot be read")
    add("--dedup", action="store_true", help="of equal documents keep the first")
    add("--exclude", help="evaluation files, comma separated: drop documents that repeat their texts")
    add_share_flags(parser, merge=False)
    add("--step", choices=(READ, REORDER, SORT, JOIN), help="do this one of the steps that many runs share")
    return parser


def write(buckets: Buckets, job: Job, target: Path, merge: bool, log_interval: float) -> tuple[int, int]:
    """Empty the buckets into the file `target`, or a part each into the folder; return documents and characters."""
    if not merge:
        target.mkdir()
    documents = characters = 0
    with tqdm(desc="writing", unit="B", unit_scale=True, mininterval=log_interval) as bar:
        for number, (records, payloads) in enumerate(buckets.take(distinct=job.dedup)):
            with (target if merge else target / f"part-{number:05d}.jsonl").open("ab") as file:
                file.writelines(payloads)
                file.flush()
                os.fsync(file.fileno())
            documents += len(records)
            characters += int(records["characters"].sum())
            bar.update(int(records["length"].sum()))
    return documents, characters


def in_input_order(buckets: Buckets, job: Job) -> Buckets:
    """Move documents, without duplicates, from buckets by content to buckets by position."""
    ordered = Buckets(buckets.folder.with_name("ordered"), buckets.count)
    for records, payloads in buckets.take(distinct=True):
        position_keys(records, job.total)
        ordered.add(records, list(payloads))
    return ordered


def are_parts(files: list[Path]) -> bool:
    """Whether these files are what --no-merge writes: numbered without gaps, lines with one text each."""
    for number, file in enumerate(sorted(files, key=lambda file: (len(file.name), file.name))):
        if file.name != f"part-{number:05d}.jsonl" or not file.is_file():
            return False
        with file.open("rb") as lines:
            try:
                record = json.loads(lines.readline())
            except (ValueError, RecursionError):
                return False
        if not (isinstance(record, dict) and [type(text) for text in record.values()] == [str]):
            return False
    return True


def check_output(args: argparse.Namespace) -> Path:
    """Return the path that --output_path stands for; ValueError where something that is not ours is in the way."""
    path = args.output_path
    if not args.no_merge:
        output = Path(path if path.endswith(".jsonl") else f"{path}.jsonl")
        if output.is_dir() or Path(path).is_dir():
            raise UserError(f"--output_path must name a file, got the folder {path!r}; add a name or --no-merge")
        if output.exists() and not output.is_file():
            raise UserError(f"--output_path must name a file, got {str(output)!r}, a device; choose another name")
        return resolve_output(output)
    output = resolve_output(path)
    if output.exists() and not (output.is_dir() and are_parts(list(output.iterdir()))):
        raise UserError(
            "--output_path must, with --no-merge, name a new folder or one that holds nothing but parts of this "
            f"script, got {path!r}; choose another name"
        )
    return output


def select_inputs(args: argparse.Namespace, output: Path, sent: str | None) -> list[Path | Streamed]:
    """Return the input files: in a folder, all but what this script has written there, now or in an earlier run.

    sent: where the output goes, if elsewhere.
    """
    files = input_streams(args.input_path, "--input_path", args.json_field)
    own = output.resolve()
    if files == [Path(args.input_path)]:
        if files[0].resolve() == own:
            raise UserError(f"--output_path must differ from --input_path, got {args.output_path!r} for both")
        return check_inputs(args, files)
    kept = []
    for file in files:
        path = Path(str(file)).resolve()
        if path == own or {own, steps_folder(own)} & {*path.parents} or any(map(is_temporary, path.parents)):
            continue
        if sent and isinstance(file, Streamed) and file.lies_in(sent, output.name):
            continue
        if file.suffix == ".jsonl" and args.json_field is None:
            print(f"left out: {file} (read JSON lines with --json_field)", file=sys.stderr)
            continue
        kept.append(file)
    if not kept:
        raise UserError(
            f"--input_path must hold at least one text file, got {args.input_path!r}; check the path, or read JSON "
            "lines with --json_field"
        )
    return check_inputs(args, kept)


def check_inputs(args: argparse.Namespace, files: list[Path | Streamed]) -> list[Path | Streamed]:
    """Return the files without those that are no text, which --on_error skip leaves out; ValueError otherwise."""
    kept = []
    for file in files:
        try:
            refuse_foreign([file], "--input_path")
        except UserError as error:
            if args.on_error == "fail":
                raise
            print(f"left out: {error}", file=sys.stderr)
        else:
            kept.append(file)
    if args.json_field is None:
        refuse_json(kept, "--input_path", "name the key of the text with --json_field", args.encoding)
    return kept


def warn_of_whole_files(counts: Counts) -> None:
    """Print that one document is a large share of the text, as where each line was meant to be one."""
    if counts.lines > 1 and counts.largest * 10 > counts.characters:
        print(
            f"warning: one document of {counts.lines:,} lines holds {counts.largest / counts.characters:.0%} of the "
            "text; if each line is a document, add --doc_spliter line",
            file=sys.stderr,
        )


def report(files: list[Path], overlap: Overlap, counts: Counts) -> None:
    """Print what --exclude found of each file, and where."""
    totals, repeated = overlap.line_counts, overlap.lines_found(counts.runs)
    for file, total, lines, documents in zip(files, totals, repeated, counts.per_file, strict=True):
        print(f"{file}: {lines:,} of {total:,} lines found in {documents:,} documents")


def job_of(args: argparse.Namespace, total: int, folder: Path, overlap: Path | None) -> Job:
    """What reading processes must know. total: bytes of all inputs; folder: of buckets; overlap: of --exclude."""
    return Job(
        layout=Layout(args.doc_spliter, args.json_field, args.encoding),
        key=args.json_key,
        min_length=args.min_doc_length,
        skip_errors=args.on_error == "skip",
        dedup=args.dedup,
        shuffle=not args.no_shuffle,
        seed=args.seed,
        overlap=overlap,
        folder=folder,
        bucket_count=1 + total // BUCKET_BYTES,
        total=total,
    )


def excluded_files(args: argparse.Namespace) -> list[Path]:
    """The files of --exclude."""
    files = [file for path in (args.exclude or "").split(",") if path for file in input_files(path, "--exclude", "")]
    refuse_foreign(files, "--exclude")
    return files


def sort_here(args: argparse.Namespace, output: Path, sent: str | None) -> None:
    """The whole of the work in one run. sent: where the output goes, if elsewhere."""
    files = count_lengths(select_inputs(args, output, sent), args.workers, args.log_interval)
    units, excluded = split_units(files), excluded_files(args)
    unchanged = f"{output} is as it was before; mend that and run the same command again"
    with telling(unchanged), temporary_folder(output) as folder:
        if excluded:
            Overlap.build(excluded).save(folder / "overlap")
        total = sum(unit.end - unit.start for unit in units)
        job = job_of(args, total, folder / "buckets", folder / "overlap" if excluded else None)
        buckets = by_content = Buckets(job.folder, job.bucket_count)
        counts = read_all(job, units, args.workers, args.log_interval)
        if args.dedup and args.no_shuffle:
            buckets = in_input_order(buckets, job)
        sizes = write(buckets, job, folder / "result", not args.no_merge, args.log_interval)
        counts.duplicates += by_content.dropped
        finish(args, output, folder, job, counts, sizes[0])
    summarise(args, output, counts, *sizes)


def finish(args: argparse.Namespace, output: Path, folder: Path, job: Job, counts: Counts, documents: int) -> None:
    """Put the result in this temporary folder in its place, and tell what --exclude found."""
    if not documents:
        raise UserError(
            f"--input_path must hold a document that is not left out, got none in {args.input_path!r}, "
            f"{counts.short:,} too short, {counts.excluded:,} excluded, {counts.skipped:,} skipped for errors; "
            "check --doc_spliter and --min_doc_length"
        )
    put_in_place(folder, output)
    if job.overlap:
        report(excluded_files(args), Overlap.load(job.overlap), counts)


def summarise(args: argparse.Namespace, output: Path, counts: Counts, documents: int, characters: int) -> None:
    """Tell what was written and what was left out."""
    print(
        f"{documents:,} documents, {characters:,} characters written to {output}; "
        f"left out: {counts.duplicates:,} duplicates, {counts.excluded:,} excluded, {counts.short:,} too short, "
        f"{counts.skipped:,} skipped for errors"
    )
    tell_next("data/train_tokenizer.py", "--input_path", output, "--output_dir", output.with_name("tokenizer"))
    if args.json_field is None and args.doc_spliter != "line":
        warn_of_whole_files(counts)


def sort_in_steps(args: argparse.Namespace, output: Path, sent: str | None) -> None:
    """One step of the work, or a share of it, in a folder beside the output that all runs see. sent: as sort_here."""
    folder = steps_folder(output)
    busy = UserError(f"--output_path must be free, got {str(folder)!r} held by another run; wait for it to end")
    if args.step == JOIN and not (folder / PLAN).is_file():
        if sent and output.exists():  # joined by a run that was killed before all of it was sent
            return
        raise UserError(f"--step {JOIN} needs what the other steps write, got none in {str(folder)!r}; run them first")
    folder.mkdir(parents=True, exist_ok=True)
    kept = f"what is finished stays in {folder}; mend that and run the same command again to go on"
    with telling(kept):
        if not (folder / PLAN).is_file():
            with held(folder / LOCK, busy, math.inf):
                if not (folder / PLAN).is_file():  # another run may have written it meanwhile
                    write_plan(args, output, folder / PLAN, sent)
        shared = shared_sort(args, folder)
        if args.step != JOIN:
            shared.run(args.step, args.shard_index, args.workers, args.log_interval)
            print(f"share {args.shard_index} of {args.num_shards} of --step {args.step} is finished in {folder}")
            return
        with held(folder / LOCK, busy, LOCK_SECONDS), temporary_folder(output) as temporary:
            counts, *sizes = shared.join(temporary / "result")
            finish(args, output, temporary, shared.job, counts, sizes[0])
            shutil.rmtree(folder)
    summarise(args, output, counts, *sizes)


def steps_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.shares")


def asked(args: argparse.Namespace) -> dict:
    """The flags that decide what is written, with their values."""
    others = {"output_path", "work_dir", "workers", "log_interval", "step", "shard_index"}
    return {
        f"--{name}".replace("--no_", "--no-"): value
        for name, value in sorted(vars(args).items())
        if name not in others
    }


def write_plan(args: argparse.Namespace, output: Path, path: Path, sent: str | None) -> None:
    """What the first run leaves for all others: the index of --exclude, the inputs as they are now, and the flags."""
    if excluded := excluded_files(args):
        with atomic_folder(path.with_name("exclude")) as exclude:
            Overlap.build(excluded).save(exclude / "overlap")
    files = count_lengths(select_inputs(args, output, sent), args.workers, args.log_interval)
    stamps = [[vars(file) if isinstance(file, Streamed) else file, *stamp(file)] for file in files]
    leave(path, {"asked": asked(args), "files": stamps})


def shared_sort(args: argparse.Namespace, folder: Path) -> SharedSort:
    """UserError naming a flag that was another one when the folder was begun."""
    plan = take(folder / PLAN)
    count = plan["asked"]["--num_shards"]
    refuse_changes(plan["asked"], asked(args) | {"--num_shards": args.num_shards or count}, folder, "--output_path")
    stamps = {Streamed(**file) if isinstance(file, dict) else Path(file): Stamp(*now) for file, *now in plan["files"]}
    units = split_units(list(stamps), stamps)
    total = sum(unit.end - unit.start for unit in units)
    job = job_of(args, total, folder, folder / "exclude" / "overlap" if args.exclude else None)
    return SharedSort(folder, job, units, count, args.no_merge)


def check(args: argparse.Namespace) -> None:
    """UserError naming the flag whose value cannot work."""
    for flag, least in (("workers", 1), ("min_doc_length", 0)):
        if getattr(args, flag) < least:
            raise UserError(f"--{flag} must be at least {least}, got {getattr(args, flag)}; raise it")
    Layout(args.doc_spliter, args.json_field, args.encoding)
    check_share_flags(args)
    if args.step in (None, JOIN) and args.shard_index is not None:
        raise UserError("--shard_index needs the step that it is a share of; add --step read, reorder or sort")
    if args.step not in (None, JOIN) and args.shard_index is None:
        raise UserError(f"--step {args.step} is shared; add --shard_index and --num_shards")


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv`. ValueError naming the flag or file:line on input that cannot be used."""
    args = build_parser().parse_args(argv)
    check(args)
    with sent_away(args, "output_path") as sent:
        output = check_output(args)
        if args.step is None:
            sort_here(args, output, sent)
        else:
            sort_in_steps(args, output, sent)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder is removed
    run_script(main)
