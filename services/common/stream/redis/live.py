"""Following a log's streams from now on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.common.stream.broker_base import LiveBase
from services.common.stream.records import LiveBatch
from services.common.stream.redis.client import BLOCK_MS, RedisClient
from services.common.stream.redis.logs import Logs
from services.common.stream.redis.records import Source, Sources, parse_id, trimmed_id
from services.common.stream.redis.tail import MAX_BUFFERED, Tail


class RedisLive(Tail, LiveBase):
    """See `LiveSubscription`. Holds places in the streams, so it misses nothing over an outage.

    It is interrupted only when a stream was trimmed in front of it, or the log was lost.
    """

    def __init__(self, client: RedisClient, logs: Logs, log_name: str) -> None:
        super().__init__(f"live on {log_name}", client, logs, log_name)
        self._places: dict[Source, str] = {}
        self._announced_to = "0-0"
        self._interrupted = False
        self.start(self._run())

    async def next_batch(self) -> LiveBatch:
        await self.until(lambda: self._buffer or self._interrupted)
        interrupted, self._interrupted = self._interrupted, False
        return LiveBatch(self._drain(MAX_BUFFERED), interrupted)

    async def _join(self) -> None:
        epoch, held = await self._logs.prepare(self._client, self._log_name)
        if not self.joined.is_set():
            await self._begin(epoch, held)
        elif epoch != self._epoch:
            # Another log: everything in it is new.
            self._epoch = epoch
            self._sources, self._places, self._by_key = Sources(), {}, {}
            self._announced_to = "0-0"
            self._interrupted = True
            self.changed.ring()
        else:
            # Whatever ended the reading may have been one stream's key.
            await self._sort_out(self._sources.readable_ones())
            await self._check_trimmed()

    async def _begin(self, epoch: int, held: set[Source]) -> None:
        self._epoch = epoch
        await self._add(sorted(held))
        ordered = self._sources.readable_ones()
        keys = [self._registry, *map(self._names.stream, ordered)]
        newest = self._client.checked(
            await self._client.transact([("XREVRANGE", key, "+", "-", "COUNT", 1) for key in keys])
        )
        ends = [records[0][0].decode() if records else "0-0" for records in newest]
        self._announced_to = ends[0]
        self._places.update(zip(ordered, ends[1:], strict=True))
        # A stream announced between the two looks begins in the one and is known in the other.
        _, now = await self._logs.prepare(self._client, self._log_name)
        await self._add(sorted(now))

    async def _resumed(self) -> None:
        await self._check_trimmed()

    async def _check_trimmed(self) -> None:
        trimmed = await self._client.call("HGETALL", self._names.trimmed(self._log_name))
        for source, place in self._places.items():
            newest = trimmed.get(self._names.stream(source).encode())
            if trimmed_id(newest) > parse_id(place):
                self._interrupted = True
                self.changed.ring()

    async def _read(self, sources: Sequence[Source], count: int, block: bool) -> Any:
        return await self._client.call(
            "XREAD",
            *("COUNT", count),
            *(("BLOCK", BLOCK_MS) if block else ()),
            "STREAMS",
            self._registry,
            *(self._names.stream(source) for source in sources),
            self._announced_to,
            *(self._places.get(source, "0-0") for source in sources),
        )

    async def _announcements(self, identities: Sequence[bytes]) -> None:
        await self._known_epoch()
        self._announced_to = identities[-1].decode()

    def _advance(self, source: Source, identity: bytes) -> None:
        self._places[source] = identity.decode()
