"""`/`: a page that follows the streams in a browser; no build step, nothing from other hosts.

`web/sdk` is a link to the JavaScript SDK, clients/js/src; a wheel holds the files themselves.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

_WEB = Path(__file__).parent / "web"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def web_routes() -> list[BaseRoute]:
    """The page and its files: those that are there, and no other path."""
    # By level: `rglob` does not follow the link to the SDK.
    files = [path for path in (*_WEB.glob("*"), *_WEB.glob("*/*")) if path.suffix in _TYPES]
    return [
        _route("/", _WEB / "index.html"),
        *(_route(f"/{path.relative_to(_WEB).as_posix()}", path) for path in sorted(files)),
    ]


def file_route(address: str) -> Route:
    """One of the files, at its own address."""
    return _route(address, _WEB / address.removeprefix("/"))


def _route(address: str, file: Path) -> Route:
    async def answer(_request: Request) -> Response:
        return FileResponse(file, media_type=_TYPES[file.suffix], headers=HEADERS)

    return Route(address, answer)
