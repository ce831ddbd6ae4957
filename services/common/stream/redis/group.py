"""One member of a Redis group.

All members read as one consumer, so that no dead consumer's entries are left behind. A member that
begins (or begins again after an outage) takes over all that the group has not acked and sets the
group back to the first of it: what follows is delivered again, in order. A group that is gone from
a stream is made again at the place that was kept outside of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import structlog

from services.common.errors import BrokerUnavailable
from services.common.stream.broker_base import GroupBase, GroupOptions
from services.common.stream.records import Message
from services.common.stream.redis.client import BLOCK_MS, Command, RedisClient, Refused, refusal
from services.common.stream.redis.logs import Logs
from services.common.stream.redis.packing import Packed, pack
from services.common.stream.redis.records import RedisMessage, Source, Sources, id_before, parse_id
from services.common.stream.redis.tail import Tail

log = structlog.get_logger(__name__)

_CLAIM = 1000
# How often the group's places are kept while records are acked.
_KEEP_S = 1.0


class RedisGroup(Tail, GroupBase):
    """See `GroupSubscription`. `max_pending` bounds this member's unacked records."""

    def __init__(
        self, client: RedisClient, logs: Logs, options: GroupOptions, *, acks: RedisClient
    ) -> None:
        super().__init__(options.what, client, logs, options.log)
        _, self._group, self._max_pending, self._ack_wait_s = options
        # A blocked read keeps its connection; acks must not wait behind it.
        self._acks = acks
        # Of what was handed out, the ids that are not acked.
        self._held: dict[Source, set[bytes]] = {}
        self._claimed_at = 0.0
        # Streams in which something was acked since the places were looked at.
        self._acked: set[Source] = set()
        self._moved = asyncio.Event()
        # Up to where the group has acked each stream, as it is kept.
        self._places: dict[Source, str] = {}
        self.start(self._run())

    async def next_batch(self, max_records: int = 512) -> Sequence[Message]:
        await self.until(lambda: self._buffer)
        batch = self._drain(max_records)
        for source, identities in _by_source(batch).items():
            self._held.setdefault(source, set()).update(identities)
        return batch

    async def ack(self, messages: Sequence[Message]) -> None:
        self.check_open()
        # A group hands out nothing else. A record of a log that was lost must not ack its namesake
        # in the new one.
        own = cast("Sequence[RedisMessage]", messages)
        acked = _by_source([message for message in own if message.is_of(self._epoch)])
        try:
            await self._acks.batch(
                [
                    ("XACK", self._packed_ack(source, identities))
                    for source, identities in acked.items()
                ]
            )
        except BrokerUnavailable as error:
            # They come again after the reconnect: at least once is what a group promises.
            log.debug("ack_not_sent", group=self._group, reason=error.reason)
        self._acked.update(acked)
        self._moved.set()
        for source, identities in acked.items():
            held = self._held.get(source)
            if held is not None:
                held.difference_update(identities)
        self._room.set()

    def _packed_ack(self, source: Source, identities: Sequence[bytes]) -> Packed:
        head = pack(("XACK", self._names.stream(source), self._group))
        return Packed(3 + len(identities), head, pack(identities))

    async def lag(self) -> int:
        return sum(unread + pending for unread, pending in await self._counts())

    async def unread(self) -> int:
        return sum(unread for unread, _ in await self._counts()) + len(self._buffer)

    async def _counts(self) -> list[tuple[int, int]]:
        """Of each stream, what the group has not read, and what it has not acked of the rest."""
        self.check_open()
        _, held = await self._logs.prepare(self._acks, self._log_name)
        sources = sorted(held)
        commands: list[Command] = []
        for source in sources:
            key = self._names.stream(source)
            commands += [("XINFO GROUPS", key), ("XINFO STREAM", key), ("XLEN", key)]
        answers = await self._acks.batch(commands)
        return [
            _counted(groups, stream, length, self._group)
            for groups, stream, length in zip(
                answers[::3], answers[1::3], answers[2::3], strict=True
            )
            if not (refusal(groups) or refusal(stream))
        ]

    def _capacity(self) -> int:
        unacked = sum(map(len, self._held.values())) + len(self._buffer)
        return min(super()._capacity(), self._max_pending - unacked)

    # ------------------------------------------------------------------ reading

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_places(), name=f"{self.what}: places")
            await super()._run()

    async def _join(self) -> None:
        self._epoch, held = await self._logs.prepare(self._client, self._log_name)
        await self._find_places()
        self._buffer.clear()
        self._bytes = 0
        self._held.clear()
        self._sources, self._by_key = Sources(), {}
        await self._create(self._registry, "0")
        await self._add(sorted(held))
        for source in self._sources.readable_ones():
            await self._take_over(source)
        self._claimed_at = asyncio.get_running_loop().time()

    async def _create(self, key: str, after: str) -> None:
        try:
            await self._client.call("XGROUP", "CREATE", key, self._group, after, "MKSTREAM")
        except Refused as error:
            if not error.reason.startswith("BUSYGROUP"):
                raise
        else:
            if after != "0":
                log.warning("group_made_again", group=self._group, key=key, after=after)

    async def _found(self, fresh: Sequence[Source]) -> None:
        for source in fresh:
            await self._create(self._names.stream(source), self._places.get(source, "0"))

    # ------------------------------------------------------------------ the places

    async def _find_places(self) -> None:
        kept = await self._client.call("HGETALL", self._key_of_places())
        self._places = {}
        foreign = []
        for field, value in kept.items():
            subject, _, epoch = field.decode(errors="replace").rpartition("@")
            made, _, identity = value.decode(errors="replace").partition(":")
            if made == str(self._epoch) and epoch.isdecimal() and _is_id(identity):
                self._places[Source(subject, int(epoch))] = identity
            else:
                # Of the log before this one.
                foreign.append(field)
        if foreign:
            await self._client.call("HDEL", self._key_of_places(), *foreign)

    def _key_of_places(self) -> str:
        return self._names.places(self._log_name, self._group)

    async def _keep_places(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            sources, self._acked = sorted(self._acked), set()
            try:
                await self._keep(sources)
            except BrokerUnavailable as error:
                log.debug("places_not_kept", group=self._group, reason=error.reason)
                self._acked.update(sources)
                self._moved.set()
            await asyncio.sleep(_KEEP_S)

    async def _keep(self, sources: Sequence[Source]) -> None:
        epoch = self._epoch
        # What is pending is asked for last: what was delivered before and is not pending is acked.
        commands: list[Command] = []
        for source in sources:
            key = self._names.stream(source)
            commands += [("XINFO GROUPS", key), ("XPENDING", key, self._group)]
        answers = await self._acks.batch(commands)
        moved: dict[Source, str] = {}
        for source, groups, pending in zip(sources, answers[::2], answers[1::2], strict=True):
            if refusal(groups) or refusal(pending):
                continue
            place = _acked_to(groups, pending, self._group)
            if place is not None and place != self._places.get(source):
                moved[source] = place
        if not moved or epoch != self._epoch:
            return
        values = [
            part
            for (subject, number), identity in moved.items()
            for part in (f"{subject}@{number}", f"{epoch}:{identity}")
        ]
        await self._acks.call("HSET", self._key_of_places(), *values)
        self._places.update(moved)

    async def _take_over(self, source: Source) -> None:
        """Own what the group has not acked, and have it delivered again from its first record."""
        key = self._names.stream(source)
        first: bytes | None = None
        start = b"0-0"
        while True:
            answer = await self._client.call(
                *("XAUTOCLAIM", key, self._group, self._group, 0, start, "COUNT", _CLAIM),
            )
            start, claimed = answer[0], answer[1]
            if first is None and claimed:
                first = claimed[0][0]
            if start == b"0-0":
                break
        if first is not None:
            await self._client.call("XGROUP", "SETID", key, self._group, id_before(first))

    async def _read(self, sources: Sequence[Source], count: int, block: bool) -> Any:
        await self._claim_late()
        return await self._client.call(
            "XREADGROUP",
            *("GROUP", self._group, self._group, "COUNT", count),
            *(("BLOCK", BLOCK_MS) if block else ()),
            "STREAMS",
            self._registry,
            *(self._names.stream(source) for source in sources),
            *(">" for _ in range(len(sources) + 1)),
        )

    async def _announcements(self, identities: Sequence[bytes]) -> None:
        await self._client.call("XACK", self._registry, self._group, *identities)
        # Another member may have been given an announcement; the whole list is short.
        await self._add(sorted(await self._known_epoch()))

    async def _claim_late(self) -> None:
        """Have what nobody acked for `ack_wait` delivered again."""
        now = asyncio.get_running_loop().time()
        if now - self._claimed_at < self._ack_wait_s / 2:
            return
        self._claimed_at = now
        await self._add(sorted(await self._known_epoch()))
        sources = self._sources.readable_ones()
        idle = int(self._ack_wait_s * 1000)
        answers = self._client.checked(
            await self._client.batch(
                [
                    (
                        *("XAUTOCLAIM", self._names.stream(source), self._group, self._group),
                        *(idle, "0-0", "COUNT", 100),
                    )
                    for source in sources
                ]
            )
        )
        waiting = {(message.source, message.identity) for message in self._buffer}
        for source, answer in zip(sources, answers, strict=True):
            for identity, fields in answer[1]:
                if (source, identity) not in waiting:
                    self._hold(source, identity, fields)

    async def aclose(self) -> None:
        await super().aclose()
        await self._acks.aclose()


def _by_source(messages: Sequence[RedisMessage]) -> dict[Source, list[bytes]]:
    found: dict[Source, list[bytes]] = {}
    for message in messages:
        source = message.source
        identities = found.get(source)
        if identities is None:
            found[source] = [message.identity]
        else:
            identities.append(message.identity)
    return found


def _acked_to(groups: Any, pending: Any, group: str) -> str | None:
    """Up to which id everything is acked; None without the group, or where nothing is."""
    for info in groups:
        if info["name"] == group.encode():
            place = str(info["last-delivered-id"].decode())
            if pending["pending"]:
                place = min(place, id_before(pending["min"]), key=parse_id)
            return None if place == "0-0" else place
    return None


def _is_id(text: str) -> bool:
    seq, _, sub = text.partition("-")
    return seq.isdecimal() and sub.isdecimal()


def _counted(groups: Any, stream: Any, length: int, group: str) -> tuple[int, int]:
    for info in groups:
        if info["name"] == group.encode():
            unread = info.get("lag")
            if unread is None:
                # The server lost count (the group was set back); the stream's length bounds it.
                read_all = parse_id(info["last-delivered-id"]) >= parse_id(
                    stream["last-generated-id"]
                )
                unread = 0 if read_all else length
            return int(unread), int(info["pending"])
    return int(length), 0
