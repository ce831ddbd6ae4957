"""Writes latest rows to DynamoDB, each only when it is newer than what is there."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from services.common.errors import StoreMissing
from services.common.settings import AwsSettings
from services.common.stores.aws import DYNAMODB, ROW_WRITER, Limits, answered, translated
from services.common.stores.dynamodb import Table
from services.common.stores.ports import LatestRow
from services.common.stores.rows import KEY, row_key, row_to_item
from services.common.stream import Position
from services.common.subjects import StreamKey

log = structlog.get_logger(__name__)

_REFUSED = {"ConditionalCheckFailedException"}
_EXISTS = {"ResourceInUseException"}
_NEWER = "attribute_not_exists(#seq) OR #epoch < :e OR (#epoch = :e AND #seq < :s)"
_SAME = "#epoch = :e AND #seq = :s"
_NAMES = {"#epoch": "epoch", "#seq": "seq"}


class RowStore(Table):
    """The table of latest rows, writing side. Retrying is the caller's."""

    def __init__(self, aws: AwsSettings, *, limits: Limits = ROW_WRITER) -> None:
        super().__init__(aws, limits)

    async def put(self, row: LatestRow) -> bool:
        """Write the row unless the table has one as new; says whether it was written."""
        with translated(DYNAMODB, self.table):
            return await answered(
                self.client.put_item(
                    TableName=self.table,
                    Item=row_to_item(row),
                    ConditionExpression=_NEWER,
                    ExpressionAttributeNames=_NAMES,
                    ExpressionAttributeValues=_values(row.position),
                ),
                unless=_REFUSED,
            )

    async def name_checkpoint(self, key: StreamKey, position: Position, object_key: str) -> bool:
        """Let the row name a checkpoint of its own position; False when the row is elsewhere."""
        with translated(DYNAMODB, self.table):
            return await answered(
                self.client.update_item(
                    TableName=self.table,
                    Key=row_key(key),
                    UpdateExpression="SET #checkpoint = :c",
                    ConditionExpression=_SAME,
                    ExpressionAttributeNames={**_NAMES, "#checkpoint": "checkpoint"},
                    ExpressionAttributeValues={**_values(position), ":c": {"S": object_key}},
                ),
                unless=_REFUSED,
            )

    async def ensure(self, *, create: bool) -> None:
        """Return when the table can be used; make it, billed on demand, when `create` allows it."""
        while True:
            try:
                status = await self.ping()
            except StoreMissing as error:
                if not create:
                    raise StoreMissing(DYNAMODB, self.table, made_here=True) from error
                await self._create()
                continue
            # UPDATING tables serve; moto and old stand-ins leave the status out.
            if status in (None, "ACTIVE", "UPDATING"):
                return
            await asyncio.sleep(0.2)

    async def _create(self) -> None:
        with translated(DYNAMODB, self.table):
            created = await answered(
                self.client.create_table(
                    TableName=self.table,
                    KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
                    AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
                    BillingMode="PAY_PER_REQUEST",
                ),
                # Another process was a moment faster.
                unless=_EXISTS,
            )
        if created:
            log.info("table_created", table=self.table)


def _values(position: Position) -> dict[str, Any]:
    return {":e": {"N": str(position.epoch)}, ":s": {"N": str(position.seq)}}
