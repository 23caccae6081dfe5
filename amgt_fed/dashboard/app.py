"""The page's addresses: files, and the runs as JSON. Nothing here writes."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amgt_fed.dashboard.clients import clients_page
from amgt_fed.dashboard.shelf import Shelf
from amgt_fed.errors import AMGTFedError

_STATIC = Path(__file__).with_name("static")
_COOKIE = "amgt_token"
_POINTS = 1200  # of a curve: more than a screen has columns for

# Nothing from elsewhere; Plotly sets style attributes, and makes pictures as blobs.
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def build_app(shelf: Shelf, *, token: str = "", hosts: list[str] | None = None) -> Starlette:
    """The ASGI application.

    Args:
        token: where given, nothing is answered without it: `?token=` once, a cookie afterwards.
        hosts: names this server is called by; a request for another is refused (DNS rebinding). None: any.
    """

    def page(request: Request) -> Response:
        return FileResponse(_STATIC / "index.html", headers={"cache-control": "no-cache"})

    def plotly(request: Request) -> Response:
        return FileResponse(plotly_script(), media_type="text/javascript", headers={"cache-control": "max-age=86400"})

    def runs(request: Request) -> Response:
        return _json(request, [feed.overview() for feed in shelf.feeds()])

    def series(request: Request) -> Response:
        feed = shelf.feed(request.path_params["run"])
        return _unknown(request) if feed is None else _json(request, feed.series(_POINTS))

    def clients(request: Request) -> Response:
        feed = shelf.feed(request.path_params["run"])
        if feed is None:
            return _unknown(request)
        try:
            return _json(request, clients_page(feed.directory, request.query_params))
        except AMGTFedError as error:
            return PlainTextResponse(str(error), 400)

    middleware = [Middleware(GZipMiddleware, minimum_size=2000), Middleware(_Guard, token=token)]
    if hosts is not None:
        middleware.insert(0, Middleware(TrustedHostMiddleware, allowed_hosts=hosts))
    return Starlette(
        routes=[
            Route("/", page),
            Route("/plotly.js", plotly),
            Route("/api/runs", runs),
            Route("/api/runs/{run}/series", series),
            Route("/api/runs/{run}/clients", clients),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=middleware,
    )


def plotly_script() -> Path:
    """Plotly's own script, from the installed `plotly` package; the package itself is not imported.

    Raises:
        AMGTFedError: it is not installed.
    """
    spec = importlib.util.find_spec("plotly")
    found = Path(spec.origin).parent / "package_data" / "plotly.min.js" if spec and spec.origin else None
    if found is None or not found.exists():
        raise AMGTFedError("the dashboard draws with Plotly, which is not installed; pip install plotly")
    return found


class _Guard:
    """Lets in who has the token, and adds the headers every answer carries."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            await send(message)

        refused = self._refusal(Request(scope)) if self._token else None
        await (refused or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        if self._is_right(request.cookies.get(_COOKIE, "")):
            return None
        if self._is_right(request.query_params.get("token", "")):
            # The token leaves the address bar, and with it the history and what is copied from there.
            response = RedirectResponse(request.url.path, 303)
            response.set_cookie(_COOKIE, self._token, httponly=True, samesite="strict")
            return response
        return PlainTextResponse("This dashboard needs its token: open the address it printed when it started.\n", 401)

    def _is_right(self, offered: str) -> bool:
        return hmac.compare_digest(offered.encode(), self._token.encode())


def _json(request: Request, content: object) -> Response:
    """As JSON; 304 where the reader holds the same bytes already."""
    response = JSONResponse(content)
    tag = f'"{hashlib.blake2b(response.body, digest_size=12).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def _unknown(request: Request) -> Response:
    return PlainTextResponse(f"there is no run {request.path_params['run']!r}", 404)
