"""The pages: the board at `/`, which follows the streams in a browser, and `/docs`.

And what the public port says of the process's health while an admin port says the rest. No build
step, and nothing from other hosts. `web/sdk` is a link to the JavaScript SDK, clients/js/src; a
wheel holds the files themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from services.common.settings import CommonSettings

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


_METHODS = ("get", "put", "post", "delete")


def docs_routes(document: Callable[[], Awaitable[Mapping[str, Any]]]) -> list[BaseRoute]:
    """The page, its style, and the OpenAPI document that `document` gives."""

    async def docs(_request: Request) -> Response:
        return HTMLResponse(docs_page(await document()), headers=HEADERS)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(await document())

    return [Route("/docs", docs), file_route("/docs.css"), Route("/openapi.json", openapi)]


def docs_page(document: Mapping[str, Any]) -> str:
    """The page as HTML."""
    info = document["info"]
    title, about = escape(info["title"]), escape(info.get("description", ""))
    calls = [
        _call(method, path, item[method])
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n"
        '<link rel="stylesheet" href="/docs.css">\n</head>\n<body>\n<main>\n'
        f"<h1>{title} <small>{escape(info['version'])}</small></h1>\n<p>{about}</p>\n"
        '<p>For machines: <a href="/openapi.json">OpenAPI</a> (this API), '
        '<a href="/asyncapi.json">AsyncAPI</a> (the WebSocket). Where keys are configured, send '
        "yours as the header <code>X-API-Key</code>.</p>\n"
        + "".join(calls)
        + "</main>\n</body>\n</html>\n"
    )


def _call(method: str, path: str, operation: Mapping[str, Any]) -> str:
    summary = escape(operation.get("summary", ""))
    answers = "".join(
        f"<li><code>{escape(code)}</code> {escape(answer.get('description', ''))}</li>"
        for code, answer in operation.get("responses", {}).items()
    )
    return (
        f"<section>\n<h2><code>{method.upper()} {escape(path)}</code></h2>\n<p>{summary}</p>\n"
        f"{_parameters(operation.get('parameters', []))}<ul>{answers}</ul>\n</section>\n"
    )


def _parameters(parameters: list[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}</td>"
        f"<td>{escape(_values(one))}</td><td>{escape(_about(one))}</td></tr>"
        for one in parameters
    )
    head = "<tr><th>parameter</th><th>in</th><th>values</th><th>meaning</th></tr>"
    return f"<table>{head}{rows}</table>\n" if rows else ""


def _values(parameter: Mapping[str, Any]) -> str:
    """What it may be, in words."""
    schema = parameter["schema"]
    kinds = schema.get("anyOf", [schema])
    words = [kind["type"] for kind in kinds if kind.get("type") not in (None, "null")]
    if "enum" in schema:
        words = schema["enum"]
    text = " | ".join(words)
    if parameter.get("required"):
        return f"{text}, required"
    return f"{text} ({schema['default']})" if schema.get("default") is not None else text


def _about(parameter: Mapping[str, Any]) -> str:
    found: str = parameter.get("description", parameter["schema"].get("description", ""))
    return found


def has_admin_port(settings: CommonSettings) -> bool:
    """Whether health in detail, metrics and documents have a port of their own."""
    return settings.admin_port not in (None, settings.http_port)


def bare_health_routes(ready: Callable[[], Awaitable[bool]]) -> list[BaseRoute]:
    """That it lives, and whether it is ready: for load balancers, and for whoever finds them."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(_request: Request) -> Response:
        holds = await ready()
        return JSONResponse({"ready": holds}, status_code=200 if holds else 503)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]
