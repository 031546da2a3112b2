"""Compare run_chinese_ref.py with the original's way: MB of JSONL per CPU-second of the whole command, and memory.

    python benchmarks/preparation/chinese_ref.py --vocabulary vocab.txt --text corpus.txt reviews.txt

The texts (UTF-8, a document a line) are mixed sentence by sentence into new documents, so that no cache profits from
a repeated one. CPU time is that of all processes of a command, from its start to its end, imports included; memory
is the largest sum of proportional set sizes (PSS) over its processes. Linux only.
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
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SENTENCE = re.compile(r"[^。！？!?]+[。！？!?]*")


def mix(sources: list[str], target: Path, megabytes: float) -> float:
    """Write JSON lines of at least `megabytes` from the sentences of `sources`; return the megabytes written."""
    sentences, sizes = [], []
    for source in sources:
        for line in Path(source).read_text(encoding="utf-8").split("\n"):
            sentences_of_line = _SENTENCE.findall(line.strip())
            if sentences_of_line:
                sentences += sentences_of_line
                sizes.append(len(sentences_of_line))
    rng, written = random.Random(1234), 0
    with target.open("wb") as file:
        while written < megabytes * 1e6:
            text = "".join(rng.choices(sentences, k=rng.choice(sizes)))
            written += file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
    return written / 1e6


def measure_cpu(command: list[str]) -> tuple[float, str]:
    """Run a command; return the CPU seconds of all its processes and its standard output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def measure_memory(command: list[str]) -> float:
    """Run a command; return the largest summed PSS of its processes in MB, sampled 20 times a second."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(pss, tree(process.pid))))
        time.sleep(0.05)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak / 1e6


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return []
    return [pid, *(descendant for child in children for descendant in tree(int(child)))]


def pss(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    share = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(share[1]) * 1024 if share else 0


def ours(tokenizer: Path, source: Path, output: Path, workers: int) -> list[str]:
    shutil.rmtree(output, ignore_errors=True)
    flags = ["--model_name", tokenizer, "--input_path", source, "--output_dir", output, "--workers", workers]
    return [sys.executable, str(ROOT / "run_chinese_ref.py"), *map(str, flags)]


def compare(vocabulary: str, folder: Path, sizes: dict[str, float], repeats: int) -> None:
    """Print the speed of both ways with one vocabulary; of several runs the fastest counts, for either side."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    shutil.copy(vocabulary, tokenizer / "vocab.txt")
    speed, seconds = {}, {}
    for workers in (1, 2) * repeats:
        command = ours(tokenizer, folder / "large.jsonl", folder / "corpus", workers)
        cpu, _ = measure_cpu(command)
        seconds[workers] = min(cpu, seconds.get(workers, cpu))
    speed["run_chinese_ref.py"] = sizes["large"] / seconds[1]
    original = [sys.executable, str(ROOT / "benchmarks" / "originals" / "chinese_ref.py"), str(tokenizer)]
    work = Path(tempfile.mkdtemp(dir=folder))
    cpu, output = measure_cpu([*original, str(folder / "small.jsonl"), str(work)])
    halves = json.loads(output.splitlines()[-1])
    speed["the original, references only"] = sizes["small"] / halves["prepare"]
    speed["the original, tokenised for training"] = sizes["small"] / cpu
    entries = Path(vocabulary).read_bytes().count(b"\n")
    for name, value in speed.items():
        print(f"| {entries:,} | {name} | {value:.2f} MB/CPU-s | {value * cpu / sizes['small']:.1f} x |")
    print(f"| {entries:,} | 2 workers / 1 worker | {seconds[2] / seconds[1]:.3f} of the CPU time | |")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vocabulary", nargs="+", required=True, help="vocab.txt files of BERT tokenizers")
    parser.add_argument("--text", nargs="+", required=True, help="text files, a document a line")
    parser.add_argument("--megabytes", type=float, default=60, help="JSONL for run_chinese_ref.py")
    parser.add_argument("--original_megabytes", type=float, default=8, help="JSONL for the original's way")
    parser.add_argument("--memory_megabytes", type=float, nargs="*", default=[2, 200], help="JSONL for the PSS")
    parser.add_argument("--repeats", type=int, default=3, help="runs of run_chinese_ref.py; the fastest counts")
    args = parser.parse_args(argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = {"large": args.megabytes, "small": args.original_megabytes}
        sizes = {key: mix(args.text, folder / f"{key}.jsonl", value) for key, value in wanted.items()}
        print("| vocabulary | way | speed | to the original |\n|---|---|---|---|")
        for vocabulary in args.vocabulary:
            compare(vocabulary, folder, sizes, args.repeats)
        print("\n| JSONL | workers | summed PSS |\n|---|---|---|")
        for megabytes in args.memory_megabytes:
            size = mix(args.text, folder / "memory.jsonl", megabytes)
            for workers in (1, 2):
                command = ours(folder / "tokenizer", folder / "memory.jsonl", folder / "corpus", workers)
                print(f"| {size:.0f} MB | {workers} | {measure_memory(command):.0f} MB |")


if __name__ == "__main__":
    main()
