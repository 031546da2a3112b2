"""Turn texts of any language into a corpus for pretraining.

    python data/create_data.py --train_file outputs/mine/all.jsonl --tokenizer_name outputs/mine/tokenizer \\
        --max_seq_length 128 --output_dir outputs/mine/stream

The inputs are what the examples of data/trans_to_json.py and data/train_tokenizer.py write.

The texts come from a data set (a local folder or a hub name; its train split) or from --train_file. By default all
documents, each between the tokenizer's special tokens, are laid end to end and cut into rows of --max_seq_length; with
--line_by_line true each has rows of its own, and with --keep_lines too each of its lines a row, of any length. No
token is lost, and a run that was stopped goes on when the same command is run again. Source: create_data.py of
PaddleNLP's RoBERTa example (JunnYu), whose flags it keeps.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

if __name__ == "__main__":  # started as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import ArgumentError
from common.flags import FlagParser, parse_bool
from common.script import run_script, tell_next
from data.corpus.copied_inputs import CopiedInputs
from data.corpus.preparation import Preparer, describe_unknown
from data.corpus.shares import (
    Work,
    describe_share,
    drop_shares,
    make_corpus,
    plan_work,
)
from data.corpus.sources import CleanedLines, LineSource, Part, Source, held_out
from data.corpus.table_inputs import open_dataset, open_files
from data.shares import add_share_flags, check_share_flags
from data.staging import sent_away
from data.tokens.fast_tokenizer import FastTokenizer, check_backend, names_mask_token
from data.tokens.tokenizer_files import load_backend, tokenizer_hash
from data.tokens.word_segmenters import SEGMENTERS, make_segmenter
from training.pretrained import check_vocabulary_file, load_tokenizer, resolve_pretrained

VALIDATION = "validation"  # folder of the held-out documents below --output_dir


def build_parser() -> FlagParser:
    """Return the parser of the command line."""
    parser = FlagParser(doc=__doc__)
    add = parser.add_argument
    add("--output_dir", default="wiki", help="corpus folder to write")
    add("--dataset_name", help="folder of files, folder that datasets saved, or hub name; its train split")
    add("--dataset_config_name", help="configuration of the data set, or folder below it")
    add("--train_file", nargs="+", help="text (a document a line), json, jsonl, csv, tsv or parquet files")
    add("--text_column", help="column or key of the text; default: text, else the first one")
    add("--tokenizer_name", default="roberta-base", help="tokenizer: a folder or hub name")
    add("--trust_remote_code", action="store_true", help="run code that comes with the tokenizer (auto_map)")
    add("--max_seq_length", type=int, default=512, help="tokens of a row, special tokens included")
    add("--line_by_line", type=parse_bool, nargs="?", const=True, default=False, help="rows of each document alone")
    add("--keep_lines", type=parse_bool, nargs="?", const=True, help="rows of each line alone, as ELECTRA takes them")
    add("--min_line_chars", type=int, help="leave out shorter lines; RichardWang's ELECTRA: 80, for Wikipedia only")
    add("--drop_brackets", type=parse_bool, nargs="?", const=True, help="leave out every (), as RichardWang's ELECTRA")
    add("--segmenter", choices=SEGMENTERS, default="basic", help="what splits words; rjieba: Chinese")
    add("--validation_split", type=float, help="share of the documents to write to output_dir/validation")
    add("--preprocessing_num_workers", type=int, default=min(20, len(os.sched_getaffinity(0))), help="processes")
    add("--cache_dir", help="where the datasets library keeps downloads and copies")
    add_share_flags(parser)
    return parser


def check(args: argparse.Namespace) -> None:
    """ArgumentError naming the flag whose value cannot work."""
    if (args.dataset_name is None) == (args.train_file is None):
        named = "neither" if args.train_file is None else "both"
        raise ArgumentError(f"--dataset_name or --train_file must be given, got {named}; give one of the two")
    check_share_flags(args)
    if args.preprocessing_num_workers < 1:
        raise ArgumentError(
            f"--preprocessing_num_workers must be at least 1, got {args.preprocessing_num_workers}; raise it"
        )
    if args.keep_lines and not args.line_by_line:
        raise ArgumentError("--keep_lines needs rows that no line shares with another; add --line_by_line true")
    if args.min_line_chars is not None and args.min_line_chars < 1:
        raise ArgumentError(f"--min_line_chars must be at least 1, got {args.min_line_chars}; leave it out")
    if args.validation_split is not None and not 0 < args.validation_split < 1:
        raise ArgumentError(f"--validation_split must lie between 0 and 1, got {args.validation_split}; change it")


def load(args: argparse.Namespace):
    """Load the tokenizer of --tokenizer_name, without transformers where the folder is a plain BERT vocabulary."""
    name, loaded = resolve_pretrained(args.tokenizer_name, "--tokenizer_name"), []

    def by_transformers(folder: str):
        import models  # noqa: F401  so that our own tokenizers need no code of the folder

        tokenizer = load_tokenizer(folder, "--tokenizer_name", args.trust_remote_code)
        if not tokenizer.is_fast:
            raise ArgumentError(
                f"--tokenizer_name {args.tokenizer_name} must be a fast tokenizer, got {type(tokenizer).__name__}; "
                "convert it to a tokenizer.json"
            )
        loaded.append(tokenizer)
        return tokenizer.backend_tokenizer

    check_vocabulary_file(name, "--tokenizer_name")
    backend = load_backend(name, by_transformers)
    has_mask = loaded[0].mask_token is not None if loaded else names_mask_token(name)
    check_backend(backend, name, "--tokenizer_name", has_mask)
    tokenizer = FastTokenizer(backend)
    least = sum(map(len, tokenizer.frame)) + 1
    if args.max_seq_length < least:
        raise ArgumentError(f"--max_seq_length must be at least {least}, got {args.max_seq_length}; raise it")
    return backend, tokenizer


def settings_of(args: argparse.Namespace) -> dict:
    """What decides the bytes of the corpus besides inputs and tokenizer; the keys are flags."""
    name = f"rjieba {version('rjieba')}" if args.segmenter == "rjieba" else args.segmenter
    names = ("text_column", "max_seq_length", "line_by_line", "validation_split")
    cleaning = ("keep_lines", "min_line_chars", "drop_brackets")  # None where unused, as in corpora from before them
    chosen = {key: getattr(args, key) for key in names} | {key: getattr(args, key) or None for key in cleaning}
    return chosen | {"segmenter": name}


def prepare(work: Work, below: str, terms: tuple, args, tokenizer, keep: Callable[[int], bool] | None = None) -> None:
    """Write one corpus folder, or a share of it. keep: which documents, by number."""
    source, segmenter = work.source, make_segmenter(args.segmenter)
    if args.min_line_chars or args.drop_brackets:
        source = CleanedLines(source, args.min_line_chars or 0, brackets=not args.drop_brackets)

    def make_preparer(folder: Path) -> Preparer:
        return Preparer(
            folder=folder,
            tokenizer=tokenizer,
            segmenter=segmenter,
            source=Part(source, keep) if keep else source,
            max_seq_length=args.max_seq_length,
            whole=bool(args.keep_lines) or not args.line_by_line,
            lines=bool(args.keep_lines),
        )

    workers, length = args.preprocessing_num_workers, None if args.line_by_line else args.max_seq_length
    made = make_corpus(work, terms, make_preparer, workers, below, "--preprocessing_num_workers", row_length=length)
    if made is None:
        return
    manifest, unknown = made
    unknown = describe_unknown(work.folder / below, manifest, unknown, "--tokenizer_name")
    counts = manifest["counts"]
    print(
        f"{counts['documents']:,} documents, {counts['tokens']:,} tokens in {counts['blocks']:,} rows and "
        f"{counts['words']:,} words written to {work.folder / below}; {counts['dropped_documents']:,} documents "
        f"without a token, {unknown}"
    )


def open_source(args: argparse.Namespace, inputs: CopiedInputs) -> Source:
    """The documents of --train_file or --dataset_name."""
    if not args.train_file:
        return open_dataset(args.dataset_name, args.dataset_config_name, args.text_column, args.cache_dir)
    with inputs.brought() as paths:
        source = open_files(paths, args.text_column, args.cache_dir, inputs.folder)
    if not isinstance(source, LineSource):  # a table is in a file of its own by now
        inputs.drop()
    return source


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv`. ValueError naming the flag or file:line on input that cannot be used."""
    args = build_parser().parse_args(argv)
    check(args)
    with sent_away(args, "output_dir"), CopiedInputs(args, "train_file", "output_dir") as inputs:
        run(args, inputs)


def run(args: argparse.Namespace, inputs: CopiedInputs) -> None:
    """All the work, on local files."""
    backend, tokenizer = load(args)
    identity = {"name": args.tokenizer_name, "hash": tokenizer_hash(backend), "size": tokenizer.vocab_size}
    terms = identity, settings_of(args), ("--train_file" if args.train_file else "--dataset_name", "--tokenizer_name")
    folder, names = Path(args.output_dir), ("train_file", "dataset_name", "dataset_config_name")
    typed = {f"--{name}": getattr(args, name) for name in names}
    work = plan_work(folder, args, typed, terms, partial(open_source, args, inputs))
    if work is None:
        return
    words = ["--train_dir", folder, "--tokenizer_name", args.tokenizer_name, "--output_dir", folder.with_name("model")]
    if args.validation_split is None:
        prepare(work, "", terms, args, tokenizer)
    else:
        is_held_out = partial(held_out, share=args.validation_split)
        prepare(work, "", terms, args, tokenizer, lambda number: not is_held_out(number))
        prepare(work, VALIDATION, terms, args, tokenizer, is_held_out)
        words += ["--validation_dir", folder / VALIDATION]
    if work.index is not None:
        print(describe_share(work))
        return
    drop_shares(work)
    tell_next("run_mlm_wwm.py", "--do_train", *words)


if __name__ == "__main__":
    run_script(main)
