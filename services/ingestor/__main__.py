"""`python -m services.ingestor`: settings from the environment, then serve until a signal."""

from __future__ import annotations

import sys

from services.common.command_line import settings_of_service
from services.common.observability.health import Health
from services.common.observability.statistics import observed
from services.common.runtime import Stop, run_service, serve_http
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
            # For as long as it takes.
            if await stop.allows(broker.open()):
                await ingestor.run(stop)
        finally:
            await broker.aclose()


def main() -> int:
    purpose = "Hold the venue's feed, prove that nothing was missed, and write the raw log."
    settings = settings_of_service("ingestor", purpose, Settings, sys.argv[1:])
    return run_service("ingestor", settings, lambda stop: serve(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
