"""The preparation of JunnYu/FLASHQuad_pytorch as its description says, step by step: words in a list, tokens twice.

Text is gathered into blocks of 512 characters and some, cut by rjieba, and the distinct Chinese words are searched
for in the word pieces from left to right. What training then does is part of the cost: the texts are tokenised again.
Measured against run_chinese_ref.py by benchmarks/preparation/chinese_ref.py; prints the CPU seconds of both halves.

Usage: python benchmarks/originals/chinese_ref.py TOKENIZER INPUT.jsonl FOLDER
"""

import ast
import json
import sys
import time
from pathlib import Path

import rjieba
from datasets import Dataset, load_dataset
from transformers import BertTokenizer

_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def is_chinese(word: str) -> bool:
    return all(any(low <= ord(character) <= high for low, high in _CHINESE) for character in word)


def split_text(text: str) -> list[str]:
    """Blocks of whole lines, joined without a separator, each closed once it exceeds 512 characters."""
    blocks, block = [], ""
    for line in text.split("\n"):
        if len(block) > 512:
            blocks.append(block)
            block = ""
        block += line
    return [*blocks, block]


def match_words(tokens: list[str], words: list[str]) -> list[int]:
    """Positions of the tokens that continue a word of the list, found greedily from left to right."""
    longest = max(map(len, words), default=0)
    references, i = [], 0
    while i < len(tokens):
        step = 1
        if is_chinese(tokens[i]):
            for length in range(min(len(tokens) - i, longest), 1, -1):
                if "".join(tokens[i : i + length]) in words:
                    references += range(i + 1, i + length)
                    step = length
                    break
        i += step
    return references


def reference(block: str, tokenizer: BertTokenizer) -> tuple[str, list[int]] | None:
    """Text and positions of one block; None for a short one or one without a long word."""
    cut = rjieba.cut(block.strip())
    text = "".join(cut).replace("\n", "")
    words = list({word for word in cut if len(word) >= 2 and is_chinese(word)})
    tokens = ["[CLS]", *tokenizer.tokenize(text), "[SEP]"]
    positions = match_words(tokens, words)
    positions = [i for i in positions if len(tokens[i]) == 1 and is_chinese(tokens[i])]
    return (text, positions) if len(text) >= 20 and positions else None


def main(tokenizer_path: str, input_path: str, folder: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(tokenizer_path)
    ids_path, text_path = folder / "refids.txt", folder / "reftext.txt"
    with open(input_path, "rb") as lines, ids_path.open("w") as ids, text_path.open("w", encoding="utf-8") as texts:
        for line in lines:
            for block in split_text(json.loads(line)["text"]):
                text_and_ids = reference(block, tokenizer)
                if text_and_ids:
                    texts.write(text_and_ids[0].replace("\r", " ") + "\n")
                    ids.write(f"{text_and_ids[1]}\n")
    dataset = load_dataset("text", data_files=str(text_path), cache_dir=str(folder / "cache"))["train"]
    with ids_path.open() as lines:
        references = [ast.literal_eval(line) for line in lines]
    Dataset.from_dict({"text": dataset["text"], "chinese_ref": references}).save_to_disk(folder / "dataset")
    prepared = time.process_time()

    def encode(rows):
        encoded = tokenizer(rows["text"], truncation=True, max_length=512)
        return {"input_ids": encoded["input_ids"], "chinese_ref": rows["chinese_ref"]}

    Dataset.load_from_disk(folder / "dataset").map(encode, batched=True, cache_file_name=str(folder / "mapped.arrow"))
    print(json.dumps({"prepare": prepared, "tokenise": time.process_time() - prepared}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
