"""Corpora that create_data.py makes of short documents, English for the most part."""

import json
import random

from data import create_data
from data.corpus.store import Corpus

WORDS = ["The", "quick", "brown", "fox", "doesn't", "jump", "over", "3.14", "lazy", "dogs,", "or", "(does", "it)"]
WORDS += ["café", "naïve", "дом", "日本語", "東京タワー", "!", "\u2028", "\t"]


def documents(count, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 60))) + "." for _ in range(count)]


TEXTS = documents(120)


def write_jsonl(path, texts, **more):
    lines = [json.dumps({"id": number, "text": text, **more}, ensure_ascii=False) for number, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def prepare(tokenizer, output, *flags):
    flags = ["--tokenizer_name", tokenizer, "--output_dir", output, "--preprocessing_num_workers", 1, *flags]
    create_data.main([str(flag) for flag in flags])
    return Corpus(output)
