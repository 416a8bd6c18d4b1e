"""Middleware in front of the page: refuse other sites' requests and frames, limit bodies, check the password."""

from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from persam_dreambooth.review.passwords import Passwords

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
