"""`python -m services.gateway`: choose the adapters, serve until told to stop, drain.

With `WEB_CONCURRENCY` above 1 this is the process that keeps the others, which are started as
`python -m services.gateway worker FD NUMBER`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog
from starlette.routing import BaseRoute

from services.common.command_line import settings_of_service
from services.common.observability.metrics import HealthCollector, Together
from services.common.runtime import Stop, run_service
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.s3 import S3Store
from services.common.stores.s3_archive import S3ArchiveReader
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.gateway.app import create_app, info_of, serve
from services.gateway.http.pages import bare_health_routes, has_admin_port
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import FleetMetrics, Metrics
from services.gateway.settings import GatewaySettings
from services.gateway.workers.channel import WorkerChannel
from services.gateway.workers.health_http import all_ready, exported_families, routes
from services.gateway.workers.supervisor import OPENAPI, Supervisor


def main() -> int:
    arguments = sys.argv[1:]
    match arguments:
        case ["worker", fd, number]:
            settings = _settings([])
            sock = socket.socket(fileno=int(fd))
            return run_service(
                "gateway", settings, lambda stop: _work(settings, stop, sock, number), patient=True
            )
    settings = _settings(arguments)
    if settings.web_concurrency > 1:
        return run_service("gateway", settings, Supervisor(settings, FleetMetrics()).run)
    return run_service("gateway", settings, lambda stop: _alone(settings, stop))


def _settings(arguments: Sequence[str]) -> GatewaySettings:
    purpose = "Serve WebSocket subscribers a snapshot, then every tick, from the tick logs."
    return settings_of_service("gateway", purpose, GatewaySettings, arguments)


async def _alone(settings: GatewaySettings, stop: Stop) -> None:
    async with AsyncExitStack() as stack:
        gateway = await _gateway(settings, stack)
        await _serve(gateway, stop, None)


async def _work(settings: GatewaySettings, stop: Stop, sock: socket.socket, number: str) -> None:
    """One of several: asked by the process that keeps it, and gone when that is gone."""
    structlog.contextvars.bind_contextvars(worker=number)
    async with AsyncExitStack() as stack:
        gateway = await _gateway(settings, stack)
        exposed = Together(gateway.metrics.registry, HealthCollector(gateway.health))

        async def report(asked: Any) -> Any:
            if asked == OPENAPI:
                return create_app(gateway, []).openapi()
            return {"report": gateway.health.report(), "families": exported_families(exposed)}

        channel = WorkerChannel(sock, report)

        async def follow() -> None:
            await channel.run()
            stop.request("the process that keeps this one is gone")

        def info() -> dict[str, Any]:
            return {"service": "gateway", "started": gateway.health.started, **info_of(gateway)}

        # The admin port, where there is one, is the keeper's.
        public = (
            bare_health_routes(partial(all_ready, channel.ask))
            if has_admin_port(settings)
            else routes(channel.ask, info)
        )
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow(), name="worker-channel")
            await _serve(gateway, stop, public)
            following.cancel()


async def _gateway(settings: GatewaySettings, stack: AsyncExitStack) -> Gateway:
    latest = await stack.enter_async_context(DynamoLatestReader(settings))
    store = await stack.enter_async_context(S3Store(settings))
    return Gateway(
        settings,
        open_broker(settings),
        log_specs(settings),
        Metrics(),
        latest,
        store,
        S3ArchiveReader(store),
    )


async def _serve(gateway: Gateway, stop: Stop, health: Sequence[BaseRoute] | None) -> None:
    async with serve(gateway, health):
        await stop.wait()
        await gateway.drain()


if __name__ == "__main__":
    sys.exit(main())
