"""Ends a run early but whole, after the current step and a checkpoint: on a signal, or when its minutes are over.

The signals are SIGTERM, SIGUSR1 (with which clusters announce the end), SIGHUP (the terminal is gone) and SIGINT, the
first Ctrl-C; a second one ends the process at once. One that the process was started to ignore (nohup) stays ignored.
What disk, memory or another process did to a training becomes one line with the state from which it goes on.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import TrainerCallback

from common.errors import UNWRITTEN, ArgumentError, UserError, describe_fault
from training.files import why_not_written
from training.loop.checkpoints import all_checkpoints, remove_partial
from training.loop.finiteness import NotFinite

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


def obey_parent_only() -> None:
    """Make this child process end on a SIGTERM of its parent, and on no other signal of SIGNALS.

    A scheduler or a terminal signals every process; the parent then still has a step to finish and needs its workers.
    """
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait():
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


class StopEarly(TrainerCallback):
    """Saves and stops after the current step once a reason to stop has come up on any process.

    minutes: wall-clock limit, or None. across_calls: the limit is for the whole run instead of this call.
    seconds_before: what earlier calls took. `reason` says afterwards why the run stopped, or is None.
    """

    def __init__(self, minutes: float | None = None, across_calls: bool = False):
        self.limit = float("inf") if minutes is None else 60 * minutes
        self.across_calls = across_calls
        self.seconds_before = 0.0
        self.seconds = 0.0  # of the whole run, as of the last step and agreed among processes
        self.reason: str | None = None
        self._signal = 0  # number of the last one heard
        self._group = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = time.monotonic()
        self.seconds = self.seconds_before
        if args.world_size > 1:
            # Hosts agree over gloo, so that no process has to wait for its device.
            self._group = torch.distributed.new_group(backend="gloo")

    @contextlib.contextmanager
    def listening(self):
        """Meanwhile SIGNALS are a reason to stop; afterwards, whatever happened, they do what they did before."""
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._on_signal) for number in heard}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number, frame):
        if number == signal.SIGINT:
            if self._signal == signal.SIGINT:
                raise KeyboardInterrupt
            with contextlib.suppress(OSError):  # no log or print: it may have come amid one
                os.write(2, b"Ctrl-C: stopping after this step, with a checkpoint; once more: at once\n")
        self._signal = number

    @property
    def signalled(self) -> bool:
        """Whether a signal has stopped the run."""
        return self.reason in signal.Signals.__members__

    @property
    def share(self) -> float:
        """How much of the limit is used up."""
        return (self.seconds if self.across_calls else self.seconds - self.seconds_before) / self.limit

    def on_step_end(self, args, state, control, **kwargs):
        now = torch.tensor([self._signal, self.seconds_before + time.monotonic() - self._start], dtype=torch.float64)
        if self._group is not None:
            torch.distributed.all_reduce(now, torch.distributed.ReduceOp.MAX, group=self._group)
        signalled, self.seconds = now.tolist()
        late = self.share >= 1 and not signalled
        # The last numbers are worth a line; after a signal they wait, so that the curve stays the undisturbed one.
        control.should_log |= late or state.global_step >= state.max_steps
        if (signalled or late) and state.global_step < state.max_steps:
            self.reason = (
                signal.Signals(int(signalled)).name if signalled else f"--max_train_minutes {self.limit / 60:g}"
            )
            control.should_save = control.should_training_stop = True
            control.should_evaluate |= args.do_eval and late  # a signal leaves little time

    def on_train_end(self, args, state, control, **kwargs):
        if self.reason is not None:
            if self.across_calls and not self.signalled:
                what_then = "as --schedule_by_time has it; more minutes go on from here"
            else:
                what_then = "the same command goes on from here"
            self.outcome = f"stopped at step {state.global_step} of {state.max_steps} ({self.reason}); {what_then}"
            logger.info("%s", self.outcome)


@contextlib.contextmanager
def last_state_named(args) -> Iterator[None]:
    """UserError, which names the last good state, for any known fault; args: output_dir and should_save."""
    try:
        yield
    except (NotFinite, ArgumentError):
        raise
    except Exception as error:
        output_dir = Path(args.output_dir)
        what = describe_fault(error)
        if what is None:
            raise
        if what == UNWRITTEN:
            what = why_not_written(output_dir) or what
        if "too little memory" in what:
            what += "; lower --per_device_train_batch_size and raise --gradient_accumulation_steps"
        if args.should_save and output_dir.is_dir():
            with contextlib.suppress(OSError):
                remove_partial(output_dir)  # it may be what has filled the disk
        kept = all_checkpoints(output_dir)
        if kept:
            last = f"{kept[-1]} is the last good state, and the same command goes on from there"
        else:
            last = f"there is no checkpoint in {output_dir}, and the same command starts over"
        raise UserError(f"{what}; {last}") from error
