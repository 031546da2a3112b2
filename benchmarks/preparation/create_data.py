"""Compare data/create_data.py with datasets.map: tokens per CPU-second of the whole command, imports included.

    python benchmarks/preparation/create_data.py --text corpus.txt reviews.txt --vocabulary vocab.txt

The texts (UTF-8, a document a line) are mixed sentence by sentence into JSON lines. A WordPiece tokenizer reads
--vocabulary, or is trained on the texts as the byte-level BPE and the sentencepiece unigram tokenizer are. Both sides
read the same file with the same tokenizer in one process, one after the other, and write rows of --length tokens.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, SentencePieceUnigramTokenizer
from tokenizers.processors import RobertaProcessing

ROOT = Path(__file__).resolve().parents[2]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_SENTENCE = re.compile(r"[^。！？!?.]+[。！？!?.]*")


def mix(sources: list[str], target: Path, megabytes: float) -> None:
    """Write JSON lines of at least `megabytes`, documents of 1 to 40 sentences of `sources`."""
    texts = "\n".join(Path(source).read_text(encoding="utf-8") for source in sources)
    sentences = [sentence for line in texts.split("\n") for sentence in _SENTENCE.findall(line)]
    rng, written = random.Random(1234), 0
    with target.open("wb") as file:
        while written < megabytes * 1e6:
            text = "".join(rng.choices(sentences, k=rng.randint(1, 40))).strip()
            written += file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")


def make_tokenizers(folder: Path, sources: list[str], vocabulary: str | None, size: int) -> dict[str, Path]:
    """Name -> folder of a WordPiece, a byte-level BPE and a sentencepiece unigram tokenizer."""
    folders = {name: folder / name.replace(" ", "_") for name in ("WordPiece", "byte-level BPE", "unigram")}
    for path in folders.values():
        path.mkdir()
    wordpiece, bpe, unigram = folders.values()
    if vocabulary:
        shutil.copy(vocabulary, wordpiece / "vocab.txt")
    else:
        trained = BertWordPieceTokenizer()
        trained.train(sources, vocab_size=size, show_progress=False)
        trained.save_model(str(wordpiece))
    options = {"vocab_size": size, "special_tokens": SPECIALS, "show_progress": False}
    for path, trained, more in (
        (bpe, ByteLevelBPETokenizer(), {}),
        (unigram, SentencePieceUnigramTokenizer(), {"unk_token": "<unk>"}),
    ):
        trained.train(sources, **options, **more)
        trained.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
        trained.save(str(path / "tokenizer.json"))
        names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(zip(names, SPECIALS, strict=True))}
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return folders


def cpu_seconds(command: list) -> tuple[float, str]:
    """CPU seconds of all processes of a command, and what it printed last."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout.decode().split("\n")[-2]


def compare(tokenizer: Path, source: Path, folder: Path, length: int, repeats: int) -> tuple[float, float]:
    """Tokens per CPU-second of ours and of datasets.map, the best of `repeats` runs each, taken in turns."""
    speeds = ([], [])
    for number in range(repeats):
        ours, theirs = folder / f"ours-{number}", folder / f"theirs-{number}"
        command = [sys.executable, ROOT / "data" / "create_data.py", "--tokenizer_name", tokenizer]
        command += ["--train_file", source, "--output_dir", ours, "--max_seq_length", length]
        seconds, _ = cpu_seconds([*command, "--preprocessing_num_workers", 1])
        counts = json.loads((ours / "manifest.json").read_text())["counts"]
        speeds[0].append((counts["tokens"] + 2 * counts["documents"]) / seconds)
        command = [sys.executable, ROOT / "benchmarks" / "originals" / "group_texts.py", tokenizer, source, theirs]
        seconds, tokens = cpu_seconds([*command, length])
        speeds[1].append(int(tokens) / seconds)
        shutil.rmtree(ours)
        shutil.rmtree(theirs)
    return max(speeds[0]), max(speeds[1])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", nargs="+", required=True, help="text files, a document a line")
    parser.add_argument("--vocabulary", help="vocab.txt of a BERT tokenizer; default: one trained on the texts")
    parser.add_argument("--vocab_size", type=int, default=8000, help="of the tokenizers that are trained")
    parser.add_argument("--megabytes", type=float, default=20, help="JSON lines to prepare")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side; the fastest counts")
    args = parser.parse_args(argv)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mix(args.text, folder / "texts.jsonl", args.megabytes)
        print("| tokenizer | datasets.map, tokens/CPU-s | data/create_data.py | ratio |\n|---|---|---|---|")
        for kind, tokenizer in make_tokenizers(folder, args.text, args.vocabulary, args.vocab_size).items():
            ours, theirs = compare(tokenizer, folder / "texts.jsonl", folder, args.length, args.repeats)
            print(f"| {kind} | {theirs:,.0f} | {ours:,.0f} | {ours / theirs:.1f} |", flush=True)


if __name__ == "__main__":
    main()
