"""What the public port says of the process's health while an admin port says the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from services.common.settings import CommonSettings


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
