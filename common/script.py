"""How a script begins and ends: expected errors as one line, Ctrl-C without a traceback, all processes in order.

Exit codes: 0 done, or stopped by the clock or a lost terminal with a checkpoint to go on from; 1 an expected error,
told in one line, or any other one, with a traceback; 3 the loss or the gradient was not finite
(training/loop/finiteness.py); 75 stopped by SIGTERM or SIGUSR1 with a checkpoint, so that a scheduler's recipe starts
the same command again; 130 after Ctrl-C.
"""

import atexit
import codecs
import io
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import Stopped, UserError, describe_fault

NOT_FINITE = 3
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: to be tried again
INTERRUPTED = 130  # as shells have it
_exit_code = 0  # of a script that has come to its end


def run_script(main: Callable) -> None:
    """The whole of a script: main(), an expected error as one line, and an end in order of all its processes."""
    print_anything()
    end_with(0)
    with one_line_errors():
        main()
        _end_processes(_exit_code)
    if _exit_code:
        sys.exit(_exit_code)


def end_with(code: int) -> None:
    """Let the script that runs end with this exit code, after all that it still has to do."""
    global _exit_code
    _exit_code = code


def print_anything() -> None:
    """Let no name of a file and no text end a script because the terminal's encoding lacks it (LC_ALL=C; GBK names).

    What cannot be printed stands as an escape; a terminal of ASCII alone gets UTF-8, whose names it holds as bytes.
    """
    codecs.register_error("printable", _printable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors="printable")


def _printable(error: UnicodeEncodeError) -> tuple[str | bytes, int]:
    """The bytes of a path that Python could not decode, where they are UTF-8 after all, else escapes."""
    if error.encoding == "utf-8":
        try:
            raw = error.object[error.start : error.end].encode("ascii", "surrogateescape")
            return raw.decode().encode(), error.end
        except UnicodeError:
            pass
    return codecs.backslashreplace_errors(error)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line, `script.py: what is wrong`, where the inside raises an expected error.

    What files, memory and other processes do to a script is expected, too.
    """
    try:
        yield
    except Stopped as error:
        _end(str(error), INTERRUPTED, together=True)
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)
    except UserError as error:
        _end(describe_fault(error), error.exit_code, error.together)
    except Exception as error:
        what = describe_fault(error)
        if what is None:
            raise
        _end(f"{what}; mend that and run the same command again", UserError.exit_code)


def next_command(script: str, *words: object) -> str:
    """A line to paste that runs a script of this repository."""
    return f"python {script} {' '.join(shlex.quote(str(word)) for word in words)}"


def tell_next(script: str, *words: object) -> None:
    """At the end of a script: what is usually done next; not among what it prints as its result."""
    print(f"next, for example: {next_command(script, *words)}", file=sys.stderr)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Meanwhile Ctrl-C waits, and processes that start here never hear it: they leave it to their parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(line: str, code: int, together: bool = False) -> None:
    line = f"{Path(sys.argv[0]).name}: {line}"
    if code == UserError.exit_code:
        sys.exit(line)  # prints it
    if not (together and int(os.environ.get("RANK", "0"))):
        print(line, file=sys.stderr)
    if together:
        _end_processes(code)
    sys.exit(code)


def _quiet_interrupt(kind, error, trace) -> None:
    """For sys.excepthook: Ctrl-C before main(), during the seconds of imports, prints no traceback either."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _quiet_interrupt


def _end_processes(code: int) -> None:
    """Where several processes ran, end this one with the others and this exit code; otherwise return.

    Threads of gloo may still have to drop tensors of the last collectives, for which they wait for Python's lock; to
    be waiting when Python is taken down aborts the process (https://github.com/pytorch/pytorch/pull/179291, seen with
    DeepSpeed). So it ends as a child of multiprocessing does: after all that Python runs at exit, but with Python up.
    """
    torch = sys.modules.get("torch")  # the data scripts end without it
    if torch is None or not torch.distributed.is_initialized():
        return
    own = torch.distributed.get_backend() == "nccl"  # gloo has no devices, on a machine with GPUs neither
    devices = [torch.accelerator.current_device_index()] if own else None
    torch.distributed.barrier(device_ids=devices)  # the first may hold the store that the others still ask
    torch.distributed.destroy_process_group()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
