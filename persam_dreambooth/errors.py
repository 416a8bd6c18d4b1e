"""The one exception for what the user can mend: bad input, said in one line."""


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was given, what is allowed, what to do. Command lines print
    it and exit with code 2; library callers catch it as the `ValueError` it is.
    """
