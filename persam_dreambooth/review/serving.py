"""The server: which host, whose password, which files; nothing else is told to anybody."""

import socket
from base64 import b64decode
from binascii import Error as NoBase64
from collections.abc import Callable
from io import BytesIO
from secrets import compare_digest
from typing import Any

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.review.opened import Opened

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST = 2048
"""Pictures are sent with at most so many pixels a side."""
Asgi = Callable[..., Any]


def check_host(host: str, password: str | None) -> None:
    """Refuse another host than this machine without a password.

    Raises:
        UserError: no password.
    """
    if host not in LOOPBACK and not password:
        raise UserError(
            f"--host {host} lets other machines in; set a password (the environment variable "
            "PERSAM_REVIEW_PASSWORD, or --password), or leave --host out"
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; port 0 takes a free one.

    Raises:
        UserError: the host is unknown or the port taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at {host}, port {port} ({error}); choose another --host or --port") from error
    return bound


class Guard:
    """ASGI middleware in front of everything: the password, and requests that another site's page sends.

    Without a password only this machine's own names are answered, so that a foreign site cannot rename itself to
    127.0.0.1; and in any case a request that a page of another origin sends is refused.

    Args:
        app: what is guarded.
        password: None asks for none.
    """

    def __init__(self, app: Asgi, password: str | None) -> None:
        self._app, self._password = app, password

    async def __call__(self, scope: dict[str, Any], receive: Asgi, send: Asgi) -> None:
        """Answer 401 or 403, or let the request through."""
        if scope["type"] in ("http", "websocket"):
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            status = self._refusal(headers)
            if status:
                await _refuse(send, status)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: dict[str, str]) -> int | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403
        if self._password is None:
            name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
            return None if name.strip("[]") in LOOPBACK else 403
        return None if compare_digest(_password_in(headers).encode(), self._password.encode()) else 401


def _password_in(headers: dict[str, str]) -> str:
    """The password of an `Authorization: Basic` header, whatever the user's name; empty without one."""
    scheme, _, words = headers.get("authorization", "").partition(" ")
    try:
        return b64decode(words).decode("utf-8").partition(":")[2] if scheme.lower() == "basic" else ""
    except (NoBase64, ValueError):
        return ""


async def _refuse(send: Asgi, status: int) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="persam-dreambooth review", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"password, please" if status == 401 else b"not for this site"})


def build_app(opened: Opened, page: Any, password: str | None) -> Any:
    """The whole application.

    Args:
        opened: what may be served from.
        page: Gradio Blocks and how they look, from `page.build_page`.
        password: asked for where it is not None.
    """
    import gradio
    from fastapi import FastAPI, HTTPException, Response

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/picture/{address:path}")
    def picture(address: str, side: int = LARGEST, v: str | None = None) -> Response:
        try:
            content, kind = render(opened, address, min(max(side, 1), LARGEST))
        except UserError as error:
            raise HTTPException(404, "no such picture") from error
        keep = "no-store" if v is None else "private, max-age=86400"  # a version's picture never changes
        return Response(content, media_type=kind, headers={"Cache-Control": keep})

    blocks, looks = page
    gradio.mount_gradio_app(
        app, blocks, path="/", footer_links=[], run_history=False, ssr_mode=False, show_error=False, **looks
    )
    return Guard(app, password)


def render(opened: Opened, address: str, side: int) -> tuple[bytes, str]:
    """A picture of the opened folders as a browser takes it; nothing but pictures can be had.

    Args:
        opened: the folders.
        address: as `Opened.resolve` takes it.
        side: the longer side is made at most so many pixels.

    Returns:
        The bytes and their media type.

    Raises:
        UserError: no such file in the folders, or no picture.
    """
    path = opened.resolve(address)
    picture = files.read_photo(path)
    picture.thumbnail((side, side))
    file = BytesIO()
    if path.suffix.lower() == ".png":
        picture.save(file, format="PNG", compress_level=1)
        return file.getvalue(), "image/png"
    picture.save(file, format="JPEG", quality=90)
    return file.getvalue(), "image/jpeg"


def server_of(app: Any) -> Any:
    """A uvicorn server; its `run(sockets=[bound])` serves until it is told to stop."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=1)
    )
