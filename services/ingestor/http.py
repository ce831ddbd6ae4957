"""The ingestor's HTTP side: health, what the feeds are doing, and what it takes and answers."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.common.clock import now_us
from services.common.errors import BrokerUnavailable, InvalidSubject, VenueRefused
from services.common.observability.health import Health, health_routes, package_version
from services.common.subjects import check_token
from services.common.wire import UNREADABLE
from services.ingestor.app import Ingestor


class _Products(msgspec.Struct):
    products: Annotated[list[str], msgspec.Meta(min_length=1)]


_decode_products = msgspec.json.Decoder(_Products).decode

_OPENAPI = Path(__file__).with_name("openapi.json")


def make_app(ingestor: Ingestor, health: Health) -> Starlette:
    """The ASGI application; calls that change something need `ADMIN_API_KEY`."""

    async def openapi(_request: Request) -> Response:
        return JSONResponse(openapi_document())

    async def feeds(_request: Request) -> Response:
        reports = [feed.report() for feed in ingestor.feeds]
        return JSONResponse({"role": ingestor.role.value, "feeds": reports})

    async def one_feed(request: Request) -> Response:
        name = request.path_params["name"]
        feed = next((feed for feed in ingestor.feeds if feed.name == name), None)
        return JSONResponse(feed.report()) if feed else _problem(404, f"no feed {name!r}")

    async def products(request: Request) -> Response:
        refusal = _refusal(ingestor, request)
        if refusal is not None:
            return refusal
        try:
            wanted = _decode_products(await request.body()).products
            for product in wanted:
                check_token(product)
            changed = await ingestor.set_products(list(dict.fromkeys(wanted)))
        except (*UNREADABLE, InvalidSubject) as error:
            return _problem(400, f'expected {{"products": ["BTC-USD", ...]}}: {error}')
        except VenueRefused as error:
            return _problem(409, str(error))
        except BrokerUnavailable as error:
            return _problem(503, str(error))
        return JSONResponse(changed)

    async def resync(request: Request) -> Response:
        refusal = _refusal(ingestor, request)
        if refusal is not None:
            return refusal
        product = request.path_params["product"]
        feed = next((feed for feed in ingestor.feeds if product in feed.products), None)
        if feed is None:
            return _problem(404, f"product {product!r} is not served")
        book = feed.products[product].book
        if book is not None:
            book.distrust("operator", "asked for by an operator", now_us())
        return JSONResponse({"product": product, "resync": book is not None}, status_code=202)

    return Starlette(
        routes=[
            *health_routes(health, _info(ingestor), registry=ingestor.registry),
            Route("/openapi.json", openapi),
            Route("/feeds", feeds),
            Route("/feeds/{name}", one_feed),
            Route("/products", products, methods=["PUT"]),
            Route("/products/{product}/resync", resync, methods=["POST"]),
        ]
    )


def _info(ingestor: Ingestor) -> dict[str, Any]:
    settings = ingestor.settings
    return {
        "broker": settings.broker_kind,
        "venue": "coinbase",
        "channels": list(settings.coinbase_channels),
        "line": settings.line,
    }


def _refusal(ingestor: Ingestor, request: Request) -> Response | None:
    """Why the caller may not change anything; None when they may."""
    key = ingestor.settings.admin_api_key
    if key is None:
        return _problem(403, "ADMIN_API_KEY is not set, so nothing can be changed here")
    given = request.headers.get("x-api-key", "")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given = token
    if not hmac.compare_digest(given.encode(), key.get_secret_value().encode()):
        return _problem(401, "the key is missing or wrong")
    return None


def _problem(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


def openapi_document() -> dict[str, Any]:
    """What `/openapi.json` answers: the file beside this module, of this version."""
    document = msgspec.json.decode(_OPENAPI.read_bytes(), type=dict[str, Any])
    document["info"]["version"] = package_version()
    return document
