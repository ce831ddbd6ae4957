"""A prefix's logs: whether they exist, their streams, and trimming these to their retention."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from services.common.errors import BrokerUnavailable
from services.common.stream.records import LogSpec
from services.common.stream.redis.client import Command, RedisClient, refusal
from services.common.stream.redis.records import ZERO, Names, Source, announced, trimmed_id
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


class Logs:
    """The logs of one prefix. `specs` holds what was ensured, by log; `names` are their keys."""

    def __init__(self, prefix: str) -> None:
        self.names = Names(prefix)
        self.specs: dict[str, LogSpec] = {}

    async def ensure(self, client: RedisClient, spec: LogSpec) -> None:
        """Make the log unless there is one."""
        self.specs[spec.log] = spec
        await self._make(client, spec.log)

    async def prepare(self, client: RedisClient, name: str) -> tuple[int, set[Source]]:
        """Make sure that the log exists; its epoch and the streams it holds."""
        while True:
            # Refused where somebody put something else at these keys.
            epoch, announcements = client.checked(
                await client.transact(
                    [
                        ("GET", self.names.epoch(name)),
                        ("XRANGE", self.names.registry(name), "-", "+"),
                    ]
                ),
                f"log {name}: ",
            )
            if epoch is not None:
                break
            if name not in self.specs:
                raise BrokerUnavailable(client.target, f"log {name} does not exist")
            await self._make(client, name)
        found = {source for _, f in announcements if (source := announced(f)) is not None}
        if not epoch.isdigit():
            said = f"log {name}: {self.names.epoch(name)} holds no epoch but {epoch[:40]!r}"
            raise BrokerUnavailable(client.target, said)
        return int(epoch), found

    async def _make(self, client: RedisClient, name: str) -> None:
        if await client.call("EXISTS", self.names.epoch(name)):
            # Nothing to write, so that also a full server's logs can be read by who begins now.
            return
        seconds, micros = await client.call("TIME")
        made = int(seconds) * 1_000_000 + int(micros)
        await client.call("SET", self.names.epoch(name), made, "NX")

    async def subjects(self, client: RedisClient, name: str) -> list[str]:
        """The subjects that hold records, sorted."""
        _, held = await self.prepare(client, name)
        sources = sorted(held)
        lengths = await client.batch([("XLEN", self.names.stream(source)) for source in sources])
        return sorted(
            {
                source.subject
                for source, length in zip(sources, lengths, strict=True)
                # None of it can be read where the key holds something else.
                if not refusal(length) and length
            }
        )

    async def look(
        self, client: RedisClient, name: str, subject: str, commands: Sequence[Command] = ()
    ) -> tuple[int, list[int], dict[int, tuple[int, int]], list[Any]]:
        """The log's epoch, the subject's epochs, what was trimmed of each, answers to `commands`.

        The commands run before the look at what was trimmed, in the same step.
        """
        log_epoch, held = await self.prepare(client, name)
        epochs = sorted(source.epoch for source in held if source.subject == subject)
        keys = [self.names.stream(Source(subject, epoch)) for epoch in epochs]
        looked: list[Command] = list(commands)
        if keys:
            looked.append(("HMGET", self.names.trimmed(name), *keys))
        answers = client.checked(await client.transact(looked)) if looked else []
        trimmed = {}
        if keys:
            newest = answers.pop()
            pairs = zip(epochs, map(trimmed_id, newest), strict=True)
            trimmed = {epoch: place for epoch, place in pairs if place != ZERO}
        return log_epoch, epochs, trimmed, answers

    async def trim(self, client: RedisClient) -> None:
        """Drop what is older than its log's retention."""
        for name, spec in list(self.specs.items()):
            _, held = await self.prepare(client, name)
            limit = time.time() - spec.retention_s
            await client.batch(
                [
                    (
                        *("EVAL", _TRIM, 3, self.names.stream(source)),
                        *(self.names.marks(source), self.names.trimmed(name), limit),
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
