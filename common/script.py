"""How a script begins and ends: expected errors as one line, Ctrl-C without a traceback, all processes in order."""

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


def run_script(main: Callable) -> None:
    """The whole of a script: main(), an expected error as one line, and an end in order of all its processes."""
    with one_line_errors():
        main()
    _end_processes()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line, `script.py: what is wrong`, where the inside raises an expected error."""
    name = Path(sys.argv[0]).name
    try:
        yield
    except UserError as error:
        sys.exit(f"{name}: {' '.join(str(error).splitlines())}")
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _end_processes() -> None:
    """Where several processes ran, end this one with the others and exit code 0; otherwise return.

    Threads of gloo may still have to drop tensors of the last collectives, for which they wait for Python's lock; to
    be waiting when Python is taken down aborts the process (https://github.com/pytorch/pytorch/pull/179291, seen with
    DeepSpeed). So it ends as a child of multiprocessing does: after all that Python runs at exit, but with Python up.
    """
    torch = sys.modules.get("torch")  # the data scripts end without it
    if torch is None or not torch.distributed.is_initialized():
        return
    device = torch.accelerator.current_device_index() if torch.accelerator.is_available() else 0
    torch.distributed.barrier(device_ids=[device])  # the first may hold the store that the others still ask
    torch.distributed.destroy_process_group()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
