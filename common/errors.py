"""The one base class of errors that a user can mend."""


class UserError(ValueError):
    """An expected error: its message is one line that names the flag or the file (and line) and says what to do.

    Scripts print it and end with exit code 1 (common/script.py); every other exception is a fault of this repository
    and keeps its traceback.
    """
