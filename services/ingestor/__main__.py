"""`python -m services.ingestor`: settings from the environment, then serve until a signal."""

from __future__ import annotations

import asyncio
import sys

from services.common.observability.health import Health
from services.common.observability.statistics import observed
from services.common.runtime import Stop, run_service, serve_http
from services.common.settings import load_or_exit
from services.common.stream.broker import Broker
from services.common.stream.factory import open_broker
from services.ingestor.app import Ingestor
from services.ingestor.http import make_app
from services.ingestor.metrics import STATISTICS, Metrics
from services.ingestor.settings import Settings


async def serve(settings: Settings, stop: Stop) -> None:
    """The HTTP side answers from the first moment, also while the broker is still away."""
    health = Health("ingestor", "broker", "feed")
    broker = open_broker(settings)
    metrics = Metrics()
    ingestor = Ingestor(settings, broker, metrics, health)
    port = settings.http_port if settings.admin_port is None else settings.admin_port
    async with (
        serve_http(make_app(ingestor, health), settings.http_host, port),
        observed(metrics.registry, metrics.loop, STATISTICS),
    ):
        try:
            if await _opened(broker, stop):
                await ingestor.run(stop)
        finally:
            await broker.aclose()


async def _opened(broker: Broker, stop: Stop) -> bool:
    """Wait for the broker as long as it takes; False when the service is to end before that."""
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(broker.open(), name="open-broker")
        stopping = group.create_task(stop.wait(), name="stop")
        await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
        opening.cancel()
        stopping.cancel()
    return not opening.cancelled()


def main() -> int:
    settings = load_or_exit(Settings)
    return run_service("ingestor", settings, lambda stop: serve(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
