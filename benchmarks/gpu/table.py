"""The table of benchmarks/gpu_check.py: cases that each end as a row, whatever happens to them, within one budget."""

import gc
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu.subjects import Shape
from benchmarks.measuring import markdown

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "triton", "transformers", "accelerate", "tokenizers", "numpy")
Case = tuple[str, Callable[[], dict]]  # a name, and what measures the numbers of its row


class Wrong(Exception):
    """A result that is not right. numbers: what was measured all the same."""

    def __init__(self, message: str, numbers: dict):
        super().__init__(message)
        self.numbers = numbers


def bounded(numbers: dict, **bounds: float) -> dict:
    """The numbers, if those named in bounds are finite and at most as large; else Wrong."""
    too_large = {name: bound for name, bound in bounds.items() if not numbers[name] <= bound}
    if too_large:
        raise Wrong("above " + ", ".join(f"{name} {bound:g}" for name, bound in too_large.items()), numbers)
    return numbers


@dataclass
class Check:
    """What all sections share.

    Attributes:
        tiny: toy sizes, to see on a CPU that everything runs.
        out: folder of the table; work: one for runs and corpora.
        seconds: of the whole check, from started on.
        cases: a regular expression, which the names of cases must have somewhere.
        peaks: FLOP/s of a product of random numbers, by dtype; bandwidth: bytes/s read and written by a copy.
        rows: of the table so far.
    """

    device: torch.device
    tiny: bool
    out: Path
    work: Path
    seconds: float
    command: str
    cases: str = ""
    started: float = field(default_factory=time.perf_counter)
    peaks: dict[torch.dtype, float] = field(default_factory=dict)
    bandwidth: float = float("nan")
    rows: list[dict] = field(default_factory=list)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.seconds - (time.perf_counter() - self.started)

    def size(self, full, tiny):
        return tiny if self.tiny else full

    def shape(self, layers: int, rows: int, length: int = 512, hidden: int = 768, vocabulary: int = 12000) -> Shape:
        """What is measured, by default of a base model; a toy in its place where the check is tiny."""
        return Shape(2, 32, 2, 24, 300) if self.tiny else Shape(layers, hidden, rows, length, vocabulary)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def run(self, section: str, cases: Callable[["Check"], Iterator[Case]], needed: float) -> None:
        """All cases of a section; those that would begin with less than the seconds needed are told as left out."""
        try:
            for name, measure in cases(self):
                if not re.search(self.cases, name):
                    continue
                if self.left < needed:
                    self.add(section, name, "SKIPPED", {"why": f"{self.left:.0f} s left, {needed:g} needed"})
                else:
                    self._run_case(section, name, measure)
        except Exception as error:  # of what the cases have in common
            self.add(section, "all", "FAILED", {"why": described(error)})

    def _run_case(self, section: str, name: str, measure: Callable[[], dict]) -> None:
        start = time.perf_counter()
        try:
            status, numbers = "ok", measure()
        except Wrong as error:
            status, numbers = "FAILED", error.numbers | {"why": str(error)}
        except Exception as error:  # whatever it is: the other rows are wanted all the same
            status, numbers = "FAILED", {"why": described(error)}
            with (self.out / "failures.txt").open("a", encoding="utf-8") as file:
                file.write(f"{section}: {name}\n{traceback.format_exc()}\n")
        self.add(section, name, status, numbers | {"seconds": time.perf_counter() - start})
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def add(self, section: str, name: str, status: str, numbers: dict) -> None:
        """A row, printed and written at once: a machine that is taken away leaves what was measured."""
        row = {"section": section, "name": name, "status": status}
        row |= {key: shown(value) for key, value in numbers.items()}
        self.rows.append(row)
        print(f"[{time.perf_counter() - self.started:4.0f} s] {json.dumps(row, ensure_ascii=False)}", flush=True)
        self.write()

    def write(self) -> None:
        described_by = {"date": time.strftime("%Y-%m-%d"), "card": self.card(), "versions": versions()}
        described_by |= {"command": self.command, "seconds": round(time.perf_counter() - self.started)}
        text = json.dumps(described_by | {"rows": self.rows}, indent=1, ensure_ascii=False)
        (self.out / "gpu_check.json").write_text(text + "\n", encoding="utf-8")
        (self.out / "gpu_check.md").write_text(page(described_by, self.rows), encoding="utf-8")

    def card(self) -> str:
        return torch.cuda.get_device_name() if self.cuda else "CPU, sizes of a test" if self.tiny else "CPU"


def described(error: Exception) -> str:
    """One line: type, message and the place in this repository."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
    where = f" ({Path(places[-1].filename).relative_to(ROOT)}:{places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def shown(value):
    """A value as the table holds it: four digits of a fraction, a dictionary as text."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return ", ".join(f"{key} {number}" for key, number in value.items())
    return value


def versions() -> dict[str, str]:
    there = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            there[package] = version(package)
        except PackageNotFoundError:
            continue
    return there


def page(described_by: dict, rows: list[dict]) -> str:
    """The table of every section, under a line that says where and when it was measured."""
    libraries = ", ".join(f"{name} {number}" for name, number in described_by["versions"].items())
    parts = [
        f"{described_by['card']}, {described_by['date']}, {libraries}; `{described_by['command']}`, "
        f"{described_by['seconds']} s.\n"
    ]
    for section in dict.fromkeys(row["section"] for row in rows):
        own = [{key: cell(value) for key, value in row.items()} for row in rows if row["section"] == section]
        parts.append(f"**{section}**\n\n{markdown([row | {'section': section} for row in own])}")
    return "\n".join(parts)


def cell(value) -> str:
    return str(value).replace("|", "/")
