"""Run a script that prepares data on many machines: its work is cut into tasks, which datatrove runs.

    flags="--input_path outputs/mine/all.jsonl --tokenizer_name outputs/mine/tokenizer --output_dir outputs/mine/many"
    python data/distributed.py run_chinese_ref.py --executor local --tasks 4 $flags

The script is run_chinese_ref.py, data/create_data.py or data/trans_to_json.py, with its own flags beside those below.
What is written equals what the script writes alone, byte for byte, for any number of tasks. All machines see one disk.
A task that fails ends the run with its line, and the same command goes on.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # started as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import ArgumentError, UserError
from common.flags import FlagParser, split_flags
from common.script import run_script
from data.script_step import ScriptStep, silence

ROOT = Path(__file__).resolve().parent.parent
LOCAL, SLURM, RAY = "local", "slurm", "ray"
_GRACE = 5.0  # seconds that a pool takes to end
_YOUNG, _OLD = 0.01, 0.5  # seconds between looks at a pool: a process killed younger than the first is not noticed
RESERVED = ("--shard_index", "--num_shards", "--merge", "--step")


class Step(NamedTuple):
    """Flags of a script that do one step of its work; shared: by all tasks."""

    name: str
    flags: tuple[str, ...]
    shared: bool


CORPUS = (Step("share", (), True), Step("merge", ("--merge",), False))
SORT = (
    Step("read", ("--step", "read"), True),
    Step("reorder", ("--step", "reorder"), True),
    Step("sort", ("--step", "sort"), True),
    Step("join", ("--step", "join"), False),
)
SCRIPTS = {"run_chinese_ref.py": CORPUS, "data/create_data.py": CORPUS, "data/trans_to_json.py": SORT}


def build_parser() -> FlagParser:
    """Return the parser of the command line."""
    parser = FlagParser(doc=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("script", choices=SCRIPTS, help="the script, before all flags")
    add("--executor", choices=(LOCAL, SLURM, RAY), default=LOCAL, help="who runs tasks: this machine or a cluster")
    add("--tasks", type=int, required=True, help="shares that the work is cut into; the same when it is gone on with")
    add("--tasks_at_once", type=int, help="default: local: as there are CPUs for them; slurm and ray: all")
    add("--cpus_per_task", type=int, default=1, help="CPUs of a task, and the script's --workers")
    add("--mem_per_cpu_gb", type=int, default=2, help="memory that slurm and ray keep for a task, by CPU")
    add("--time", help="slurm: the most that a task takes, as sbatch has it")
    add("--partition", help="slurm: where the tasks are queued")
    add("--sbatch_args", default="", help="slurm: more options, as account=x,qos=y")
    add("--logging_dir", default="logs/distributed", help="folder of what tasks print, a new one in it for each run")
    return parser


def check(args: argparse.Namespace, flags: list[str]) -> None:
    """ArgumentError naming the flag whose value cannot work."""
    for flag in ("tasks", "tasks_at_once", "cpus_per_task", "mem_per_cpu_gb"):
        if (value := getattr(args, flag)) is not None and value < 1:
            raise ArgumentError(f"--{flag} must be at least 1, got {value}; raise it")
    if args.executor == SLURM and not (args.time and args.partition):
        raise ArgumentError("--executor slurm needs --time and --partition; add them")
    for typed in split_flags(flags):
        if typed.flag.replace("-", "_").replace("__", "--", 1) in RESERVED:
            raise ArgumentError(f"{typed.flag} is given to the script for each task; leave it out")
    pairs = [pair.partition("=") for pair in args.sbatch_args.split(",") if pair]
    if not all(name and equals for name, equals, _ in pairs):
        raise ArgumentError(f"--sbatch_args must be name=value,name=value, got {args.sbatch_args!r}; change it")
    try:
        import datatrove  # noqa: F401
    except ImportError:
        raise ArgumentError(
            "data/distributed.py needs datatrove, got no such package; pip install -r requirements-distributed.txt"
        ) from None


def make_executor(args: argparse.Namespace, step: Step, block: ScriptStep, before):
    """The executor of one step. before: that of the step before it, which SLURM waits for."""
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor

    at_once = args.tasks_at_once or -1
    options = {"tasks": args.tasks if step.shared else 1, "workers": at_once, "logging_dir": str(block.logs.parent)}
    if args.executor == LOCAL:
        at_once = args.tasks_at_once or max(len(os.sched_getaffinity(0)) // args.cpus_per_task, 1)
        options["workers"] = min(at_once, options["tasks"])  # 1: without a pool
        return LocalPipelineExecutor([block], **options, start_method="fork")  # others would import datatrove again
    options |= {"cpus_per_task": args.cpus_per_task, "mem_per_cpu_gb": args.mem_per_cpu_gb}
    if args.executor == RAY:
        return RayPipelineExecutor([block], **options)
    places = {"PYTHONPATH": ROOT, "PATH": Path(sys.executable).parent}
    return SlurmPipelineExecutor(
        [block],
        time=args.time,
        partition=args.partition,
        qos=None,
        sbatch_args=dict(pair.split("=", 1) for pair in args.sbatch_args.split(",") if pair),
        env_command="\n".join(f"export {name}={shlex.quote(str(place))}:${name}" for name, place in places.items()),
        job_name=f"{Path(args.script).stem}-{step.name}",
        depends=before,
        **options,
    )


@contextmanager
def pool_watched(executor) -> Iterator[None]:
    """End the wait for a process of this machine's pool that was killed: the pool would wait for its task for ever."""
    import multiprocess

    over, killed, lock = threading.Event(), threading.Event(), threading.Lock()

    def watch() -> None:
        seen, pause = set(), _YOUNG
        while not over.wait(pause):
            alive = {process.pid for process in multiprocess.active_children() if "PoolWorker" in process.name}
            if seen - alive and not over.wait(_GRACE):  # at its end a pool ends them itself
                with lock:
                    if not over.is_set() and executor.get_incomplete_ranks():
                        killed.set()
                        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                return
            seen |= alive
            pause = _YOUNG if len(seen) < executor.workers else _OLD  # to look costs CPU time

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        if not killed.is_set():
            raise
    finally:
        with lock:
            over.set()


def run_steps(executors: list, blocks: list[ScriptStep]) -> None:
    """Run one step after the other; UserError with the line of a task that failed."""
    for executor, block in zip(executors, blocks, strict=True):
        print(f"{block.logs.parent.name}: {executor.world_size} tasks", file=sys.stderr)
        pool = block.forked and executor.workers > 1
        with suppress(subprocess.CalledProcessError), pool_watched(executor) if pool else nullcontext():
            executor.run()
        if failed := executor.get_incomplete_ranks():
            rank = max(failed, key=lambda rank: bool(block.error(rank)))
            why = block.error(rank) or f"it was killed or not run ({block.logs}); run the same command again to go on"
            raise UserError(f"task {rank} of {executor.world_size}: {why}")


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv`. ArgumentError naming the flag, or UserError with the line of a task."""
    args, flags = build_parser().parse_known_args(argv)
    check(args, flags)
    steps = SCRIPTS[args.script]
    if not {"--dedup", "--no-shuffle"} <= {*flags}:
        steps = [step for step in steps if step.name != "reorder"]
    logs = Path(args.logging_dir).resolve() / time.strftime("%Y%m%d-%H%M%S")
    script = [str(ROOT / args.script), "--workers", str(args.cpus_per_task), "--override", *flags]
    forked = args.executor == LOCAL
    if forked:  # for all tasks
        import_module(args.script.removesuffix(".py").replace("/", "."))
    blocks = [ScriptStep([*script, *step.flags], logs / step.name / "tasks", step.shared, forked) for step in steps]
    executors = []
    for step, block in zip(steps, blocks, strict=True):
        executors.append(make_executor(args, step, block, executors[-1] if executors else None))
    silence(whole=True)
    if args.executor == SLURM:
        executors[-1].run()
        print(f"queued: {', '.join(step.name for step in steps)}; what tasks print comes to {logs}")
        return
    if args.executor == RAY:
        import ray

        ray.init(log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    run_steps(executors, blocks)
    out, errors = blocks[-1].printed(0)
    print(out, end="")
    print(errors, end="", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
