"""What other libraries raise about a damaged file, as an error of ours that names it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from data.files import DataError

_LONGEST = 200  # characters of what the library says
_OF_SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE}


@contextmanager
def foreign_errors(file: Path, what: str, cure: str, error: type[UserError] = DataError) -> Iterator[None]:
    """Raise `error` for whatever the inside, which reads one file or folder, does not take.

    what: that it must be; cure: what to do. Our own errors, and those of a disk or of rights, go on as they are.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as fault:  # of the kinds that these libraries raise there is no end
        cause = fault
        while cause is not None:  # datasets hides a full disk behind an error of its own
            if isinstance(cause, OSError) and cause.errno in _OF_SYSTEM:
                raise cause from None
            cause = cause.__cause__
        reason = " ".join(str(fault.__cause__ or fault).split())[:_LONGEST] or type(fault).__name__
        raise error(f"{file}: must be {what}, got a damaged one ({reason}); {cure}") from fault
