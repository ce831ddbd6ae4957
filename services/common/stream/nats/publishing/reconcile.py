"""What a publisher's logs hold of what it sent, looked up at the beginning of each session.

Nothing is concluded from the newest position alone: a log may hold a newer record of a subject and
not an older one (a change of leader lost a batch of which the next was stored), and it may have
lost its end, which it had acknowledged. So every record that nobody acknowledged is looked for at
its own position, and what is concluded about it is one of four fates; and where the newest
acknowledged one is gone, so is every one acknowledged of late, and what is missing of those is
written again before anything newer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import structlog

from services.common.stream.broker_base import retention_s
from services.common.stream.nats.publishing.messages import Published, in_flight
from services.common.stream.nats.publishing.session import Confirmed, Session
from services.common.stream.nats.streams import LogState, Streams
from services.common.stream.publish_window import PublishWindow
from services.common.stream.records import Position, Record
from services.common.stream.unsynced_records import UnsyncedRecords
from services.common.subjects import log_of

log = structlog.get_logger(__name__)

# How far behind a subject's newest record the look begins, in records of the log.
_SPAN = 4096
_WIDER = 8
_PAGE = 1000


class Fate(Enum):
    """What became of a record.

    STORED: it was read back. MISSING: neither it nor anything newer of its subject is there, so it
    can be stored in its turn. LOST: it is not there and something newer is, so it can only be
    stored out of turn, which is never done. EXPIRED: what the log still holds begins behind it;
    had it been stored, it would be gone by now.
    """

    STORED = "stored"
    MISSING = "missing"
    LOST = "lost"
    EXPIRED = "expired"


class ReadBack(NamedTuple):
    """What a log holds of a subject. Pure."""

    found: Mapping[Position, int]  # the records read, with the log's sequence of each
    newest: Position | None  # the subject's newest record, None without any
    # Everything from here on was read; None where nothing ever went from the log's front.
    floor: Position | None

    def fate(self, position: Position) -> Fate:
        if position in self.found:
            return Fate.STORED
        if self.newest is None or self.newest < position:
            return Fate.MISSING
        if self.floor is not None and position < self.floor:
            return Fate.EXPIRED
        return Fate.LOST


async def read_back(state: LogState, subject: str, wanted: Sequence[Position]) -> ReadBack:
    """Look for `wanted` (ascending, not empty) in a log whose state was just asked for."""
    newest = await state.last_of(subject)
    if newest is None:
        return ReadBack({}, None, None)
    found = {newest.position: newest.seq}
    if newest.position <= wanted[0]:
        return ReadBack(found, newest.position, newest.position)
    span = _SPAN
    while (start := newest.seq - span) > state.first:
        begin = await state.next(subject, start)
        if begin is None or begin.position <= wanted[0]:
            break
        span *= _WIDER
    floor: Position | None = None
    after = max(start, state.first) - 1
    while True:
        records, pending = await state.page(subject, after, _PAGE)
        found |= {record.position: record.seq for record in records}
        if records and floor is None:
            floor = records[0].position
        if not records or pending == 0 or records[-1].position >= wanted[-1]:
            break
        after = records[-1].seq
    if start <= state.first <= 1:
        floor = None
    elif floor is None:
        floor = newest.position
    return ReadBack(found, newest.position, floor)


@dataclass(slots=True, eq=False)
class Reconciler:
    """Knows the newest record that each log acknowledged, and finds out what became of the rest."""

    _streams: Streams  # the logs
    # The publisher's; records in it are marked as stored or lost.
    _window: PublishWindow[Published]
    _unsynced: UnsyncedRecords  # what was acknowledged of late
    _confirmed: dict[str, Confirmed] = field(default_factory=dict)
    # Logs of which acknowledged records may be gone, until they are written again.
    _incomplete: set[str] = field(default_factory=set)
    # The ticket given last to a record that is written again.
    _again: int = 0

    async def look_up(self, session: Session) -> None:
        """Find out what the logs have of what was sent to them before, and put it into the window.

        What they lost of what they had acknowledged comes first, with tickets below 0.

        Raises:
            BrokerUnavailable: a log does not answer.
        """
        window = self._window
        # Those that were being written again are among the unsynced still, and are found there.
        self._incomplete |= {log_of(i.record.subject) for i in window.items if i.ticket < 0}
        window.items = deque(item for item in window.items if item.ticket > 0)
        sent: dict[str, list[Published]] = {name: [] for name in self._unsynced.logs()}
        for item in window.items:
            if item.sent and not item.lost:
                sent.setdefault(log_of(item.record.subject), []).append(item)
        again: list[Record] = []
        for name, items in sent.items():
            state = await session.state(name)
            kept: list[Record] = []
            if not await self._is_whole(name, state):
                self._incomplete.add(name)
            if name in self._incomplete:
                retention = retention_s(self._streams.specs, name)
                kept = self._unsynced.of(name, state.epoch, retention, time.monotonic())
            elif all(item.stored for item in items):
                continue
            else:
                items = [item for item in items if not item.stored]
            found = await _read_back(state, [*kept, *(i.record for i in items)])
            again += self._judge_kept(name, kept, found)
            self._judge_sent(name, items, state, found)
        # From here on what is missing of them is in the window.
        self._incomplete.clear()
        if again:
            log.warning("log_tail_written_again", records=len(again))
        for record in reversed(again):
            self._again -= 1
            item = in_flight(record)
            item.ticket, item.taken_at = self._again, time.monotonic()
            # Not one of those that the window's bound counts.
            item.size = 0
            window.items.appendleft(item)

    async def _is_whole(self, name: str, state: LogState) -> bool:
        """Whether the log has all that it acknowledged here.

        Logs lose their end and nothing else, so the newest such record stands for all.
        """
        held = self._confirmed.get(name)
        if held is None or held.epoch != state.epoch:
            return held is None
        if state.first > held.seq:
            # Gone by age or size, and everything before it.
            return state.last >= held.seq
        there = await state.next(held.subject, held.seq)
        return there is not None and (there.seq, there.position) == (held.seq, held.position)

    def _judge_kept(
        self, name: str, kept: Sequence[Record], found: Mapping[str, ReadBack]
    ) -> list[Record]:
        """Which of the acknowledged records have to be written again."""
        fates = [found[record.subject].fate(record.position) for record in kept]
        gone = [record for record, fate in zip(kept, fates, strict=True) if fate is Fate.LOST]
        if gone:
            self._unsynced.forget(gone)
            self._window.say_lost(name, gone)
        return [record for record, fate in zip(kept, fates, strict=True) if fate is Fate.MISSING]

    def _judge_sent(
        self, name: str, items: Sequence[Published], state: LogState, found: Mapping[str, ReadBack]
    ) -> None:
        """Mark which of the window's records are stored."""
        window = self._window
        gone: list[Record] = []
        for item in items:
            record = item.record
            back = found[record.subject]
            fate = back.fate(record.position)
            if fate is Fate.MISSING:
                if item.stored:
                    # Acknowledged out of turn, and lost since.
                    item.stored = False
                    self._window.stored -= 1
                continue
            if fate is Fate.LOST:
                gone.append(record)
                item.lost = item.stored = True
                continue
            item.epoch = state.epoch
            if fate is Fate.STORED:
                seq = back.found[record.position]
                self.confirm(name, Confirmed(state.epoch, seq, record.subject, record.position))
            if not item.stored:
                mark_stored(window, item, duplicate=item.refused)
        if gone:
            self._window.say_lost(name, gone)

    def confirm(self, name: str, confirmed: Confirmed) -> None:
        """The log acknowledged this, or it was read back."""
        held = self._confirmed.get(name)
        if held is None or confirmed[:2] >= held[:2]:
            self._confirmed[name] = confirmed


async def _read_back(state: LogState, records: Sequence[Record]) -> dict[str, ReadBack]:
    wanted: dict[str, list[Position]] = {}
    for record in records:
        wanted.setdefault(record.subject, []).append(record.position)
    return {
        subject: await read_back(state, subject, sorted(positions))
        for subject, positions in wanted.items()
    }


def mark_stored(window: PublishWindow[Published], item: Published, *, duplicate: bool) -> None:
    """It is in the log: since now, or (`duplicate`) since it was sent before."""
    item.stored = True
    if item.ticket > 0:
        if duplicate:
            window.duplicates += 1
        else:
            window.stored += 1
