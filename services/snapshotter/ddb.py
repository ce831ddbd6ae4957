"""Writes latest rows to DynamoDB, each only when it is newer than what is there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import structlog
from botocore.exceptions import ClientError

from services.common.errors import StoreMissing, StoreUnavailable
from services.common.settings import AwsSettings
from services.common.stores.aws import (
    DYNAMODB,
    ROW_WRITER,
    Limits,
    error_code,
    open_client,
    translated,
)
from services.common.stores.ports import LatestRow
from services.common.stores.rows import KEY, row_key, row_to_item
from services.common.stream import Position
from services.common.subjects import StreamKey

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

log = structlog.get_logger(__name__)

_REFUSED = "ConditionalCheckFailedException"
_EXISTS = "ResourceInUseException"
_NEWER = "attribute_not_exists(#seq) OR #epoch < :e OR (#epoch = :e AND #seq < :s)"
_SAME = "#epoch = :e AND #seq = :s"
_NAMES = {"#epoch": "epoch", "#seq": "seq"}


class RowStore:
    """The table of latest rows, writing side. Retrying is the caller's.

    Every method raises `StoreUnavailable` (no answer, throttled) or `StoreMissing` (no table).
    """

    def __init__(self, aws: AwsSettings, *, limits: Limits = ROW_WRITER) -> None:
        self.table = aws.ddb_table
        self._aws = aws
        self._limits = limits
        self._stack = contextlib.AsyncExitStack()
        self._client: DynamoDBClient | None = None

    async def __aenter__(self) -> Self:
        self._client = await self._stack.enter_async_context(
            open_client(DYNAMODB, self._aws, self._limits)
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._client = None
        await self._stack.aclose()

    async def put(self, row: LatestRow) -> bool:
        """Write the row unless the table has one as new; says whether it was written."""
        with translated(DYNAMODB, self.table):
            try:
                await self._opened().put_item(
                    TableName=self.table,
                    Item=row_to_item(row),
                    ConditionExpression=_NEWER,
                    ExpressionAttributeNames=_NAMES,
                    ExpressionAttributeValues=_values(row.position),
                )
            except ClientError as error:
                if error_code(error) == _REFUSED:
                    return False
                raise
            return True

    async def name_checkpoint(self, key: StreamKey, position: Position, object_key: str) -> bool:
        """Let the row name a checkpoint of its own position; False when the row is elsewhere."""
        with translated(DYNAMODB, self.table):
            try:
                await self._opened().update_item(
                    TableName=self.table,
                    Key=row_key(key),
                    UpdateExpression="SET #checkpoint = :c",
                    ConditionExpression=_SAME,
                    ExpressionAttributeNames={**_NAMES, "#checkpoint": "checkpoint"},
                    ExpressionAttributeValues={**_values(position), ":c": {"S": object_key}},
                )
            except ClientError as error:
                if error_code(error) == _REFUSED:
                    return False
                raise
            return True

    async def ensure(self, *, create: bool) -> None:
        """Return when the table can be used; make it, billed on demand, when `create` allows it."""
        while True:
            with translated(DYNAMODB, self.table):
                try:
                    answer = await self._opened().describe_table(TableName=self.table)
                    status = answer["Table"].get("TableStatus")
                except ClientError as error:
                    if error_code(error) != "ResourceNotFoundException":
                        raise
                    if not create:
                        raise StoreMissing(DYNAMODB, self.table, made_here=True) from error
                    await self._create()
                    continue
            # UPDATING tables serve; moto and old stand-ins leave the status out.
            if status in (None, "ACTIVE", "UPDATING"):
                return
            await asyncio.sleep(0.2)

    async def _create(self) -> None:
        try:
            await self._opened().create_table(
                TableName=self.table,
                KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except ClientError as error:
            # Another process was a moment faster.
            if error_code(error) != _EXISTS:
                raise
        else:
            log.info("table_created", table=self.table)

    async def ping(self) -> None:
        """Return when the table answers; costs no capacity."""
        with translated(DYNAMODB, self.table):
            await self._opened().describe_table(TableName=self.table)

    def _opened(self) -> DynamoDBClient:
        if self._client is None:
            raise StoreUnavailable(DYNAMODB, "the row store is not open")
        return self._client


def _values(position: Position) -> dict[str, Any]:
    return {":e": {"N": str(position.epoch)}, ":s": {"N": str(position.seq)}}
