"""Corpora that run_chinese_ref.py makes of short Chinese documents."""

import json
import random

import run_chinese_ref
from data.corpus.store import Corpus

WORDS = [
    "研究",
    "研究生",
    "生命",
    "起源",
    "我",
    "爱",
    "北京",
    "大学",
    "天安门",
    "长江",
    "大桥",
    "café",
    "OK",
    "3.14%",
    "云计算",
    "，",
]


def documents(count, seed=0):
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        sentences = ["".join(rng.choices(WORDS, k=rng.randint(1, 30))) + rng.choice("。！？\n") for _ in range(9)]
        texts.append("".join(sentences[: rng.randint(0, 9)]))
    return texts


def write_jsonl(path, texts, key="text"):
    lines = [json.dumps({key: text}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def prepare(tokenizer, source, output, *flags):
    command = ["--model_name", str(tokenizer), "--input_path", str(source), "--output_dir", str(output)]
    run_chinese_ref.main([*command, "--workers", "1", *flags])
    return Corpus(output)
