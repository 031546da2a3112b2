"""Turn JSON lines into a corpus for whole-word-mask pretraining.

    python run_chinese_ref.py --input_path outputs/mine/all.jsonl --tokenizer_name outputs/mine/tokenizer \\
        --max_seq_length 128 --output_dir outputs/mine/corpus

The inputs are what the examples of data/trans_to_json.py and data/train_tokenizer.py write.

Every document becomes blocks of at most --max_seq_length tokens that end with a sentence where one does, with a mark
on each token that continues a word of the segmenter. Any number of workers writes the same bytes, and a run that was
stopped goes on when the same command is run again.
Source: run_chinese_ref.py of JunnYu/FLASHQuad_pytorch, whose flags it keeps.
"""

import argparse
import hashlib
import os
from functools import partial
from importlib.metadata import version
from pathlib import Path

from common.errors import ArgumentError
from common.flags import FlagParser
from common.script import run_script, tell_next
from data.corpus.chinese_ref_files import ReferenceWriter
from data.corpus.copied_inputs import CopiedInputs
from data.corpus.preparation import Preparer, describe_unknown
from data.corpus.shares import describe_share, drop_shares, make_corpus, plan_work
from data.corpus.sources import LineSource
from data.files import input_files
from data.shares import add_share_flags, check_share_flags
from data.staging import sent_away
from data.tokens.fast_tokenizer import FastTokenizer, check_backend, names_mask_token
from data.tokens.tokenizer_files import load_backend, tokenizer_hash
from data.tokens.word_segmenters import SEGMENTERS, make_segmenter
from training.pretrained import check_vocabulary_file, load_tokenizer, resolve_pretrained

TOKENIZER = "junnyu/roformer_chinese_char_base"


def build_parser() -> FlagParser:
    """Return the parser of the command line."""
    parser = FlagParser(doc=__doc__)
    add = parser.add_argument
    add("--tokenizer_name", "--model_name", dest="model_name", default=TOKENIZER, help="folder or hub name")
    add("--trust_remote_code", action="store_true", help="run code that comes with the tokenizer (auto_map)")
    add("--input_path", required=True, help="JSONL file, or folder whose .jsonl files are read")
    add("--json_key", default="text", help="key of the text in each line")
    add("--output_dir", default="clue_small_wwm_data", help="corpus folder to write")
    add("--max_seq_length", type=int, default=512, help="most tokens of a block, [CLS] and [SEP] included")
    add("--min_chars", type=int, default=1, help="drop documents of fewer characters, outer white space aside")
    add("--segmenter", choices=SEGMENTERS, default="rjieba", help="what splits words; whitespace: text that is split")
    add("--user_dict", help="more words for rjieba: lines of `word [frequency] [tag]`")
    add("--on_error", choices=("fail", "skip"), default="fail", help="for lines that are not JSON with the key")
    add("--reference_files", action="store_true", help="also write refids.txt, reftext.txt and their dataset")
    add("--workers", type=int, default=min(12, len(os.sched_getaffinity(0))), help="processes that prepare")
    add("--log_interval", type=int, default=100, help="documents between updates of the progress bar, at least")
    add_share_flags(parser)
    return parser


def check(args: argparse.Namespace) -> None:
    """ValueError naming the flag whose value cannot work."""
    for flag, least in (("max_seq_length", 3), ("min_chars", 0), ("workers", 1), ("log_interval", 1)):
        if getattr(args, flag) < least:
            raise ArgumentError(f"--{flag} must be at least {least}, got {getattr(args, flag)}; raise it")
    check_share_flags(args)
    if args.user_dict and not Path(args.user_dict).is_file():
        raise ArgumentError(f"--user_dict must name an existing file, got {args.user_dict!r}; check the path")


def load(args: argparse.Namespace):
    """Load the tokenizer of --tokenizer_name, without transformers where the folder is a plain BERT vocabulary."""
    name, loaded = resolve_pretrained(args.model_name, "--tokenizer_name"), []

    def by_transformers(folder: str):
        import models  # noqa: F401  so that our own tokenizers need no code of the folder

        loaded.append(load_tokenizer(folder, "--tokenizer_name", args.trust_remote_code))
        return loaded[0].backend_tokenizer

    check_vocabulary_file(name, "--tokenizer_name")
    backend = load_backend(name, by_transformers)
    has_mask = loaded[0].mask_token is not None if loaded else names_mask_token(name)
    check_backend(backend, name, "--tokenizer_name", has_mask)
    tokenizer = FastTokenizer(backend)
    if list(map(len, tokenizer.frame)) != [1, 1]:
        raise ArgumentError(
            f"--tokenizer_name must add one token before a text and one after it, got {tokenizer.frame} from "
            f"{args.model_name!r}; use a tokenizer with [CLS] and [SEP]"
        )
    return backend, tokenizer


def settings_of(args: argparse.Namespace) -> dict:
    """What decides the bytes of the corpus besides inputs and tokenizer; the keys are flags."""
    name = f"rjieba {version('rjieba')}" if args.segmenter == "rjieba" else args.segmenter
    words = hashlib.sha256(Path(args.user_dict).read_bytes()).hexdigest() if args.user_dict else None
    kept = {key: getattr(args, key) for key in ("json_key", "max_seq_length", "min_chars", "reference_files")}
    return {**kept, "segmenter": name, "user_dict": words}


def open_source(args: argparse.Namespace, inputs: CopiedInputs) -> LineSource:
    """The lines of --input_path."""
    with inputs.brought() as (path,):
        return LineSource(input_files(path, "--input_path"), Path(path), args.json_key)


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv`. ValueError naming the flag or file:line on input that cannot be used."""
    args = build_parser().parse_args(argv)
    check(args)
    with sent_away(args, "output_dir"), CopiedInputs(args, "input_path", "output_dir", args.json_key) as inputs:
        run(args, inputs)


def run(args: argparse.Namespace, inputs: CopiedInputs) -> None:
    """All the work, on local files."""
    backend, tokenizer = load(args)
    identity = {"name": args.model_name, "hash": tokenizer_hash(backend), "size": tokenizer.vocab_size}
    terms = identity, settings_of(args), ("--input_path", "--tokenizer_name")
    folder = Path(args.output_dir)
    work = plan_work(folder, args, {"--input_path": args.input_path}, terms, partial(open_source, args, inputs))
    if work is None:
        return
    segmenter = make_segmenter(args.segmenter, args.user_dict)

    def make_preparer(folder: Path) -> Preparer:
        return Preparer(
            folder=folder,
            tokenizer=tokenizer,
            segmenter=segmenter,
            source=work.source,
            max_seq_length=args.max_seq_length,
            min_chars=args.min_chars,
            skip_errors=args.on_error == "skip",
            reference=ReferenceWriter(folder, backend) if args.reference_files else None,
        )

    made = make_corpus(work, terms, make_preparer, args.workers, log_interval=args.log_interval)
    if made is None:
        print(describe_share(work))
        return
    drop_shares(work)
    manifest, unknown = made
    unknown = describe_unknown(folder, manifest, unknown, "--tokenizer_name")
    counts = manifest["counts"]
    print(
        f"{counts['documents']:,} documents, {counts['tokens']:,} tokens in {counts['blocks']:,} blocks and "
        f"{counts['words']:,} words written to {folder}; {counts['dropped_documents']:,} documents with "
        f"{counts['dropped_tokens']:,} tokens dropped, {counts['cut_words']:,} words longer than a block, "
        f"{counts['skipped_lines']:,} lines skipped for errors, {unknown}"
    )
    words = ("--train_dir", folder, "--tokenizer_name", args.model_name, "--output_dir", folder.with_name("model"))
    tell_next("run_mlm_wwm.py", "--do_train", *words)


if __name__ == "__main__":
    run_script(main)
