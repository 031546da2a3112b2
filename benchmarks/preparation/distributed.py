"""Compare data/distributed.py with the scripts alone: CPU seconds of all processes, and the largest process, in MB.

    python benchmarks/preparation/distributed.py --vocabulary vocab.txt --text corpus.txt reviews.txt

The texts (UTF-8, a document a line) are mixed sentence by sentence into JSON lines, which data/trans_to_json.py
shuffles and cleans of duplicates and run_chinese_ref.py turns into a corpus: alone with one worker, and as tasks. Both
ways must write the same bytes. A forked process counts the memory it shares with its parent, too. Needs datatrove.
"""

import argparse
import ctypes
import filecmp
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from statistics import median

if __name__ == "__main__":  # started as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.preparation.chinese_ref import mix

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_CHILD_SUBREAPER = 36  # of Linux' sys/prctl.h


def measure(command: list) -> tuple[float, float]:
    """CPU seconds of a command and all that it starts, and the largest resident set among these processes in MB.

    In a process of its own, because the kernel sums over all that a process has waited for; orphans come to it too.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        code = subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
        with suppress(ChildProcessError):
            while True:
                os.wait()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        os.write(writer, f"{used.ru_utime + used.ru_stime} {used.ru_maxrss / 1e3}".encode())
        os._exit(code != 0)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    seconds, memory = os.read(reader, 1000).split()
    return float(seconds), float(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--vocabulary", required=True, help="vocab.txt of the tokenizer")
    add("--text", nargs="+", required=True, help="files of text, a document a line")
    add("--megabytes", type=float, default=200)
    add("--tasks", type=int, nargs="+", default=[2, 5])
    add("--repeats", type=int, default=3, help="runs of each, in turns, of which the median counts")
    add("--folder", help="where to work; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (folder / "tokenizer").mkdir()
        shutil.copy(args.vocabulary, folder / "tokenizer" / "vocab.txt")
        megabytes = mix(args.text, folder / "in.jsonl", args.megabytes)
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.chdir(folder)
        cleaning = ["--json_field", "text", "--dedup", "--input_path", "in.jsonl"]
        marking = ["--tokenizer_name", "tokenizer", "--input_path", "whole.jsonl"]
        for script, flags, output, suffix in (
            ("data/trans_to_json.py", cleaning, "--output_path", ".jsonl"),
            ("run_chinese_ref.py", marking, "--output_dir", ""),
        ):
            single = [sys.executable, ROOT / script, *flags, "--workers", 1, output, f"whole{suffix}"]
            shared = [sys.executable, ROOT / "data" / "distributed.py", script, *flags, output, f"shared{suffix}"]
            runs = {tasks: [] for tasks in [0, *args.tasks]}
            for _ in range(args.repeats):
                remove(Path(f"whole{suffix}"))
                runs[0].append(measure(single))
                for tasks in args.tasks:
                    runs[tasks].append(measure([*shared, "--tasks", tasks]))
                    compare(Path(f"whole{suffix}"), Path(f"shared{suffix}"))
                    remove(Path(f"shared{suffix}"))
            report(script, megabytes, runs)


def report(script: str, megabytes: float, runs: dict[int, list[tuple[float, float]]]) -> None:
    """Print medians by the number of tasks, 0 for the script alone."""
    alone, memory = map(median, zip(*runs.pop(0), strict=True))
    print(f"{script}: {megabytes:.0f} MB, alone {alone:.1f} CPU-s, {memory:.0f} MB")
    for tasks, values in runs.items():
        seconds, memory = map(median, zip(*values, strict=True))
        ratios = ", ".join(f"{value / alone:.2f}" for value, _ in values)
        print(
            f"{tasks} tasks: {seconds:.1f} CPU-s, {seconds / alone:.2f} times ({ratios}); {memory:.0f} MB; equal",
            flush=True,
        )


def compare(whole: Path, shared: Path) -> None:
    """Raise SystemExit unless both hold the same bytes."""
    files = [whole, *sorted(whole.rglob("*"))]
    pairs = [(path, shared / path.relative_to(whole)) for path in files if path.is_file()]
    if any(not filecmp.cmp(*pair, shallow=False) for pair in pairs):
        raise SystemExit(f"{shared} differs from {whole}")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
