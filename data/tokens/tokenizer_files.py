"""Tokenizers of a folder's files: loaded without transformers where they are plain, told apart by a hash."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

_SPECIALS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ENDS = ("bos_token", "eos_token")
_BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast")
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Entries of tokenizer_config.json that leave the ids of a BERT tokenizer alone; with any other, transformers reads it.
_HARMLESS = {
    "tokenizer_class",
    "model_max_length",
    "name_or_path",
    "clean_up_tokenization_spaces",
    "is_local",
    "backend",
    "local_files_only",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "do_basic_tokenize",
}


def load_backend(name: str, fallback: Callable[[str], Tokenizer]) -> Tokenizer:
    """Load the tokenizer of a folder without importing transformers, which costs seconds of start-up.

    Plain BERT folders (vocab.txt or tokenizer.json, default special tokens present) and those of no class in
    particular are read here, exactly as transformers reads them; `fallback(name)` loads everything else.
    """
    folder = Path(name)
    settings_path = folder / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.is_file() else {}
    options = {key: settings.get(key, default) for key, default in _bert_options().items()}
    kind, backend = settings.get("tokenizer_class"), None
    unusual = settings.keys() - options.keys() - _HARMLESS - set(_ENDS) or (folder / "added_tokens.json").exists()
    if not unusual and (folder / "tokenizer.json").is_file() and kind in (*_BERT_CLASSES, *_GENERIC_CLASSES):
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    elif not unusual and (folder / "vocab.txt").is_file() and kind in (None, *_BERT_CLASSES):
        backend = _from_vocabulary(folder / "vocab.txt", options)
    # A generic class takes tokenizer.json as it is; BertTokenizer would replace what contradicts its options.
    if backend is None or not (
        _has_all(backend, settings) if kind in _GENERIC_CLASSES else _is_plain(backend, options)
    ):
        backend = fallback(name)
    backend.no_padding()
    backend.no_truncation()
    return backend


def _bert_options() -> dict:
    return {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True, **_SPECIALS}


def _from_vocabulary(path: Path, options: dict) -> Tokenizer | None:
    vocabulary = models.WordPiece.read_file(str(path))
    specials = [options[key] for key in _SPECIALS]
    if not all(isinstance(token, str) and token in vocabulary for token in specials):
        return None
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=options["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options["tokenize_chinese_chars"],
        strip_accents=options["strip_accents"],
        lowercase=options["do_lower_case"],
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(specials)
    first, last = options["cls_token"], options["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])]
    )
    return backend


def _has_all(backend: Tokenizer, settings: dict) -> bool:
    """Whether the special tokens of tokenizer_config.json are known, so that transformers adds none."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    return known >= {str(settings[key]) for key in (*_SPECIALS, *_ENDS) if key in settings}


def _is_plain(backend: Tokenizer, options: dict) -> bool:
    """Whether transformers, given these options, would make this very tokenizer."""
    settings = json.loads(backend.to_str())
    expected = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": options["tokenize_chinese_chars"],
        "strip_accents": options["strip_accents"],
        "lowercase": options["do_lower_case"],
    }
    specials = [options[key] for key in _SPECIALS]
    return (
        settings["normalizer"] == expected
        and settings["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and settings["model"]["type"] == "WordPiece"
        and sorted(token["content"] for token in settings["added_tokens"]) == sorted(map(str, specials))
        and all(token in settings["model"]["vocab"] for token in map(str, specials))
    )


def tokenizer_hash(backend: Tokenizer) -> str:
    """SHA-256 over everything that decides ids: vocabulary, added tokens, normaliser, pre-tokeniser, special ids."""
    settings = json.loads(backend.to_str())
    added = sorted((token["id"], token["content"]) for token in settings["added_tokens"])
    parts = [settings["model"], settings["normalizer"], settings["pre_tokenizer"], added, special_frame(backend)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def special_frame(backend: Tokenizer) -> list[int]:
    """Ids that the tokenizer sets around a text, for BERT [CLS] and [SEP]."""
    empty = backend.encode("")  # a backend may carry the padding of its last caller: mask that out
    return [token for token, real in zip(empty.ids, empty.attention_mask, strict=True) if real]


def split_frame(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids of special_frame before and those after a text."""
    frame, text = special_frame(backend), "0"
    count = len(backend.encode(text, add_special_tokens=False).ids)
    framed = backend.encode(text)
    ids = [token for token, real in zip(framed.ids, framed.attention_mask, strict=True) if real]
    before = next(size for size in range(len(frame) + 1) if ids[:size] + ids[size + count :] == frame)
    return frame[:before], frame[before:]
