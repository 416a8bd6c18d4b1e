"""The exceptions that are said in one line: what the user can mend, and a signal that ended the work."""


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was given, what is allowed, what to do. Command lines print
    it and exit with code 2; library callers catch it as the `ValueError` it is.
    """


class Stopped(Exception):
    """A signal ended the work early, and what was done is kept; the message says where.

    Attributes:
        signal: its number; command lines exit with 128 + this.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
