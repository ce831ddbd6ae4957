"""Dropping what is older than its log's retention, while a broker is open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from services.common.errors import BrokerUnavailable
from services.common.stream.redis.client import RedisClient
from services.common.stream.redis.logs import Logs
from services.common.stream.worker import Worker

log = structlog.get_logger(__name__)

_EVERY_S = 10.0

# Trims a stream to its newest mark not above a time and keeps the newest id that went, at once.
# KEYS: stream, marks, hash of trimmed ids. ARGV: the time.
_TRIM = """
local mark = redis.call('ZREVRANGEBYSCORE', KEYS[2], ARGV[1], '-inf', 'LIMIT', 0, 1)[1]
if not mark then return 0 end
local last = redis.call('XREVRANGE', KEYS[1], '(' .. mark, '-', 'COUNT', 1)[1]
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1])
if not last then return 0 end
redis.call('HSET', KEYS[3], KEYS[1], last[1])
return redis.call('XTRIM', KEYS[1], 'MINID', '=', mark)
"""


async def trim(client: RedisClient, logs: Logs) -> None:
    """Once. Raises BrokerUnavailable when the server does not answer."""
    names = logs.names
    for name, spec in list(logs.specs.items()):
        _, held = await logs.prepare(client, name)
        limit = time.time() - spec.retention_s
        await client.batch(
            [
                (
                    *("EVAL", _TRIM, 3, names.stream(*source)),
                    *(names.marks(*source), names.trimmed(name), limit),
                )
                for source in sorted(held)
            ]
        )


class Trimmer(Worker):
    """Does `work` now and then. An outage is waited out; at anything else its owner is told."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        super().__init__("trimmer")
        self._work = work
        self.start(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self._work()
            except BrokerUnavailable as error:
                log.debug("trim_failed", reason=error.reason)
