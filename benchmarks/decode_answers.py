"""Seconds to decode and to score all answers of CMRC 2018's development set, and the scores of perfect logits.

    python benchmarks/decode_answers.py --data_file cmrc2018/dev.json

Windows are those of run_glue.py (512 tokens, stride 128) over a vocabulary of the file's own characters. Random logits
take the longest: every window offers all its starts and ends, and predicted answers are long. Perfect logits are 1 at
the ends of the first gold answer and 0 elsewhere; what they miss is longer than --max_answer tokens.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from transformers import BertTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.features.build import Features, Windows, combine, make_features
from data.scoring.metrics import score
from data.scoring.predictions import decode
from data.tasks.loading import load_task
from data.tasks.table import find_task


def character_tokenizer(records: list[dict]) -> BertTokenizer:
    """A tokenizer whose tokens are single characters, inside words, too."""
    characters = sorted(set("".join(record["context"] + record["question"] for record in records).lower()))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        return BertTokenizer.from_pretrained(folder)


def random_logits(features: Features, seed: int = 0) -> Windows:
    rng = np.random.default_rng(seed)
    return combine(features, [rng.normal(size=(2, length)) for length in features.lengths])


def perfect_logits(features: Features) -> Windows:
    """features: made for training, so that they have targets."""
    windows = combine(features, [np.zeros((2, length)) for length in features.lengths])
    row = np.arange(len(features))
    windows.start[row, features.targets[:, 0]] = windows.end[row, features.targets[:, 1]] = 1
    return windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_file", required=True, help="CMRC 2018's dev.json, or another file of its form")
    parser.add_argument("--max_answer", type=int, default=50, help="longest answer in tokens (default: 50)")
    options = parser.parse_args()
    task = find_task("cmrc2018")
    records = load_task(task, files={"validation": options.data_file})["validation"].records
    tokenizer, sizes = character_tokenizer(records), {"max_length": task.max_length, "token_types": True}
    features = make_features(task, records, tokenizer, training=False, label_ids={}, **sizes)
    print(f"{len(records)} questions, {len(features)} windows")
    outputs = random_logits(features)
    cpu, wall = time.process_time(), time.perf_counter()
    predictions = decode(task, records, outputs, max_answer=options.max_answer)
    print(f"decode: {time.process_time() - cpu:.2f} CPU-seconds, {time.perf_counter() - wall:.2f} seconds")
    cpu, wall = time.process_time(), time.perf_counter()
    score(task, records, predictions)
    print(f"score: {time.process_time() - cpu:.2f} CPU-seconds, {time.perf_counter() - wall:.2f} seconds")
    features = make_features(task, records, tokenizer, training=True, label_ids={}, **sizes)
    predictions = decode(task, records, perfect_logits(features), max_answer=options.max_answer)
    scores = score(task, records, predictions)
    print("perfect logits: " + ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))


if __name__ == "__main__":
    main()
