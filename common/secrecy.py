"""What a command line looks like where others may read it."""

import re
from collections.abc import Sequence

HIDDEN = "***"
_FLAG = re.compile(r"-{1,2}(?:\w+[-_])*(?:token|password|passwd|secret|api[-_]?key|access[-_]key)", re.IGNORECASE)
_VALUE = re.compile(r"\bhf_\w{8,}|(?<=://)[^/@\s]+(?=@)")  # the hub's tokens, user and password in an address


def shown_command(argv: Sequence[str]) -> list[str]:
    """The words of a command line without tokens and passwords: `--hub_token ***`, `https://***@host/`."""
    shown, hide = [], False
    for word in argv:
        name, equals, _ = word.partition("=")
        secret = _FLAG.fullmatch(name) is not None
        shown.append(HIDDEN if hide else f"{name}={HIDDEN}" if secret and equals else _VALUE.sub(HIDDEN, word))
        hide = secret and not equals
    return shown
