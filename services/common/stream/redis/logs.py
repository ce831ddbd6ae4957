"""A prefix's logs: whether they exist, their streams, and what was trimmed of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.common.errors import BrokerUnavailable
from services.common.stream.records import LogSpec
from services.common.stream.redis.client import Command, RedisClient, refusal
from services.common.stream.redis.records import ZERO, Names, Source, announced, trimmed_id


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
            answers = await client.transact(
                [
                    ("GET", self.names.epoch(name)),
                    ("XRANGE", self.names.registry(name), "-", "+"),
                ]
            )
            # Also where somebody put something else at these keys.
            if text := next(filter(None, map(refusal, answers)), None):
                raise BrokerUnavailable(client.target, f"log {name}: {text}")
            epoch, entries = answers
            if epoch is not None:
                break
            if name not in self.specs:
                raise BrokerUnavailable(client.target, f"log {name} does not exist")
            await self._make(client, name)
        found = {source for _, f in entries if (source := announced(f)) is not None}
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

    async def subjects(self, client: RedisClient, log: str) -> list[str]:
        """The subjects that hold records, sorted."""
        _, held = await self.prepare(client, log)
        sources = sorted(held)
        lengths = await client.batch([("XLEN", self.names.stream(*source)) for source in sources])
        return sorted(
            {
                source.subject
                for source, length in zip(sources, lengths, strict=True)
                # None of it can be read where the key holds something else.
                if not refusal(length) and length
            }
        )

    async def look(
        self, client: RedisClient, log: str, subject: str, commands: Sequence[Command] = ()
    ) -> tuple[int, list[int], dict[int, tuple[int, int]], list[Any]]:
        """The log's epoch, the subject's epochs, what was trimmed of each, answers to `commands`.

        The commands run before the look at what was trimmed, in the same step.
        """
        log_epoch, held = await self.prepare(client, log)
        epochs = sorted(source.epoch for source in held if source.subject == subject)
        keys = [self.names.stream(subject, epoch) for epoch in epochs]
        looked: list[Command] = list(commands)
        if keys:
            looked.append(("HMGET", self.names.trimmed(log), *keys))
        answers = await client.transact(looked) if looked else []
        for answer in answers:
            if text := refusal(answer):
                raise BrokerUnavailable(client.target, text)
        trimmed = {}
        if keys:
            newest = answers.pop()
            pairs = zip(epochs, map(trimmed_id, newest), strict=True)
            trimmed = {epoch: place for epoch, place in pairs if place != ZERO}
        return log_epoch, epochs, trimmed, answers
