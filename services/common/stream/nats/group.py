"""One member of a JetStream group: a durable pull consumer, read by callback in batches.

JetStream redelivers what is unacked only after `ack_wait`, and goes on with newer records in the
meantime; a member that lost its connection, or died, would leave a hole in front of them. So a
member that begins (or begins again) sets the consumer back to what the group has acked, by the
server's consumer reset where it has one (2.14 and later), else by making the consumer anew. Order
is worth more than sparing a repetition. A consumer that is gone is made again at the place that was
kept outside of it (see `places.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import structlog

from services.common.errors import BrokerUnavailable
from services.common.resilience import delay_s
from services.common.stream.broker_base import GroupBase, GroupOptions
from services.common.stream.nats.connection import ApiError, Connection
from services.common.stream.nats.link import Link
from services.common.stream.nats.places import Place, Places, time_of
from services.common.stream.nats.records import NatsMessage
from services.common.stream.nats.streams import NANOSECONDS, LogState, Streams
from services.common.stream.nats.wire import (
    description_of,
    header_of,
    publish_frame,
    status_of,
)
from services.common.stream.records import Message
from services.common.stream.worker import wait_for

log = structlog.get_logger(__name__)

_PREFETCH = 1024
_PULL_BYTES = 16 * 1024 * 1024
_EXPIRES_S = 30
_HEARTBEAT_S = 5
# Two heartbeats and some grace: the consumer is gone or its server forgot the request.
_SILENCE_S = 12.0
_CONSUMER_NOT_FOUND = 10014
# How often the group's place is kept while records are acked.
_KEEP_S = 1.0


class NatsGroup(GroupBase):
    """See `GroupSubscription`. The group's name is that of its durable consumer."""

    def __init__(self, link: Link, streams: Streams, places: Places, options: GroupOptions) -> None:
        super().__init__(options.what)
        self._link = link
        self._streams = streams
        self._places = places
        self._stream = streams.name(options.log)
        self._log_name, self._group, self._max_pending, self._ack_wait_s = options
        self._capacity = min(_PREFETCH, options.max_pending)
        self._buffer: deque[NatsMessage] = deque()
        self._asked = 0
        self._trouble: str | None = None
        self._heard = 0.0
        self._wake = asyncio.Event()
        # Something was acked since the place was looked at.
        self._moved = asyncio.Event()
        self._place = Place(0, 0, "")
        self._epoch = 0
        # How often it joined, and by which connection it is joined now.
        self._joins = 0
        self._joined: Connection | None = None
        self.start(self._run())

    async def next_batch(self, max_records: int = 512) -> Sequence[Message]:
        await self.until(lambda: self._buffer)
        buffer = self._buffer
        if len(buffer) <= max_records:
            batch = list(buffer)
            buffer.clear()
        else:
            batch = [buffer.popleft() for _ in range(max_records)]
        if self._wanted():
            self._wake.set()
        return batch

    async def ack(self, messages: Sequence[Message]) -> None:
        self.check_open()
        try:
            connection = self._joined
            if connection is None:
                raise BrokerUnavailable(self.what, "not joined")
            # A group hands out nothing else, and asking each of them takes as long as the rest.
            own, join = cast("Sequence[NatsMessage]", messages), self._joins
            # An ack names a number in the log. Where that lost its end meanwhile another record has
            # that number now; and what was not acked before this join is given again anyway.
            frames = "".join([f"PUB {one.reply} 0\r\n\r\n" for one in own if one.join == join])
            connection.write(frames.encode())
            await connection.drain()
        except BrokerUnavailable as error:
            # They come again after the reconnect: at least once is what a group promises.
            log.debug("ack_not_sent", group=self._group, reason=error.reason)
        else:
            self._moved.set()

    async def lag(self) -> int:
        return await self._count("num_pending", "num_ack_pending")

    async def unread(self) -> int:
        return await self._count("num_pending") + len(self._buffer)

    async def _count(self, *names: str) -> int:
        """The sum of what the server tells of the consumer by these names."""
        self.check_open()
        connection = self._link.current()
        info = await connection.api(self._verb("INFO"))
        with connection.reading():
            return sum(int(info[name]) for name in names)

    def _verb(self, action: str) -> str:
        return f"CONSUMER.{action}.{self._stream}.{self._group}"

    def _wanted(self) -> bool:
        return len(self._buffer) + self._asked <= self._capacity // 2

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_places(), name=f"{self.what}: place")
            await self._follow()

    async def _follow(self) -> None:
        attempt = 0
        while True:
            connection = await self._link.connected()
            inbox = connection.new_inbox()
            try:
                await self._join(connection)
                attempt = 0
                await self._serve(connection, inbox, self._epoch)
            except BrokerUnavailable as error:
                log.warning("group_interrupted", group=self._group, reason=error.reason)
            finally:
                self._joined = None
            await asyncio.sleep(delay_s(attempt))
            attempt += 1

    async def _join(self, connection: Connection) -> None:
        state = await self._streams.state(connection, self._log_name)
        unacked, floor = _acked(connection, await self._make(connection, state))
        if unacked:
            try:
                await connection.api(self._verb("RESET"))
            except ApiError:
                raise
            except BrokerUnavailable:
                # Servers before 2.14 do not know the request, and nobody answers it.
                await connection.api(self._verb("DELETE"))
                await self._make(connection, state, _from(floor + 1))
        self._epoch = state.epoch
        self._joins += 1
        self._joined = connection
        self.has_joined()

    async def _make(
        self, connection: Connection, state: LogState, start: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        config = {
            "name": self._group,
            "durable_name": self._group,
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait_s * NANOSECONDS),
            "max_ack_pending": self._max_pending,
            "max_deliver": -1,
            "replay_policy": "instant",
        }
        try:
            held = await connection.api(self._verb("INFO"))
        except ApiError as error:
            if error.code != _CONSUMER_NOT_FOUND:
                raise
            action = "create"
            if start is None:
                start = await self._start(connection, state)
        else:
            # Not made here, should it vanish now: it would begin where it began once.
            action = "update"
            # Where it began cannot be changed, and need not be.
            with connection.reading():
                start = {k: v for k, v in held["config"].items() if k in _START_FIELDS}
        return await connection.api(
            self._verb("CREATE"),
            {"stream_name": self._stream, "config": config | start, "action": action},
        )

    # ------------------------------------------------------------------ the place

    async def _start(self, connection: Connection, state: LogState) -> dict[str, Any]:
        """Where a consumer that the server does not have begins."""
        stored = await self._places.find(connection, self._log_name, self._group)
        known = [self._place] if stored is None else sorted((self._place, stored), reverse=True)
        for place in known:
            if place.epoch == state.epoch and await self._stands(connection, state, place):
                log.warning(
                    "group_made_again", group=self._group, log=self._log_name, after=place.seq
                )
                return _from(place.seq + 1)
        return {"deliver_policy": "all"}

    async def _stands(self, connection: Connection, state: LogState, place: Place) -> bool:
        """Whether the log still is the one in which all up to there was acked."""
        if place.seq < state.first:
            return True
        if place.seq > state.last:
            return False
        return place.time == await time_of(connection, self._stream, place.seq)

    async def _keep_places(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            try:
                await self._keep_place(await self._link.connected())
            except BrokerUnavailable as error:
                log.debug("place_not_kept", group=self._group, reason=error.reason)
                self._moved.set()
            await asyncio.sleep(_KEEP_S)

    async def _keep_place(self, connection: Connection) -> None:
        epoch = self._epoch
        unacked, seq = _acked(connection, await connection.api(self._verb("INFO")))
        if unacked:
            # Also because the server may not have had the newest acks yet.
            self._moved.set()
        if not seq or (epoch, seq) <= self._place[:2]:
            return
        time = await time_of(connection, self._stream, seq)
        place = Place(epoch, seq, time or "")
        await self._places.keep(connection, self._log_name, self._group, place)
        self._place = place

    async def _serve(self, connection: Connection, inbox: str, epoch: int) -> None:
        self._buffer.clear()
        self._asked = 0
        self._trouble = None
        clock = asyncio.get_running_loop().time
        self._heard = clock()

        buffer, half, join = self._buffer, self._capacity // 2, self._joins

        def on_message(subject: str, reply: str, headers: bytes, payload: bytes) -> None:
            self._heard = clock()
            if not reply:
                self._on_status(headers)
                return
            self._asked = asked = self._asked - 1
            if not buffer:
                # Only then somebody may be waiting.
                self.changed.ring()
            buffer.append(NatsMessage(subject, payload, headers, epoch, 0, reply, join))
            if len(buffer) + asked <= half:
                self._wake.set()

        subscription = connection.subscribe(f"{inbox}.*", on_message, self.fail)
        connection.wake_when_lost[self._wake] = None
        try:
            number = 0
            while True:
                self._wake.clear()
                if self._trouble is not None:
                    raise BrokerUnavailable(connection.target, self._trouble)
                if connection.lost.is_set():
                    raise BrokerUnavailable(connection.target, "connection lost")
                if self._asked > 0 and clock() - self._heard > _SILENCE_S:
                    raise BrokerUnavailable(connection.target, "the consumer fell silent")
                if self._wanted():
                    number += 1
                    self._pull(connection, f"{inbox}.{number}")
                await wait_for(self._wake, _HEARTBEAT_S)
        finally:
            connection.wake_when_lost.pop(self._wake, None)
            connection.unsubscribe(subscription)

    def _pull(self, connection: Connection, reply: str) -> None:
        batch = self._capacity - len(self._buffer) - self._asked
        self._asked += batch
        request = (
            f'{{"batch":{batch},"max_bytes":{_PULL_BYTES},'
            f'"expires":{_EXPIRES_S * NANOSECONDS},'
            f'"idle_heartbeat":{_HEARTBEAT_S * NANOSECONDS}}}'
        )
        connection.write(
            publish_frame(f"$JS.API.{self._verb('MSG.NEXT')}", reply, request.encode())
        )

    def _on_status(self, headers: bytes) -> None:
        status = status_of(headers)
        if status == "100":
            return
        left = header_of(headers, b"Nats-Pending-Messages:")
        if left is None or not left.isdecimal():
            self._trouble = f"pull ended: {status} {description_of(headers)}".rstrip()
        else:
            # The request ended (expired, or its bytes were used up) with this much undelivered.
            self._asked -= int(left)
        self._wake.set()


def _acked(connection: Connection, info: dict[str, Any]) -> tuple[int, int]:
    """How many records a consumer has given out and not got back, and up to where all are acked."""
    with connection.reading():
        return int(info["num_ack_pending"]), int(info["ack_floor"]["stream_seq"])


def _from(seq: int) -> dict[str, Any]:
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": seq}


_START_FIELDS = ("deliver_policy", "opt_start_seq", "opt_start_time")
