"""The jobs of a sweep: tasks, a grid of flags and seeds unrolled, each job with a folder named after its settings.

`--grid "lr=1e-5,2e-5;batch_size=16,32"` stands for four configurations. A configuration is known by a hash of all
flags that were given, so that the same flags find the same folder again: OUT/<task>/<hash>/seed<k>.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import ArgumentError
from training.finetune.job import Job


def parse_grid(text: str | None, names: Mapping[str, str]) -> dict[str, list]:
    """Read `flag=value,value;flag=value`; numbers, true and false become JSON's.

    names: what may be typed -> the flag that it stands for, old names included.

    Raises:
        ArgumentError: text of another form, an unknown flag, a flag or value twice.
    """
    grid = {}
    for part in filter(None, (part.strip() for part in (text or "").split(";"))):
        name, equals, values = (piece.strip() for piece in part.partition("="))
        listed = [value.strip() for value in values.split(",")]
        if not (equals and name and all(listed)):
            raise ArgumentError(f"--grid must read flag=value,value;flag=value, got {part!r}; write it so")
        flag = names.get(name.removeprefix("--"))
        if flag is None:
            known = ", ".join(sorted(set(names.values())))
            raise ArgumentError(f"--grid must name flags that a job takes, got {name!r}; choose among {known}")
        if flag in grid:
            raise ArgumentError(f"--grid must name each flag once, got {name!r} twice; join its values by commas")
        grid[flag] = [_value(value) for value in listed]
        if len(set(grid[flag])) < len(listed):
            raise ArgumentError(f"--grid must give each value once, got {part!r}; leave the repeated one out")
    return grid


def parse_seeds(text: str) -> list[int]:
    """`1,2,3` -> [1, 2, 3]. Raises ArgumentError for anything but distinct numbers from 0 on."""
    words = [word.strip() for word in str(text).split(",")]
    if not all(word.isascii() and word.isdigit() for word in words) or len({*map(int, words)}) < len(words):
        raise ArgumentError(f"--seeds must be distinct numbers with commas between, got {text!r}; write 1,2,3")
    return [int(word) for word in words]


def parse_init_from_task(text: str | None) -> dict[str, str]:
    """`rte,mrpc,stsb=mnli;afqmc=cmnli` -> {"rte": "mnli", ...}, names as typed. ArgumentError for another form."""
    sources = {}
    for part in filter(None, (part.strip() for part in (text or "").split(";"))):
        targets, _, source = part.partition("=")
        listed = [target.strip() for target in targets.split(",")]
        if not (source.strip() and all(listed)) or "=" in source:
            raise ArgumentError(f"--init_from_task must read task,task=task, got {part!r}; write rte,mrpc=mnli")
        for target in listed:
            if target in sources:
                raise ArgumentError(f"--init_from_task must name {target!r} once, got it twice; leave one out")
            sources[target] = source.strip()
    return sources


def plan_jobs(
    tasks: Sequence[str],
    settings: Mapping,
    grid: Mapping[str, Sequence],
    seeds: Sequence[int],
    out: Path | str,
    init_from_task: Mapping[str, str] | None = None,
) -> list[Job]:
    """All jobs, those that others wait for first.

    tasks: names; settings: flag -> value for every job, None for a flag that was not given; grid: parse_grid's;
    init_from_task: task -> the task whose best weights of the same configuration and seed it starts from.

    Raises:
        ArgumentError: init_from_task names a source that is not among the tasks or starts from another task itself.
    """
    sources = {task: source for task, source in (init_from_task or {}).items() if task in tasks}
    for task, source in sources.items():
        if source not in tasks:
            raise ArgumentError(f"--init_from_task {task}={source} must name a task of --tasks; add {source} there")
        if source in sources:
            raise ArgumentError(
                f"--init_from_task {task}={source} must name a task that starts from the model, got one that starts "
                f"from {sources[source]}; leave one out"
            )
    typed = {flag: value for flag, value in settings.items() if value is not None}
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    jobs = []
    for task in sorted(tasks, key=lambda task: task not in sources.values()):
        for point, seed in itertools.product(points, seeds):
            source = sources.get(task)
            folder = _folder(out, task, typed | point, source, seed)
            before = _folder(out, source, typed | point, None, seed) if source else None
            jobs.append(Job(task, typed | point, seed, folder, before))
    return jobs


def config_hash(settings: Mapping, source: str | None = None) -> str:
    """Ten hexadecimal digits; equal for equal settings in any order. source: the task whose weights are the start."""
    described = json.dumps([settings, source], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(described.encode("utf-8", "backslashreplace")).hexdigest()[:10]


def varying(settings: Sequence[Mapping]) -> list[str]:
    """Flags that are not equal in all of these settings, in the order in which they appear."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if any(one.get(name) != settings[0].get(name) for one in settings)]


def _folder(out: Path | str, task: str, settings: Mapping, source: str | None, seed: int) -> Path:
    return Path(out) / task / config_hash(settings, source) / f"seed{seed}"


def _value(text: str):
    """A grid's value: true and false, numbers (1e-5 and 0.00001 are one), else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
