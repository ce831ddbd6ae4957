"""Composition root of the snapshotter: `python -m services.snapshotter`."""

from __future__ import annotations

import sys

from services.common.command_line import settings_of_service
from services.common.runtime import Stop, run_service
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.snapshotter.app import Snapshotter
from services.snapshotter.ddb import RowStore
from services.snapshotter.s3 import Bucket
from services.snapshotter.settings import SnapshotterSettings


def main() -> int:
    purpose = "Keep the latest state in DynamoDB and everything, in batches, in S3."
    settings = settings_of_service("snapshotter", purpose, SnapshotterSettings, sys.argv[1:])

    async def run(stop: Stop) -> None:
        # They are opened by the service, so that `/readyz` answers while they are waited for.
        await Snapshotter(
            settings,
            open_broker(settings),
            log_specs(settings),
            RowStore(settings),
            Bucket(settings),
            DynamoLatestReader(settings, consistent=True),
        ).run(stop)

    return run_service("snapshotter", settings, run)


if __name__ == "__main__":
    sys.exit(main())
