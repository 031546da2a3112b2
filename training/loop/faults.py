"""What disk, memory or another process did to a training becomes one line with the state from which it goes on."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UNWRITTEN, ArgumentError, UserError, describe_fault
from training.files import why_not_written
from training.loop.checkpoints import all_checkpoints, remove_partial
from training.loop.finiteness import NotFinite


@contextmanager
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
            with suppress(OSError):
                remove_partial(output_dir)  # it may be what has filled the disk
        kept = all_checkpoints(output_dir)
        if kept:
            last = f"{kept[-1]} is the last good state, and the same command goes on from there"
        else:
            last = f"there is no checkpoint in {output_dir}, and the same command starts over"
        raise UserError(f"{what}; {last}") from error
