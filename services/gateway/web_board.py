"""`/`: a page that follows the streams in a browser; no build step, nothing from other hosts."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

_WEB = Path(__file__).parent / "web"
_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "board.js": "text/javascript; charset=utf-8",
    "board.css": "text/css; charset=utf-8",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def web_routes() -> list[BaseRoute]:
    """The page and its two files."""

    async def page(_request: Request) -> Response:
        return _file("index.html")

    async def asset(request: Request) -> Response:
        return _file(request.url.path.rsplit("/", 1)[-1])

    return [Route("/", page), Route("/board.js", asset), Route("/board.css", asset)]


def _file(name: str) -> Response:
    return FileResponse(_WEB / name, media_type=_TYPES[name], headers=_HEADERS)
