"""Fast and exact BERT tokenisation (being written; the hash is final)."""

import hashlib
import json

from tokenizers import Tokenizer


def tokenizer_hash(backend: Tokenizer) -> str:
    """SHA-256 over everything that decides ids: vocabulary, added tokens, normaliser, pre-tokeniser, special ids."""
    settings = json.loads(backend.to_str())
    added = sorted((token["id"], token["content"]) for token in settings["added_tokens"])
    empty = backend.encode("")  # a backend may carry the padding of its last caller: mask that out
    specials = [token for token, real in zip(empty.ids, empty.attention_mask, strict=True) if real]
    parts = [settings["model"], settings["normalizer"], settings["pre_tokenizer"], added, specials]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
