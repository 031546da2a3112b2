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
import os
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
from data.outputs import is_temporary, put_in_place, resolve_output, telling, temporary_folder
from data.text.external_sort import BUCKET_BYTES, Buckets, position_keys
from data.text.overlap import Overlap
from data.text.parallel_reader import Counts, Job, read_all
from data.text.raw_documents import Layout, split_units


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


def select_inputs(args: argparse.Namespace, output: Path) -> list[Path]:
    """Return the input files: in a folder, all but what this script has written there, now or in an earlier run."""
    files = input_files(args.input_path, "--input_path", suffix="")
    own = output.resolve()
    if files == [Path(args.input_path)]:
        if files[0].resolve() == own:
            raise UserError(f"--output_path must differ from --input_path, got {args.output_path!r} for both")
        return check_inputs(args, files)
    kept = []
    for file in files:
        path = file.resolve()
        if path == own or own in path.parents or any(map(is_temporary, path.parents)):
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


def check_inputs(args: argparse.Namespace, files: list[Path]) -> list[Path]:
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


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv`. ValueError naming the flag or file:line on input that cannot be used."""
    args = build_parser().parse_args(argv)
    for flag, least in (("workers", 1), ("min_doc_length", 0)):
        if getattr(args, flag) < least:
            raise UserError(f"--{flag} must be at least {least}, got {getattr(args, flag)}; raise it")
    layout = Layout(args.doc_spliter, args.json_field, args.encoding)
    output = check_output(args)
    units = split_units(select_inputs(args, output))
    total = sum(unit.end - unit.start for unit in units)
    excluded = [
        file for path in (args.exclude or "").split(",") if path for file in input_files(path, "--exclude", "")
    ]
    refuse_foreign(excluded, "--exclude")
    unchanged = f"{output} is as it was before; mend that and run the same command again"
    with telling(unchanged), temporary_folder(output) as folder:
        if excluded:
            Overlap.build(excluded).save(folder / "overlap")
        buckets = Buckets(folder / "buckets", 1 + total // BUCKET_BYTES)
        job = Job(
            layout=layout,
            key=args.json_key,
            min_length=args.min_doc_length,
            skip_errors=args.on_error == "skip",
            dedup=args.dedup,
            shuffle=not args.no_shuffle,
            seed=args.seed,
            overlap=folder / "overlap" if excluded else None,
            folder=buckets.folder,
            bucket_count=buckets.count,
            total=total,
        )
        counts = read_all(job, units, args.workers, args.log_interval)
        by_content = buckets
        if args.dedup and args.no_shuffle:
            buckets = in_input_order(buckets, job)
        documents, characters = write(buckets, job, folder / "result", not args.no_merge, args.log_interval)
        if not documents:
            raise UserError(
                f"--input_path must hold a document that is not left out, got none in {args.input_path!r}, "
                f"{counts.short:,} too short, {counts.excluded:,} excluded, {counts.skipped:,} skipped for errors; "
                "check --doc_spliter and --min_doc_length"
            )
        put_in_place(folder, output)
        if excluded:
            report(excluded, Overlap.load(folder / "overlap"), counts)
    duplicates = counts.duplicates + by_content.dropped
    print(
        f"{documents:,} documents, {characters:,} characters written to {output}; "
        f"left out: {duplicates:,} duplicates, {counts.excluded:,} excluded, {counts.short:,} too short, "
        f"{counts.skipped:,} skipped for errors"
    )
    tell_next("data/train_tokenizer.py", "--input_path", output, "--output_dir", output.with_name("tokenizer"))
    if args.json_field is None and args.doc_spliter != "line":
        warn_of_whole_files(counts)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder is removed
    run_script(main)
