"""The FastAPI application and its listeners."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache, partial
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, WebSocketRoute

from services.common.observability.health import health_routes, package_version
from services.common.observability.statistics import observed
from services.common.runtime import serve_http
from services.gateway.admission.http_limits import HttpLimits
from services.gateway.http.asyncapi import asyncapi_text
from services.gateway.http.pages import bare_health_routes, docs_routes, has_admin_port, web_routes
from services.gateway.http.routes import api_router
from services.gateway.http.ws_endpoint import TOO_LARGE_MESSAGE, Endpoint, Nowhere
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import STATISTICS
from services.gateway.protocol import SUBPROTOCOL
from services.gateway.websocket.http_front import ProtocolFactory
from services.gateway.websocket.server_context import SHARED_PORT, SOCKET_OPTIONS, ReadLimits


@cache
def _asyncapi() -> bytes:
    # Fifty milliseconds' work, and the same for everybody.
    return asyncapi_text().encode()


def create_app(gateway: Gateway, health: Sequence[BaseRoute] | None = None) -> FastAPI:
    """Everything the gateway's port serves. Runs under any ASGI server.

    `health`: the routes that every service has, if not this process's own.
    """
    app = FastAPI(
        title="Market Data Fan-Out gateway",
        version=package_version(),
        description="Snapshots, ticks and gaps over HTTP; the live streams are at `/ws`.",
        # Their pages load scripts from other hosts; `docs_page` does not.
        docs_url=None,
        redoc_url=None,
    )

    # Bare ASGI: FastAPI's own WebSocket endpoints cost as much again as the rest of a handshake.
    app.router.routes.append(WebSocketRoute("/ws", Endpoint(gateway), name="ws"))
    app.router.routes.append(WebSocketRoute("/{path:path}", Nowhere()))

    @app.get("/ws", include_in_schema=False)
    async def not_upgraded() -> Response:
        headers = {"upgrade": "websocket", "connection": "upgrade"}
        return PlainTextResponse("/ws is a WebSocket; see /asyncapi.json", 426, headers)

    @app.get("/asyncapi.json", summary="The WebSocket protocol, as AsyncAPI")
    async def asyncapi() -> Response:
        return Response(_asyncapi(), media_type="application/json")

    app.include_router(api_router(gateway))
    if not has_admin_port(gateway.settings):
        app.router.routes.extend(docs_routes(partial(_openapi, app)))
    if health is None:
        health = _health_routes(gateway)
    app.router.routes.extend(health)
    app.router.routes.extend(web_routes())
    return app


@asynccontextmanager
async def serve(gateway: Gateway, health: Sequence[BaseRoute] | None = None) -> AsyncIterator[int]:
    """The gateway on its port while the block runs; yields the port that was bound.

    With `health` it is one of several processes: it shares the port, and leaves the admin port to
    the process that speaks for all.
    """
    settings = gateway.settings
    options = SOCKET_OPTIONS if health is None else (*SOCKET_OPTIONS, SHARED_PORT)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway.running())
        metrics = gateway.metrics
        await stack.enter_async_context(observed(metrics.registry, metrics.loop, STATISTICS))
        app = create_app(gateway, health)
        if health is None and has_admin_port(settings):
            routes = health_routes(gateway.health, info_of(gateway), gateway.metrics.registry)
            await stack.enter_async_context(
                serve_http(
                    Starlette(routes=[*routes, *docs_routes(partial(_openapi, app))]),
                    settings.http_host,
                    settings.admin_port or 0,
                )
            )
        port = await stack.enter_async_context(
            serve_http(
                app,
                settings.http_host,
                settings.http_port,
                http=ProtocolFactory(
                    handshake_s=settings.ws_handshake_timeout_s,
                    ping_interval_s=settings.ws_ping_interval_s,
                    ping_timeout_s=settings.ws_ping_timeout_s,
                    deflate=settings.gateway_compression,
                    reading=ReadLimits(
                        max_fragments=settings.ws_max_fragments,
                        control_per_s=settings.ws_max_control_per_sec,
                        message_s=settings.ws_message_timeout_s,
                        too_large=TOO_LARGE_MESSAGE,
                    ),
                    silent=settings.ws_max_connections,
                    limits=HttpLimits(
                        settings.http_max_connections,
                        settings.http_queue_bytes,
                        settings.http_write_timeout_s,
                        settings.http_max_connections_per_address,
                    ),
                    proxies=gateway.parts.proxies,
                    on_refused=metrics.http_was_refused,
                ),
                socket_options=options,
                proxy_headers=False,
            )
        )
        yield port


def _health_routes(gateway: Gateway) -> list[BaseRoute]:
    if not has_admin_port(gateway.settings):
        return health_routes(gateway.health, info_of(gateway), gateway.metrics.registry)

    async def ready() -> bool:
        return gateway.health.ready

    return bare_health_routes(ready)


async def _openapi(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def info_of(gateway: Gateway) -> dict[str, object]:
    return {
        "protocol": SUBPROTOCOL,
        "shards": gateway.settings.shard_count,
        "broker": gateway.settings.broker_kind,
    }
