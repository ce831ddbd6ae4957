"""One connection's life as a publisher sees it: which logs, in which lanes, and what may go out.

A session in trouble gives out nothing, whoever asks. What was refused may be stored after all, or
be lost for good, and until that is looked up (by the next session) nothing may go past it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from services.common.errors import BrokerUnavailable
from services.common.stream.nats.connection import Connection
from services.common.stream.nats.publishing.lanes import BatchLane, Contended, Lane
from services.common.stream.nats.publishing.messages import Published, append_batch, append_message
from services.common.stream.nats.streams import LogState
from services.common.stream.records import Position
from services.common.subjects import log_of

# What is written at a time.
_WRITE_BYTES = 64 * 1024
# Of a batch: the server takes 1,000 records, and holds them in memory until the last one.
_BATCH_RECORDS = 500
_BATCH_BYTES = 1024 * 1024


class Confirmed(NamedTuple):
    """The newest record that a log acknowledged, and its place there."""

    epoch: int
    seq: int
    subject: str
    position: Position


class _Mark:
    """The newest acknowledgements of a log: of what was stored now, and of what was there before.

    Each with its sequence. `highest` is one that the next must exceed.
    """

    __slots__ = ("duplicate", "highest", "stored")

    def __init__(self, highest: int) -> None:
        self.highest = highest
        self.stored: tuple[Published, int] | None = None
        self.duplicate: tuple[Published, int] | None = None


@dataclass(slots=True, eq=False)
class Session:
    """Begins with a new connection and is over with it. What writes does `check` first."""

    _connection: Connection  # what is published goes there, and is answered on `<inbox>.<ticket>`
    # Makes sure that a log exists and answers; returns its state.
    _prepare: Callable[[Connection, str], Awaitable[LogState]]
    _contended: Contended  # the logs that others were seen to write to
    acked: int = 0  # how many answers came that something is stored
    trouble: str | None = None  # why it must end, once it must
    advancing: bool = False  # whether the window is about to be looked at
    over: bool = False  # it has ended, and what the server says now counts no longer
    _logs: dict[str, LogState] = field(default_factory=dict)
    _marks: dict[str, _Mark] = field(default_factory=dict)
    _lanes: dict[str, Lane[Published] | BatchLane[Published]] = field(default_factory=dict)
    _batches: int = 0
    inbox: str = field(init=False)

    def __post_init__(self) -> None:
        self.inbox = self._connection.new_inbox()

    async def state(self, log: str) -> LogState:
        """The log's state, as it was when the log was first needed here."""
        state = self._logs.get(log)
        if state is None:
            state = self._logs[log] = await self._prepare(self._connection, log)
            self._marks[log] = _Mark(state.last)
        return state

    async def enqueue(self, unsent: deque[Published]) -> None:
        """Hand each record to its log's lane; BrokerUnavailable: one does not answer."""
        self.check()
        log, epoch, lane = "", 0, None
        while unsent:
            item = unsent[0]
            subject = item.record.subject
            if lane is None or log_of(subject) != log:
                log = log_of(subject)
                epoch = (await self.state(log)).epoch
                lane = self._lane(log)
            unsent.popleft()
            item.lane = lane
            item.epoch = epoch
            lane.enqueue(subject, item.identity, item, len(item.record.payload))

    def _lane(self, log: str) -> Lane[Published] | BatchLane[Published]:
        lane = self._lanes.get(log)
        if lane is None or (isinstance(lane, Lane) and lane.idle):
            lane = self._lanes[log] = self._new_lane(self._logs[log], log)
        return lane

    def _new_lane(self, state: LogState, log: str) -> Lane[Published] | BatchLane[Published]:
        contended = (log, asyncio.get_running_loop().time()) in self._contended
        if state.replicated and state.batches and not contended:
            return BatchLane()
        return Lane(runs=not (contended or state.replicated))

    def frames(self) -> bytes:
        """What may be written now, or the first part; a refusal may have come since records did."""
        self.check()
        frames: list[bytes] = []
        size = 0
        inbox = self.inbox
        for lane in self._lanes.values():
            if isinstance(lane, BatchLane):
                size += self._add_batch(frames, lane)
                continue
            for item, follows in lane.next(_WRITE_BYTES - size):
                item.sent = True
                size += append_message(frames, item, inbox, follows)
        return b"".join(frames)

    def _add_batch(self, frames: list[bytes], lane: BatchLane[Published]) -> int:
        items = lane.next(_BATCH_RECORDS, _BATCH_BYTES)
        for item in items:
            item.sent = True
        if len(items) == 1:
            # By itself it is answered also when the server has it.
            return append_message(frames, items[0], self.inbox, "")
        if items:
            self._batches += 1
            append_batch(frames, items, self.inbox, f"{self.inbox[-22:]}-{self._batches}")
        return sum(len(item.record.payload) for item in items)

    def fail(self, reason: str) -> None:
        """The session must end; only the first reason counts."""
        if self.trouble is None:
            self.trouble = reason

    def acknowledged(
        self, last: Published, records: int, sequence: int, *, duplicate: bool
    ) -> bool:
        """The server says that it has so many that end with `last`; whether that can be.

        A sequence that does not ascend shows that the log went back: something that was
        acknowledged before is gone.
        """
        mark = self._marks[log_of(last.record.subject)]
        if duplicate:
            mark.duplicate = (last, sequence)
            return True
        if sequence < mark.highest + records:
            self.fail(f"the log went back: {sequence} stored after {mark.highest}")
            return False
        mark.highest = sequence
        mark.stored = (last, sequence)
        return True

    def confirmed(self) -> Iterator[tuple[str, Confirmed]]:
        """The newest records of each log that were acknowledged in this session."""
        for log, mark in self._marks.items():
            for held in (mark.stored, mark.duplicate):
                if held is not None:
                    record, seq = held[0].record, held[1]
                    epoch = self._logs[log].epoch
                    yield log, Confirmed(epoch, seq, record.subject, record.position)

    def check(self) -> None:
        """Raise BrokerUnavailable when there is trouble, or the connection was lost."""
        if self.trouble is not None:
            raise BrokerUnavailable(self._connection.target, self.trouble)
        if self._connection.lost.is_set():
            raise BrokerUnavailable(self._connection.target, "connection lost")
