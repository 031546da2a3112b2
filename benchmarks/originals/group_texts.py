"""The usual way from texts to rows of equal length: datasets.map to tokenise, datasets.map to group.

As in transformers' examples/pytorch/language-modeling/run_mlm.py and PaddleNLP's create_data.py: special tokens around
every document, group_texts on batches of 1,000 documents, which drops what is left over, save_to_disk.

    python benchmarks/originals/group_texts.py TOKENIZER INPUT.jsonl OUTPUT_DIR LENGTH
"""

import sys
import tempfile
from itertools import chain

from datasets import load_dataset
from transformers import AutoTokenizer, BertTokenizer


def main(name: str, source: str, output: str, length: int) -> int:
    """Write the data set; return the number of its tokens."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError):  # a folder with nothing but vocab.txt
        tokenizer = BertTokenizer.from_pretrained(name)

    def tokenize(examples):
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group(examples):
        joined = {key: list(chain.from_iterable(rows)) for key, rows in examples.items()}
        total = len(joined["input_ids"]) // length * length
        return {key: [flat[i : i + length] for i in range(0, total, length)] for key, flat in joined.items()}

    with tempfile.TemporaryDirectory() as cache:
        texts = load_dataset("json", data_files=source, split="train", cache_dir=cache)
        rows = texts.map(tokenize, batched=True, remove_columns=texts.column_names).map(group, batched=True)
        rows.save_to_disk(output)
    return len(rows) * length


if __name__ == "__main__":
    print(main(*sys.argv[1:4], int(sys.argv[4])))
