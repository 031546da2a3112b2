"""A fast tokenizer, token for token that of Chinese Transformer-XL, from the sentencepiece file its users have.

Source: THUDM/Chinese-Transformer-XL, data_utils/tokenization.py: a BPE model with nmt_nfkc normalisation whose text is
followed by <|endoftext|>, the id after the last piece. The file is read here, so sentencepiece need not be installed.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from .charsmap import pattern, sentencepiece_normalizer

END_OF_TEXT = "<|endoftext|>"
NEWLINE = "<n>"
SPACE = "▁"
UNKNOWN_TEXT = " ⁇ "  # what sentencepiece decodes an unknown piece to
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # SentencePiece.Type
BPE = 2  # TrainerSpec.ModelType
# Defaults of TrainerSpec's model_type, treat_whitespace_as_suffix and byte_fallback, and of NormalizerSpec's
# add_dummy_prefix, remove_extra_whitespaces and escape_whitespaces: all but the first are built in here.
TRAINER, NORMALIZER = {3: 1, 24: 0, 35: 0}, {3: 1, 4: 1, 5: 1}


def find_model_file(name: str | Path) -> Path | None:
    """The sentencepiece file that `name` is, or the only *.model of a folder without another tokenizer; else None."""
    path = Path(name)
    if path.is_file():
        return path
    files = sorted(path.glob("*.model")) if path.is_dir() else []
    own = any((path / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))
    return files[0] if len(files) == 1 and not own else None


def cog_tokenizer(file: str | Path, newline_token: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of a sentencepiece BPE model (cog-pretrain.model or one of the same kind).

    Ids are the file's, then <|endoftext|>, both eos and pad. No token is added to a text; its first piece starts with
    a space. A newline becomes a space, as in the original, or with newline_token the piece <n>, which decoding turns
    back. `<|endoftext|>` in a text is ordinary characters. save_pretrained keeps all this for AutoTokenizer;
    decoding is the original's up to the first <|endoftext|>, and goes on after it.
    Raises ValueError, naming the file, when it is no such model.
    """
    pieces, charsmap = _read_model(Path(file))
    # A text that spells a control piece out is ordinary characters, so these get names that no text can have.
    names = {UNKNOWN: lambda piece: UNKNOWN_TEXT, CONTROL: lambda piece: f" {piece}"}
    vocabulary = {names.get(kind, str)(piece): number for number, (piece, _, kind) in enumerate(pieces)}
    symbols = [piece for piece, _, kind in pieces if kind == USER_DEFINED]
    if newline_token and NEWLINE not in symbols:
        raise ValueError(f"{file} must have the piece {NEWLINE} for newline_token, got none; leave newline_token out")
    model = tokenizer_models.BPE(
        vocab=vocabulary, merges=_merges(pieces), unk_token=UNKNOWN_TEXT, fuse_unk=True, ignore_merges=True
    )
    tokenizer = Tokenizer(model)
    newline = [normalizers.Replace("\n", NEWLINE)] if newline_token else []
    try:
        normalizer = sentencepiece_normalizer(charsmap, symbols)
    except ValueError as error:
        raise ValueError(f"{file} {error}; give that of Chinese Transformer-XL") from error
    tokenizer.normalizer = normalizers.Sequence([*newline, normalizer])
    # A user-defined symbol is a piece wherever it stands; as an added token it would split the text before the space
    # is put in front.
    pieces_apart = [pre_tokenizers.Split(Regex(pattern(symbols)), "isolated")] if symbols else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always", split=True), *pieces_apart]
    )
    silent = [decoders.Replace(f" {piece}", "") for piece, _, kind in pieces if kind == CONTROL]
    back = [decoders.Replace(NEWLINE, "\n")] if newline_token else []
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(END_OF_TEXT, f" {END_OF_TEXT}"),
            *silent,
            *back,
            decoders.Fuse(),
            decoders.Replace(Regex(f"^{SPACE}"), ""),
            decoders.Replace(SPACE, " "),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token=UNKNOWN_TEXT,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="left",
    )


def _merges(pieces: list[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, in the order of the pieces' scores: what sentencepiece's BPE does."""
    known = {piece for piece, _, kind in pieces if kind == NORMAL}
    ordered = sorted((piece for piece in pieces if piece[2] == NORMAL), key=lambda piece: -piece[1])
    return [
        (piece[:cut], piece[cut:])
        for piece, _, _ in ordered
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]


def _read_model(file: Path) -> tuple[list[tuple[str, float, int]], bytes]:
    """(piece, score, type) of each id, and the normaliser's table."""
    if not file.is_file():
        raise ValueError(
            f"{file} must be a sentencepiece model, got no such file; give the path of cog-pretrain.model"
        )
    pieces, trainer, normalizer = [], TRAINER, NORMALIZER
    try:
        for field, value in _fields(file.read_bytes()):
            if field == 1:
                piece = {1: b"", 2: b"\0\0\0\0", 3: NORMAL} | dict(_fields(value))
                pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece[2])[0], piece[3]))
            elif field == 2:
                trainer = TRAINER | dict(_fields(value))
            elif field == 3:
                normalizer = NORMALIZER | dict(_fields(value))
    except (IndexError, TypeError, AttributeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{file} must be a sentencepiece model, got other bytes ({error}); give that file") from error
    charsmap, kinds = normalizer.get(2, b""), [kind for _, _, kind in pieces]
    if trainer[3] != BPE or not charsmap or kinds.count(UNKNOWN) != 1:
        raise ValueError(
            f"{file} must be a sentencepiece BPE model with a normalisation table and one unknown piece, "
            f"got model type {trainer[3]} with {len(pieces)} pieces; give that of Chinese Transformer-XL"
        )
    plain = trainer | TRAINER | {3: BPE} == trainer and normalizer | NORMALIZER == normalizer
    if not plain or max(kinds) > USER_DEFINED:
        raise ValueError(
            f"{file} must be trained with sentencepiece's defaults for spaces, without bytes and unused pieces, "
            "got another model; give that of Chinese Transformer-XL"
        )
    return pieces, charsmap


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protocol buffer: varints as int, all else as bytes."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = varint() if key & 7 == 2 else {1: 8, 5: 4}.get(key & 7)
        if size is None or place + size > len(message):
            raise IndexError(f"field {key >> 3} does not fit")
        yield key >> 3, message[place : place + size]
        place += size
