"""What came before a raw record in its stream, and whether that is proven. Pure.

For each stream the position of the newest record of the tick log is held, and nothing else: the
same position can be read back from that log, so a process that was killed goes on with the same
bytes. A raw record that does not directly follow the held position is *unproven*: what is missing
may be in the raw log still (handed to another member of the group, or not yet to anybody), so the
caller feeds the raw log from there on. What then is still missing was lost, and that becomes a
break: a reset in the tick log, at a position that is the same whoever computes it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import Missed, RawRecord

RAW_LOG_BREAK = "raw_log_break"

# Channels whose `seq` counts without holes, so that what is missing can be counted.
CONTIGUOUS = frozenset({"trades"})


class Verdict(Enum):
    DUPLICATE = auto()
    NEXT = auto()
    UNPROVEN = auto()


class Break(NamedTuple):
    """Records that the raw log does not hold: everything after `prev`, up to and with `seq`."""

    epoch: int
    seq: int
    prev: int
    missed: Missed


class Link(NamedTuple):
    """`prev` for the record itself, and the break that has to be written before it, if any."""

    prev: int | None
    lost: Break | None = None


class Chain:
    """The newest position of each stream's tick log, with what was published since."""

    def __init__(self) -> None:
        self._held: dict[StreamKey, Position] = {}
        # Streams whose held record went through this object, so that it saw every status too.
        self._seen: set[StreamKey] = set()

    def held(self, key: StreamKey) -> Position | None:
        return self._held.get(key)

    def restore(self, key: StreamKey, position: Position) -> None:
        """Take over what the tick log holds; a position before the held one changes nothing."""
        held = self._held.get(key)
        if held is None or position > held:
            self._held[key] = position
            self._seen.discard(key)

    def judge(self, key: StreamKey, raw: RawRecord) -> Verdict:
        """How `raw` stands to what is held. Changes nothing."""
        held = self._held.get(key)
        if held is None or raw.epoch > held.epoch:
            return Verdict.UNPROVEN
        if (raw.epoch, raw.seq, raw.sub) <= held:
            return Verdict.DUPLICATE
        if raw.kind == "status":
            follows = raw.seq == held.seq and raw.sub == held.sub + 1
        elif raw.prev_sub != held.sub and (raw.prev_sub is not None or key not in self._seen):
            follows = False
        elif (prev := _prev(raw)) is not None:
            follows = prev == held.seq
        else:
            follows = key.channel in CONTIGUOUS and raw.seq == held.seq + 1
        return Verdict.NEXT if follows else Verdict.UNPROVEN

    def link(self, key: StreamKey, raw: RawRecord) -> Link:
        """Hold `raw`, which is no duplicate; everything of the raw log before it has been fed."""
        held = self._held.get(key)
        self._held[key] = Position(raw.epoch, raw.seq, raw.sub)
        self._seen.add(key)
        if held is None:
            # Whoever ran before wrote the same `prev`, though retention took what it names.
            return Link(_prev(raw))
        if raw.epoch > held.epoch:
            return Link(None)
        # Only a status stands at seq 0: then the stream has a state, and no first record yet.
        if held.seq == 0:
            return Link(_prev(raw))
        lost = self._lost(key, raw, held)
        return Link(lost.seq if lost else held.seq, lost)

    def _lost(self, key: StreamKey, raw: RawRecord, held: Position) -> Break | None:
        if raw.kind == "status":
            last = raw.seq
        elif (prev := _prev(raw)) is not None:
            last = prev
        elif raw.kind == "frame" and key.channel != "ticker":
            # The ingestor began anew and does not know what came before. A ticker tells its whole
            # state every time and its numbers have holes by nature; the others must not be trusted.
            last = raw.seq - 1
        else:
            last = held.seq
        if last <= held.seq:
            return None
        count = last - held.seq if key.channel in CONTIGUOUS else None
        return Break(raw.epoch, last, held.seq, Missed(held.seq + 1, last, count))


def _prev(raw: RawRecord) -> int | None:
    """The predecessor `raw` names, unless that cannot be one: 0, or a `seq` of a former epoch."""
    return raw.prev if raw.prev and raw.prev < raw.seq else None
