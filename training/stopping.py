"""Ends a run early but whole: on SIGTERM, or when its minutes are over, after the current step and a checkpoint."""

import logging
import os
import signal
import threading
import time
from contextlib import contextmanager

import torch
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


def obey_parent_only() -> None:
    """Make this child process end on a SIGTERM of its parent, and on no other.

    A scheduler signals every process of a job; the parent then still has a step to finish and needs its workers.
    """
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
        self._signalled = False
        self._group = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = time.monotonic()
        self.seconds = self.seconds_before
        if args.world_size > 1:
            # Hosts agree over gloo, so that no process has to wait for its device.
            self._group = torch.distributed.new_group(backend="gloo")

    @contextmanager
    def listening(self):
        """Meanwhile a SIGTERM is a reason to stop; afterwards, whatever happened, it does what it did before."""
        previous = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _on_signal(self, number, frame):
        self._signalled = True

    @property
    def share(self) -> float:
        """How much of the limit is used up."""
        return (self.seconds if self.across_calls else self.seconds - self.seconds_before) / self.limit

    def on_step_end(self, args, state, control, **kwargs):
        now = torch.tensor(
            [self._signalled, self.seconds_before + time.monotonic() - self._start], dtype=torch.float64
        )
        if self._group is not None:
            torch.distributed.all_reduce(now, torch.distributed.ReduceOp.MAX, group=self._group)
        signalled, self.seconds = now.tolist()
        late = self.share >= 1 and not signalled
        # The last numbers are worth a line; after a signal they wait, so that the curve stays the undisturbed one.
        control.should_log |= late or state.global_step >= state.max_steps
        if (signalled or late) and state.global_step < state.max_steps:
            self.reason = "SIGTERM" if signalled else f"--max_train_minutes {self.limit / 60:g}"
            control.should_save = control.should_training_stop = True
            control.should_evaluate |= args.do_eval and late  # a signal leaves little time

    def on_train_end(self, args, state, control, **kwargs):
        if self.reason is not None:
            logger.info(
                "stopped at step %d of %d (%s); the same command goes on from here",
                state.global_step,
                state.max_steps,
                self.reason,
            )
