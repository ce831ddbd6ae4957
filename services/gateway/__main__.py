"""`python -m services.gateway`: choose the adapters, serve until told to stop, drain."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from services.common.runtime import Stop, run_service
from services.common.settings import load_or_exit
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.s3 import S3ArchiveReader, S3CheckpointReader, S3Store
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.gateway.app import serve
from services.gateway.gateway import Gateway
from services.gateway.settings import GatewaySettings


def main() -> int:
    settings = load_or_exit(GatewaySettings)

    async def run(stop: Stop) -> None:
        async with AsyncExitStack() as stack:
            latest = await stack.enter_async_context(DynamoLatestReader(settings))
            store = await stack.enter_async_context(S3Store(settings))
            gateway = Gateway(
                settings,
                open_broker(settings),
                log_specs(settings),
                latest,
                S3CheckpointReader(store),
                S3ArchiveReader(store),
            )
            async with serve(gateway):
                await stop.wait()
                await gateway.drain()

    return run_service("gateway", settings, run)


if __name__ == "__main__":
    sys.exit(main())
