"""Train a BERT WordPiece tokenizer on JSON lines.

    python data/train_tokenizer.py --input_path outputs/mine/all.jsonl --output_dir outputs/mine/tokenizer

The input is what the example of data/trans_to_json.py writes. Every Chinese character is a token of its own; [PAD]
[UNK] [CLS] [SEP] [MASK] are the ids 0 to 4. The folder written is one that transformers' AutoTokenizer reads offline;
it depends on the input and the flags alone. All of the input is counted: some hundred megabytes of a shuffled corpus
are enough.
"""

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":  # started as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    import common.script  # noqa: F401  no traceback of Ctrl-C amid the slow imports

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from common.errors import UserError
from common.flags import FlagParser
from common.script import run_script, tell_next
from data.outputs import atomic_folder, telling
from data.staging import sent_away
from data.text.streams import input_streams
from data.tokens.wordpiece_vocabulary import choose_alphabet, count_characters, count_words, learn_pieces, read_texts

SPECIALS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_FILES = {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}


def build_parser() -> FlagParser:
    """Return the parser of the command line."""
    parser = FlagParser(doc=__doc__)
    add = parser.add_argument
    add("--input_path", required=True, help="JSONL file, or folder with .jsonl files")
    add("--output_dir", required=True, help="folder to write")
    add("--json_key", default="text", help="key of the text")
    add("--vocab_size", type=int, default=12000, help="number of tokens, at most")
    add("--min_frequency", type=int, default=2, help="characters and pieces that occur less often get no token")
    add("--limit_alphabet", type=int, help="number of distinct characters, at most; default: as many as fit")
    add("--lowercase", choices=("true", "false"), default="true", help="also removes accents, as BERT does")
    add("--nfkc", action="store_true", help="unify full-width and other compatibility characters")
    return parser


def build_backend(vocabulary: list[str], lowercase: bool, nfkc: bool) -> Tokenizer:
    """Return BERT's tokenizer with these tokens, which begin with the special ones."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(ids, unk_token=SPECIALS["unk_token"]))
    bert = normalizers.BertNormalizer(lowercase=lowercase)
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), bert]) if nfkc else bert
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(list(SPECIALS.values()))
    cls, sep = (SPECIALS[name] for name in ("cls_token", "sep_token"))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    return backend


def settings_of(lowercase: bool, nfkc: bool) -> dict:
    """What tokenizer_config.json says."""
    return {
        # transformers gives its BertTokenizer BERT's own normaliser, whatever tokenizer.json says.
        "tokenizer_class": "PreTrainedTokenizerFast" if nfkc else "BertTokenizer",
        "do_lower_case": lowercase,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **SPECIALS,
    }


def is_own(folder: Path) -> bool:
    """Whether this is a folder that `save` wrote, with nothing else in it, or an empty one."""
    names = {path.name for path in folder.iterdir()}
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_bytes()) if names else None
    except (OSError, ValueError):
        return False
    own = [settings_of(lowercase, nfkc) for lowercase in (True, False) for nfkc in (True, False)]
    return not names or (names == _FILES and settings in own)


def save(backend: Tokenizer, vocabulary: list[str], lowercase: bool, nfkc: bool, output: Path) -> None:
    """Write the folder `output` at once, in place of one that this script wrote before."""
    state = f"{output} is as it was before; mend that and run the same command again"
    with telling(state), atomic_folder(output) as folder:
        (folder / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8")  # of any path
        settings = json.dumps(settings_of(lowercase, nfkc), indent=2)
        (folder / "tokenizer_config.json").write_text(f"{settings}\n", encoding="utf-8")
        lines = "".join(f"{token}\n" for token in vocabulary)
        (folder / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")


def check(args: argparse.Namespace) -> None:
    """Raise ValueError, naming the flag, where a value cannot work."""
    for flag, least in (("vocab_size", len(SPECIALS) + 2), ("min_frequency", 1), ("limit_alphabet", 1)):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise UserError(f"--{flag} must be at least {least}, got {value}; raise it")
    output = Path(args.output_dir)
    if output.exists() and not (output.is_dir() and is_own(output)):
        raise UserError(
            f"--output_dir must name a new folder, or one that this script wrote, got {args.output_dir!r}; "
            "choose another name"
        )


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv`. ValueError naming the flag or file:line on input that cannot be used."""
    args = build_parser().parse_args(argv)
    with sent_away(args, "output_dir"):
        check(args)
        run(args)


def run(args: argparse.Namespace) -> None:
    """All the work, to a local folder."""
    lowercase, least = args.lowercase == "true", args.min_frequency
    files = input_streams(args.input_path, "--input_path", args.json_key, ".jsonl")
    backend = build_backend(list(SPECIALS.values()), lowercase, args.nfkc)
    words, too_long = count_words(read_texts(files, args.json_key), backend)
    size = args.vocab_size - len(SPECIALS)
    characters, inner = count_characters(words)
    alphabet = choose_alphabet(characters, inner, size, least, args.limit_alphabet)
    if not alphabet:
        raise UserError(
            f"--input_path must hold text with characters that occur --min_frequency times, got none in "
            f"{args.input_path!r}; check the file"
        )
    vocabulary = [*SPECIALS.values(), *learn_pieces(words, alphabet, inner, size, least)]
    save(build_backend(vocabulary, lowercase, args.nfkc), vocabulary, lowercase, args.nfkc, Path(args.output_dir))
    covered = sum(characters[character] for character in alphabet) / characters.total()
    print(
        f"{len(vocabulary):,} tokens written to {args.output_dir}: "
        f"{len(alphabet):,} of {len(characters):,} characters, which make up {covered:.3%} of the text"
    )
    if too_long:
        print(f"left out: {too_long:,} words of more than {backend.model.max_input_chars_per_word} characters")
    corpus = Path(args.output_dir).with_name("corpus")
    words = ("--input_path", args.input_path, "--tokenizer_name", args.output_dir, "--output_dir", corpus)
    tell_next("run_chinese_ref.py", *words)


if __name__ == "__main__":
    run_script(main)
