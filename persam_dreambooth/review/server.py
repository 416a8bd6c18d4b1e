"""The web server: restricts hosts, checks the password, and serves only pictures of the opened folders."""

import socket
from io import BytesIO
from typing import Any

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.photos import files
from persam_dreambooth.review.workspace import Workspace

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST = 2048
"""Largest side, in pixels, of the pictures sent."""
MISUNDERSTOOD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Exceptions that Gradio raises for requests that its own page would never send."""


def check_host(host: str, password: str | None) -> None:
    """Refuse to listen beyond this machine without a password.

    Raises:
        UserError: no password.
    """
    if host not in LOOPBACK and not password:
        raise UserError(
            f"--host {host} gives other machines access; set a password (the environment variable "
            "PERSAM_REVIEW_PASSWORD, or --password), or leave --host out"
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 takes a free port.

    Raises:
        UserError: the host is unknown or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen at {host}, port {port} ({first_line(error)}); choose another --host or --port"
        ) from error
    return bound


def build_app(workspace: Workspace, page: Any, password: str | None) -> Any:
    """Build the whole application.

    Args:
        workspace: the folders that may be served.
        page: Gradio Blocks with their theme and CSS, from `page.build_page`.
        password: required from every client unless None.
    """
    import gradio
    from fastapi import FastAPI, HTTPException, Request, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import PlainTextResponse

    from persam_dreambooth.review.guard import Guard

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/picture/{address:path}")
    def picture(address: str, side: int = LARGEST, v: str | None = None) -> Response:
        try:
            content, kind = render(workspace, address, min(max(side, 1), LARGEST))
        except UserError as error:
            raise HTTPException(404, "no such picture") from error
        keep = "no-store" if v is None else "private, max-age=86400"  # a version's picture never changes
        return Response(content, media_type=kind, headers={"Cache-Control": keep})

    blocks, looks = page
    gradio.mount_gradio_app(
        app, blocks, path="/", footer_links=[], run_history=False, ssr_mode=False, show_error=False, **looks
    )

    async def misunderstood(_: Request, __: Exception) -> Response:
        return PlainTextResponse("the server does not understand this request; reload the page", 400)

    mounted = (getattr(route, "app", None) for route in app.routes)
    for application in (app, *(part for part in mounted if isinstance(part, FastAPI))):
        for kind in MISUNDERSTOOD:
            application.add_exception_handler(kind, misunderstood)
    if password is None:  # against DNS rebinding: a foreign site whose name resolves to this machine
        return Guard(TrustedHostMiddleware(app, [*LOOPBACK, "[::1]"], www_redirect=False), None)
    return Guard(app, password)


def render(workspace: Workspace, address: str, side: int) -> tuple[bytes, str]:
    """Render a picture in the opened folders for a browser; only pictures are served.

    Args:
        workspace: the folders.
        address: as for `Workspace.resolve`.
        side: the longer side is at most this many pixels.

    Returns:
        The bytes and their media type.

    Raises:
        UserError: there is no such file in the folders, or it is not a picture.
    """
    path = workspace.resolve(address)
    picture = files.read_photo(path)
    picture.thumbnail((side, side))
    file = BytesIO()
    if path.suffix.lower() == ".png":
        picture.save(file, format="PNG", compress_level=1)
        return file.getvalue(), "image/png"
    picture.save(file, format="JPEG", quality=90)
    return file.getvalue(), "image/jpeg"


def server_of(app: Any) -> Any:
    """Return a uvicorn server; its `run(sockets=[bound])` serves until it is told to stop."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=1)
    )
