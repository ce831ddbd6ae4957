"""Latest rows from DynamoDB.

async with DynamoLatestReader(aws_settings) as latest:
    rows = await latest.get_many(keys)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import batched
from typing import TYPE_CHECKING, Any

import structlog

from services.common.errors import StoreUnavailable
from services.common.resilience import delay_s
from services.common.settings import AwsSettings
from services.common.stores.aws import DYNAMODB, READER, AwsStore, Limits, translated
from services.common.stores.ports import LatestReader, LatestRow
from services.common.stores.rows import BadRow, row_from_item, row_key
from services.common.subjects import StreamKey

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
else:
    DynamoDBClient = Any

log = structlog.get_logger(__name__)

# DynamoDB's own limit for BatchGetItem.
_BATCH = 100
# Keys that are left unprocessed are asked again this often, waiting up to 0.05, 0.1, 0.2, ... s.
_ROUNDS = 6
_FIRST_WAIT = 0.05


class Table(AwsStore[DynamoDBClient]):
    """The table of latest rows. Open it once per process.

    Every method raises `StoreUnavailable` (no answer, throttled) or `StoreMissing` (no table).
    """

    def __init__(self, aws: AwsSettings, limits: Limits) -> None:
        super().__init__(DYNAMODB, aws, limits)
        self.table = aws.ddb_table

    async def ping(self) -> str | None:
        """Return when the table answers, its status if it says one; costs no capacity."""
        with translated(DYNAMODB, self.table):
            answer = await self.client.describe_table(TableName=self.table)
            return answer["Table"].get("TableStatus")


class DynamoLatestReader(Table, LatestReader):
    """Reads them, by a pool of connections.

    Args:
        consistent: read what was written last, at twice the price; without it a row may be
            up to about a second old.
    """

    def __init__(
        self, aws: AwsSettings, *, consistent: bool = False, limits: Limits = READER
    ) -> None:
        super().__init__(aws, limits)
        self._consistent = consistent

    async def get(self, key: StreamKey) -> LatestRow | None:
        with translated(DYNAMODB, self.table):
            answer = await self.client.get_item(
                TableName=self.table, Key=row_key(key), ConsistentRead=self._consistent
            )
        return _row(answer.get("Item"))

    async def get_many(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, LatestRow]:
        rows: dict[StreamKey, LatestRow] = {}
        for some in batched(dict.fromkeys(keys), _BATCH):
            rows |= await self._get_batch(some)
        return rows

    async def _get_batch(self, keys: Sequence[StreamKey]) -> dict[StreamKey, LatestRow]:
        rows: dict[StreamKey, LatestRow] = {}
        wanted: list[dict[str, Any]] = [row_key(key) for key in keys]
        for round_ in range(_ROUNDS):
            if round_:
                await asyncio.sleep(delay_s(round_, first_s=_FIRST_WAIT, least=0.0))
            with translated(DYNAMODB, self.table):
                answer = await self.client.batch_get_item(
                    RequestItems={self.table: {"Keys": wanted, "ConsistentRead": self._consistent}}
                )
                items = answer["Responses"][self.table]
            for item in items:
                row = _row(item)
                if row is not None:
                    rows[row.key] = row
            left = answer.get("UnprocessedKeys", {}).get(self.table)
            if not left:
                return rows
            wanted = [dict(key) for key in left["Keys"]]
        raise StoreUnavailable(DYNAMODB, f"{len(wanted)} keys unprocessed after {_ROUNDS} rounds")


def _row(item: Mapping[str, Any] | None) -> LatestRow | None:
    if item is None:
        return None
    try:
        return row_from_item(item)
    except BadRow as error:
        # Somebody else wrote into our table. To serve nothing is right; the log has the truth.
        log.warning("latest_row_unreadable", reason=str(error))
        return None
