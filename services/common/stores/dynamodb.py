"""Latest rows from DynamoDB.

async with DynamoLatestReader(aws_settings) as latest:
    rows = await latest.get_many(keys)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from itertools import batched
from typing import TYPE_CHECKING, Any, Self

import structlog

from services.common.errors import StoreUnavailable
from services.common.resilience.backoff import delay_s
from services.common.settings import AwsSettings
from services.common.stores.aws import DYNAMODB, READER, Limits, open_client, translated
from services.common.stores.ports import LatestReader, LatestRow
from services.common.stores.rows import BadRow, row_from_item, row_key
from services.common.subjects import StreamKey

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

log = structlog.get_logger(__name__)

# DynamoDB's own limit for BatchGetItem.
_BATCH = 100
# Keys that are left unprocessed are asked again this often, waiting up to 0.05, 0.1, 0.2, ... s.
_ROUNDS = 6
_FIRST_WAIT = 0.05


class DynamoLatestReader(LatestReader):
    """A pooled reader; open it once per process.

    Args:
        aws: where the table is.
        consistent: read what was written last, at twice the price; without it a row may be
            up to about a second old.
        limits: time limits, attempts and pool size.
    """

    def __init__(
        self, aws: AwsSettings, *, consistent: bool = False, limits: Limits = READER
    ) -> None:
        self._aws = aws
        self._table = aws.ddb_table
        self._consistent = consistent
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

    async def get(self, key: StreamKey) -> LatestRow | None:
        with translated(DYNAMODB, self._table):
            answer = await self._opened().get_item(
                TableName=self._table, Key=row_key(key), ConsistentRead=self._consistent
            )
        return _row(answer.get("Item"))

    async def get_many(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, LatestRow]:
        rows: dict[StreamKey, LatestRow] = {}
        for some in batched(dict.fromkeys(keys), _BATCH):
            rows |= await self._get_batch(some)
        return rows

    async def ping(self) -> None:
        """Return when the table answers; costs no read capacity.

        Raises:
            StoreUnavailable: it does not.
            StoreMissing: there is none.
        """
        with translated(DYNAMODB, self._table):
            await self._opened().describe_table(TableName=self._table)

    async def _get_batch(self, keys: Sequence[StreamKey]) -> dict[StreamKey, LatestRow]:
        rows: dict[StreamKey, LatestRow] = {}
        wanted: list[dict[str, Any]] = [row_key(key) for key in keys]
        for round_ in range(_ROUNDS):
            if round_:
                await asyncio.sleep(delay_s(round_, first_s=_FIRST_WAIT, least=0.0))
            with translated(DYNAMODB, self._table):
                answer = await self._opened().batch_get_item(
                    RequestItems={self._table: self._request(wanted)}
                )
                items = answer["Responses"][self._table]
            for item in items:
                row = _row(item)
                if row is not None:
                    rows[row.key] = row
            left = answer.get("UnprocessedKeys", {}).get(self._table)
            if not left:
                return rows
            wanted = [dict(key) for key in left["Keys"]]
        raise StoreUnavailable(DYNAMODB, f"{len(wanted)} keys unprocessed after {_ROUNDS} rounds")

    def _request(self, keys: list[dict[str, Any]]) -> Any:
        return {"Keys": keys, "ConsistentRead": self._consistent}

    def _opened(self) -> DynamoDBClient:
        if self._client is None:
            raise StoreUnavailable(DYNAMODB, "the reader is not open")
        return self._client


def _row(item: Mapping[str, Any] | None) -> LatestRow | None:
    if item is None:
        return None
    try:
        return row_from_item(item)
    except BadRow as error:
        # Somebody else wrote into our table. To serve nothing is right; the log has the truth.
        log.warning("latest_row_unreadable", reason=str(error))
        return None
