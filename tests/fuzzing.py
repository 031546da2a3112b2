"""Damaged inputs for readers: mutations of valid files, and the promise that a reader makes about every one of them.

A reader either takes an input or raises an expected error (common/errors.py) whose one line names the file; it never
hangs, never runs what a file holds and never asks for memory that the input does not justify.
"""

import copy
import json
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

SHORT, LONG = 50, 5000  # inputs of a test in the default suite, and of a `slow` one
SECONDS = 10  # after which a reader counts as hanging
MEMORY = 4 << 30  # bytes that a reader may add to the address space

_VALUES = (None, True, False, 0, -1, 1.5, 2**31, 2**64, -(2**63), 1e308, float("nan"), "", "x", "../../up", "\0")
_VALUES += ("龘" * 9, [], {}, [[]], [None], [0] * 100, {"": {}}, [{}], "9" * 5000)
_BYTES = (b"", b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\n", b"\r\n", b"\t", b'"', b"{", b"}", b"[", b"]", b",")
_BYTES += (b"\\", b"\\ud800", b"nan", b"1e999", b"-1", b"9" * 30, b"\xc3\x28", b"null", b"true", b"\x80" * 8, b"PK")
_FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class"}
_watching = []


def mutate_bytes(original: bytes, rng: random.Random) -> bytes:
    """One to four small damages: bits flipped, a span cut, doubled, moved or overwritten, the end lost."""
    damaged = bytearray(original)
    for _ in range(rng.choice((1, 1, 2, 4))):
        first = rng.randrange(len(damaged) + 1)
        last = min(len(damaged), first + rng.choice((1, 1, 2, 8, 64, len(damaged))))
        kind = rng.randrange(6)
        if kind == 0 and first < len(damaged):
            damaged[first] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del damaged[first:last]
        elif kind == 2:
            damaged[first:first] = damaged[first:last][:4096]
        elif kind == 3:
            damaged[first:last] = rng.choice(_BYTES)
        elif kind == 4:
            damaged[first:first] = rng.choice(_BYTES)
        else:
            del damaged[first:]
    return bytes(damaged)


def mutate_json(value, rng: random.Random):
    """A copy of a JSON value in which one to three places hold something else, lack something or hold it twice."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return rng.choice(_VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind <= 2:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))
        elif kind == 3:
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[f"{key}x"] = holder.pop(key)
    return value


def _places(value) -> Iterator[tuple]:
    """Every (container, key) below a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def damaged_files(original: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` mutations of a file; of a JSON file every other one is of its values."""
    rng = random.Random(seed)
    try:
        value = json.loads(original)
    except ValueError:
        value = None
    for number in range(count):
        if value is not None and number % 2:
            yield json.dumps(mutate_json(value, rng)).encode()
        else:
            yield mutate_bytes(original, rng)


def storm(read: Callable, file: Path, inputs: Iterable[bytes], expected=UserError, naming: str | None = None) -> dict:
    """Put each of `inputs` into `file` and read it; how many were taken and how many refused.

    read: no arguments; expected: what it may raise; naming: text that each message must hold, by default the file's
    name. AssertionError that shows the input for anything else: another exception, a message of several lines or
    without the name, more than SECONDS, a command run, an object unpickled.
    """
    naming = file.name if naming is None else naming
    counts = {"taken": 0, "refused": 0}
    for number, content in enumerate(inputs):
        file.write_bytes(content)
        shown = f"input {number} of {file.name}: {content[:300]!r}"
        try:
            with _bounded():
                read()
            counts["taken"] += 1
        except expected as error:
            message = str(error)
            assert naming in message and "\n" not in message, f"{shown}\nsays {message!r}"
            counts["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"{shown}\nraises {type(error).__name__}: {error}") from error
    return counts


@contextmanager
def _bounded() -> Iterator[None]:
    """The inside may take SECONDS and MEMORY, and must run no command and unpickle no object."""
    if not _watching:
        sys.addaudithook(_refuse)  # hooks stay for good, so there is one
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    previous = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    _watching[:] = [True]
    try:
        yield
    finally:
        _watching[:] = [False]
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _late(number, frame):
    raise TimeoutError(f"more than {SECONDS} seconds")


def _refuse(event: str, arguments) -> None:
    if _watching == [True] and event in _FORBIDDEN:
        raise PermissionError(f"{event} {arguments}")
