"""`/readyz`, `/startupz`, `/metrics` of a gateway of several processes, whichever is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Self

import msgspec
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from services.common.observability.health import Health, package_version
from services.gateway.workers.channel import ChannelDown

METRICS_PATH = "/metrics"
# Asked with the path and the `Accept` header; answers a `Reply`'s fields.
Ask = Callable[[tuple[str, str]], Awaitable[Any]]


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes

    @classmethod
    def of_json(cls, body: Any, *, good: bool) -> Self:
        return cls(200 if good else 503, "application/json", msgspec.json.encode(body))

    @classmethod
    def of_metrics(cls, collector: Collector, accept: str) -> Self:
        # OpenMetrics, and with it exemplars, for whoever accepts it.
        encode, content_type = choose_encoder(accept)
        return cls(200, content_type, encode(collector))


async def all_ready(ask: Ask) -> bool:
    """Whether `/readyz` of all processes says yes."""
    try:
        return Reply(*await ask(("/readyz", ""))).status == HTTPStatus.OK
    except ChannelDown:
        return False


def _unanswered(reason: str) -> Response:
    """In the form of a report, as whoever asks for readiness reads one."""
    health = Health("gateway")
    health.failed("supervisor", reason)
    body = {**health.report(), "started": False, "pending": ["supervisor"]}
    return JSONResponse(body, status_code=503)


def routes(ask: Ask, info: Callable[[], Mapping[str, Any]]) -> list[BaseRoute]:
    """The routes every service has; what is about all processes is asked for."""

    async def alive(_request: Request) -> Response:
        return JSONResponse({"alive": True, "service": "gateway"})

    async def asked(request: Request) -> Response:
        try:
            answer = await ask((request.url.path, request.headers.get("accept", "")))
        except ChannelDown as error:
            return _unanswered(str(error))
        reply = Reply(*answer)
        return Response(reply.body, reply.status, media_type=reply.content_type)

    async def about(_request: Request) -> Response:
        return JSONResponse({"version": package_version(), **info()})

    return [
        Route("/healthz", alive),
        Route("/livez", alive),
        Route("/readyz", asked),
        Route("/startupz", asked),
        Route(METRICS_PATH, asked),
        Route("/info", about),
    ]
