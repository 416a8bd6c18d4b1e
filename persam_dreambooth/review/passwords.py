"""Check the page's password, with growing waits after wrong ones."""

import logging
import time
from base64 import b64decode
from binascii import Error as NoBase64
from collections import OrderedDict
from collections.abc import Callable
from secrets import compare_digest

from persam_dreambooth.errors import UserError

SHORTEST = 8
"""Minimum number of characters in a password."""
FREE = 3
"""Number of wrong passwords in a row that an address may send before it has to wait."""
LONGEST_WAIT = 60.0
"""Seconds."""
ADDRESSES = 10_000
"""Number of addresses whose failures are remembered."""
logger = logging.getLogger(__name__)


def check_password(password: str | None) -> None:
    """Refuse a password that is easily guessed; None means no password.

    Raises:
        UserError: it has fewer than `SHORTEST` characters.
    """
    if password is not None and len(password) < SHORTEST:
        raise UserError(f"the password has {len(password)} characters; choose one of at least {SHORTEST}")


class Passwords:
    """Checks passwords; after wrong ones an address is locked out, for twice as long each time.

    Args:
        password: the correct one.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, password: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._password, self._clock = password.encode(), clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, address: str, authorization: str) -> tuple[int | None, float]:
        """Compare the password of an `Authorization` header.

        Returns:
            None for the correct password, 401 for a wrong one or none, 429 while the address has to wait (it is
            then not told whether the password is correct); and the seconds that it has to wait.
        """
        given = _password_in(authorization)
        if given is None:
            return 401, 0.0  # a browser's first request; nothing was guessed
        failures, until = self._failures.get(address, (0, 0.0))
        now = self._clock()
        if now < until:
            return 429, until - now
        if compare_digest(given, self._password):
            self._failures.pop(address, None)
            return None, 0.0
        failures += 1
        wait = min(2.0 ** min(failures - FREE, 10), LONGEST_WAIT) if failures > FREE else 0.0
        self._failures[address] = (failures, now + wait)
        self._failures.move_to_end(address)
        while len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        then = f"; the next one is accepted in {wait:.0f} s" if wait else ""
        logger.warning(f"wrong password from {address}, {failures} in a row{then}")
        return 401, wait


def _password_in(authorization: str) -> bytes | None:
    """Return the password in a Basic header, whatever the user name; None if there is none."""
    scheme, _, words = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return b64decode(words).partition(b":")[2]
    except (NoBase64, ValueError):
        return b""
