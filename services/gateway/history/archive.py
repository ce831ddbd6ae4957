"""What the log no longer holds: records from the archive, a page at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import structlog

from services.common.errors import StoreMissing, StoreUnavailable
from services.common.observability.health import Health
from services.common.stores.ports import ArchiveReader
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import UNREADABLE
from services.gateway.chain.stream_record import StreamRecord

log = structlog.get_logger(__name__)

# A page is held in memory by whoever asked for it. Finding its place costs a dozen requests, so
# that it is worth being long.
_PAGE_BYTES = 2 * 1024 * 1024
# Whole objects are unpacked on the way; more of them at once would be felt by live clients.
_AT_ONCE = 3
# Also for waiting one's turn: somebody waits for the answer.
_ANSWER_S = 10.0
# An ingestor's clock and a snapshotter's may differ by this.
_SKEW_US = 10_000_000


@dataclass
class Archive:
    """Pages of archived records. Without a reader the archive is empty.

    Every method raises `StoreUnavailable` when the archive does not answer in time.
    """

    reader: ArchiveReader | None
    health: Health
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def page(
        self, key: StreamKey, shard: int, after: Position, max_bytes: int = _PAGE_BYTES
    ) -> list[StreamRecord]:
        """Records after `after`, about `max_bytes` of them, in order; none: there are no more."""
        found: list[StreamRecord] = []
        size = 0
        if self.reader is None:
            return found
        payloads = self.reader.read(key, shard, after)
        async with self._answering(), aclosing(payloads):
            async for payload in payloads:
                try:
                    found.append(StreamRecord(payload))
                except UNREADABLE as error:
                    # The chain will show whether it mattered.
                    log.error("archived_record_unreadable", stream=str(key), error=str(error))
                    continue
                size += len(payload)
                if size >= max_bytes:
                    break
        return found

    async def first_after(self, key: StreamKey, shard: int, after: Position) -> StreamRecord | None:
        """The first tick or reset after `after`."""
        while page := await self.page(key, shard, after, 1):
            if page[-1].chained:
                return page[-1]
            after = page[-1].position
        return None

    async def oldest_since(
        self, key: StreamKey, shard: int, epoch: int, ts_us: int
    ) -> StreamRecord | None:
        """The first tick or reset of `epoch` that was received at `ts_us` or later."""
        if self.reader is None:
            return None
        reached: Position | None = None
        async with self._answering():
            reached = await self.reader.reached(key, shard, ts_us - _SKEW_US)
        after = max(reached or Position(0, 0), Position(epoch, 0))
        while page := await self.page(key, shard, after):
            for record in page:
                if record.chained and record.ts_ingest >= ts_us:
                    return record
            after = page[-1].position
        return None

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_ANSWER_S), self._turns:
                yield
        except StoreMissing:
            # Nothing was ever archived: the snapshotter makes the bucket.
            return
        except TimeoutError as error:
            reason = f"no answer within {_ANSWER_S:.0f} s"
            self.health.degraded("archive", reason)
            raise StoreUnavailable("archive", reason) from error
        except StoreUnavailable as error:
            self.health.degraded("archive", str(error))
            raise
        self.health.restored("archive")
