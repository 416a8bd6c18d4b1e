"""The page's password, and the growing wait after wrong ones."""

import logging
import time
from base64 import b64decode
from binascii import Error as NoBase64
from collections import OrderedDict
from collections.abc import Callable
from secrets import compare_digest

from persam_dreambooth.errors import UserError

SHORTEST = 8
"""Characters that a password must have."""
FREE = 3
"""Wrong passwords that an address may send in a row before it has to wait."""
LONGEST_WAIT = 60.0
"""Seconds."""
ADDRESSES = 10_000
"""Addresses whose failures are remembered."""
logger = logging.getLogger(__name__)


def check_password(password: str | None) -> None:
    """Refuse a password that is soon guessed; None asks for none.

    Raises:
        UserError: it has fewer than `SHORTEST` characters.
    """
    if password is not None and len(password) < SHORTEST:
        raise UserError(f"the password has {len(password)} characters; choose one of at least {SHORTEST}")


class Passwords:
    """Checks passwords; an address that sends wrong ones waits, twice as long after each, and is not heard meanwhile.

    Args:
        password: the right one.
        clock: seconds that never go back.
    """

    def __init__(self, password: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._password, self._clock = password.encode(), clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, address: str, authorization: str) -> tuple[int | None, float]:
        """Compare the password of an `Authorization` header.

        Returns:
            None for the right one, 401 for a wrong one or none, 429 while the address has to wait, which is then
            not told whether the password is right; and the seconds that it has to wait.
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
        then = f"; the next one is heard in {wait:.0f} s" if wait else ""
        logger.warning(f"wrong password from {address}, {failures} in a row{then}")
        return 401, wait


def _password_in(authorization: str) -> bytes | None:
    """The password of a Basic header, whatever the user's name; None where there is none."""
    scheme, _, words = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return b64decode(words).partition(b":")[2]
    except (NoBase64, ValueError):
        return b""
