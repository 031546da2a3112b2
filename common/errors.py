"""Errors that are no fault of this repository: what a user can mend, and what the machine did to a process."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNWRITTEN = "a file could not be written to its end"  # by a library that does not say why
_UNWRITTEN = ("PytorchStreamWriter", "inline_container", "iostream error")  # torch.save's, the last of C++'s streams
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust's libraries (safetensors, tokenizers) end such a message
_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.")
_LONGEST = 600  # characters of a foreign message
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)
_ROOT, _OURS = Path(__file__).resolve().parents[1], {"common", "data", "models", "training"}


class UserError(ValueError):
    """An expected error: its message is one line that names the flag or the file (and line) and says what to do.

    Scripts print it and end with its exit code (common/script.py); every other exception is a fault of this repository
    and keeps its traceback.
    """

    exit_code = 1
    together = False  # whether all processes of a run raise it at the same place


class Stopped(KeyboardInterrupt):
    """Ctrl-C that all processes of a run have agreed on; its message is one line."""


def describe_fault(error: BaseException) -> str | None:
    """What files, memory or another process did, in a line; None where `error` tells of neither.

    UserErrors are told as they are, without the traceback that torch's DataLoader puts before a worker's.
    """
    text = str(error).strip()
    if _WORKER.match(text):  # the last line is `module.Kind: message`
        text = text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    if isinstance(error, UserError):
        return " ".join(text.splitlines())
    text = " ".join(text.split())[:_LONGEST]
    if isinstance(error, OSError):
        return _of_system(error.errno, error.filename) if error.errno and error.strerror else text or repr(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
        return "too little memory" + (f" ({text})" if text else "")
    if type(error).__name__ in ("OutOfMemoryError", "AcceleratorError") and "out of memory" in text:
        return f"too little memory on the device ({text})"
    if code := _OS_ERROR.search(text):
        return _of_system(int(code[1]), None)
    if not isinstance(error, RuntimeError):
        return None
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        cause = "a file that it read was cut short" if "Bus error" in text else "most often for want of memory"
        return f"a process of --dataloader_num_workers was killed, {cause} ({text.split('. ')[0]})"
    if any(sign in text for sign in _UNWRITTEN) or text.startswith("unexpected pos"):
        return UNWRITTEN
    if any(sign in text for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe")):
        return f"another process of this run has ended, see its message ({text})"
    return None


def _of_system(number: int, file: str | bytes | None) -> str:
    reason = os.strerror(number)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        reason += "; make room"
    return f"{' '.join(os.fsdecode(file).splitlines())}: {reason}" if isinstance(file, str | bytes) else reason


@contextmanager
def library_errors(kind: type[UserError], expected: str, advice: str) -> Iterator[None]:
    """What libraries raise inside, where they read a user's files, as `kind`: "{expected}, got: {reason}; {advice}".

    Parsers, torch, safetensors and tokenizers raise errors of every class about a damaged file. A UserError passes as
    it is, and so does an error of _FAULTS that a line of this repository raises: that is a fault here.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        foreign = isinstance(error, Exception) or type(error).__name__ == "PanicException"  # of Rust's libraries
        if not foreign or (isinstance(error, _FAULTS) and _raised_here(error)):
            raise
        text = " ".join(str(error).split())
        reason = describe_fault(error) or (text if text and isinstance(error, ValueError) else None)
        reason = reason or f"{type(error).__name__} {text}".rstrip()
        raise kind(f"{expected}, got: {reason[:_LONGEST]}; {advice}") from error


def _raised_here(error: BaseException) -> bool:
    """Whether the line that raised it is one of this repository's packages."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    path = Path(trace.tb_frame.f_code.co_filename)
    return path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS


class ArgumentError(UserError):
    """A flag has a value that cannot work; the message is one line and starts with the flag."""
