"""Ends a run early but whole: on SIGTERM, or when its minutes are over, after the current step and a checkpoint."""

import logging
import signal
import time

import torch
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class StopEarly(TrainerCallback):
    """Saves and stops after the current step once a reason to stop has come up on any process.

    minutes: wall-clock limit of this call, or None. `reason` says afterwards why the run stopped, or is None.
    """

    def __init__(self, minutes: float | None = None):
        self.minutes = minutes
        self.reason: str | None = None
        self._signalled = False
        self._group = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = time.monotonic()
        self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        if args.world_size > 1:
            # Hosts agree over gloo, so that no process has to wait for its device.
            self._group = torch.distributed.new_group(backend="gloo")

    def _on_signal(self, number, frame):
        self._signalled = True

    def on_step_end(self, args, state, control, **kwargs):
        late = self.minutes is not None and time.monotonic() - self._start > 60 * self.minutes
        reasons = torch.tensor([self._signalled, late], dtype=torch.int32)
        if self._group is not None:
            torch.distributed.all_reduce(reasons, torch.distributed.ReduceOp.MAX, group=self._group)
        signalled, late = reasons.tolist()
        # The last numbers are worth a line; after a signal they wait, so that the curve stays the undisturbed one.
        control.should_log |= state.global_step >= state.max_steps or (bool(late) and not signalled)
        if (signalled or late) and state.global_step < state.max_steps:
            self.reason = "SIGTERM" if signalled else f"--max_train_minutes {self.minutes:g}"
            control.should_save = control.should_training_stop = True
            control.should_evaluate |= args.do_eval and not signalled  # a signal leaves little time

    def on_train_end(self, args, state, control, **kwargs):
        signal.signal(signal.SIGTERM, self._previous)
        if self.reason is not None:
            logger.info(
                "stopped at step %d of %d (%s); the same command goes on from here",
                state.global_step,
                state.max_steps,
                self.reason,
            )
