"""Middleware in front of the page: refuse other sites' requests and frames, limit bodies, check the password."""

import logging
import time
from base64 import b64decode
from binascii import Error as NoBase64
from collections import OrderedDict
from collections.abc import Callable
from secrets import compare_digest
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


LARGEST_BODY = 4 * 2**20
"""Bytes of a request's body; the longest stroke takes a fifth of that."""
SAFE_METHODS = ("GET", "HEAD")
RESPONSE_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
"""Headers of every response: no other site can frame the page, embed its pictures or keep a handle on its window."""


class _TooLarge(Exception):
    pass


class Guard:
    """ASGI middleware in front of the whole application.

    Args:
        app: the guarded application.
        password: None disables the check.
    """

    def __init__(self, app: ASGIApp, password: str | None) -> None:
        self._app, self._passwords = app, None if password is None else Passwords(password)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, 403, 413 or 429 in one line, or let the request through."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif refused is not None:
            await refused(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await _limited(self._app, scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if _is_foreign(scope, headers):
            return PlainTextResponse("not for this site", 403)
        if self._passwords is None:
            return None
        address = (scope.get("client") or ("?", 0))[0]
        status, wait = self._passwords.check(address, headers.get("authorization", ""))
        if status == 429:
            words = f"too many wrong passwords; wait {wait:.0f} s"
            return PlainTextResponse(words, 429, {"Retry-After": str(int(wait) + 1)})
        asked = {"WWW-Authenticate": 'Basic realm="persam-dreambooth review", charset="UTF-8"'}
        return None if status is None else PlainTextResponse("password required", status, asked)


def _is_foreign(scope: Scope, headers: Headers) -> bool:
    """Return whether another site's page sent a request; only following a link to the page is allowed."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and origin.partition("://")[2] != headers.get("host", ""):
        return True
    if site in (None, "same-origin", "none"):  # no browser, the page itself, or a typed address
        return False
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return scope.get("method") not in SAFE_METHODS or not is_link or scope["path"].startswith("/picture/")


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in RESPONSE_HEADERS.items():
                headers[name] = value
        await send(message)

    return answer


async def _limited(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass a request through until its body gets too large; then answer 413, whatever the application responds."""
    state: dict[str, Any] = {"bytes": 0, "started": False, "too large": False}
    said = PlainTextResponse(f"a request has at most {LARGEST_BODY} bytes", 413, {"Connection": "close"})
    claimed = Headers(scope=scope).get("content-length", "0")
    if not claimed.isdigit() or len(claimed) > 12 or int(claimed) > LARGEST_BODY:
        await said(scope, receive, send)
        return

    async def counted() -> Message:
        message = await receive()
        state["bytes"] += len(message.get("body", b""))
        if state["bytes"] > LARGEST_BODY:
            state["too large"] = True
            raise _TooLarge
        return message

    async def watched(message: Message) -> None:
        if state["too large"] and not state["started"]:
            return  # the application's own response to the exception
        state["started"] = True
        await send(message)

    try:
        await app(scope, counted, watched)
    except Exception:
        if not state["too large"]:
            raise
    if state["too large"] and not state["started"]:
        await said(scope, receive, send)
