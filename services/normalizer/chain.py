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

import msgspec

from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import UNCHAINED, Missed, RawRecord

RAW_LOG_BREAK = "raw_log_break"

# Channels whose `seq` counts without holes, so that what is missing can be counted.
CONTIGUOUS = frozenset({"trades"})


class ChainVerdict(Enum):
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


class Place(msgspec.Struct, gc=False):
    """The position that is held of one stream. One object for each stream, changed in place.

    `seen`: the held record went through this process, so that it saw every status too.
    """

    epoch: int
    seq: int
    sub: int
    seen: bool

    def precedes(self, epoch: int, seq: int, prev: int, prev_sub: int) -> bool:
        """Whether the frame at (`epoch`, `seq`) is `NEXT` in the plainest of all cases.

        It names what is held, with all statuses. Then `link` would answer `prev`, and no break.
        """
        return prev == self.seq and 0 < prev < seq and prev_sub == self.sub and epoch == self.epoch

    def move(self, epoch: int, seq: int, sub: int) -> None:
        """Hold the record that has just been worked on."""
        self.epoch = epoch
        self.seq = seq
        self.sub = sub
        self.seen = True


class Chain:
    """The newest position of each stream's tick log, with what was published since."""

    def __init__(self) -> None:
        self._places: dict[StreamKey, Place] = {}

    def forget(self) -> None:
        """Hold nothing: the tick log may have less than it had."""
        self._places.clear()

    def place(self, key: StreamKey) -> Place | None:
        return self._places.get(key)

    def held(self, key: StreamKey) -> Position | None:
        held = self._places.get(key)
        return None if held is None else Position(held.epoch, held.seq, held.sub)

    def restore(self, key: StreamKey, position: Position) -> None:
        """Take over what the tick log holds; a position before the held one changes nothing."""
        held = self._places.get(key)
        if held is None:
            self._places[key] = Place(*position, seen=False)
        elif position > (held.epoch, held.seq, held.sub):
            held.move(*position)
            held.seen = False

    def judge(self, key: StreamKey, raw: RawRecord) -> ChainVerdict:
        """How `raw` stands to what is held. Changes nothing."""
        held = self._places.get(key)
        if held is None or raw.epoch > held.epoch:
            return ChainVerdict.UNPROVEN
        if (raw.epoch, raw.seq, raw.sub) <= (held.epoch, held.seq, held.sub):
            return ChainVerdict.DUPLICATE
        if raw.kind in UNCHAINED:
            follows = raw.seq == held.seq and raw.sub == held.sub + 1
        elif raw.prev_sub != held.sub and (raw.prev_sub is not None or not held.seen):
            follows = False
        elif (prev := _prev(raw)) is not None:
            follows = prev == held.seq
        else:
            follows = key.channel in CONTIGUOUS and raw.seq == held.seq + 1
        return ChainVerdict.NEXT if follows else ChainVerdict.UNPROVEN

    def link(self, key: StreamKey, raw: RawRecord) -> Link:
        """Hold `raw`, which is no duplicate; everything of the raw log before it has been fed."""
        place = self._places.get(key)
        if place is None:
            self._places[key] = Place(raw.epoch, raw.seq, raw.sub, seen=True)
            # Whoever ran before wrote the same `prev`, though retention took what it names.
            return Link(_prev(raw))
        epoch, held_seq = place.epoch, place.seq
        place.move(raw.epoch, raw.seq, raw.sub)
        if raw.epoch > epoch:
            return Link(None)
        # Only a status stands at seq 0: then the stream has a state, and no first record yet.
        if held_seq == 0:
            return Link(_prev(raw))
        lost = self._lost(key, raw, held_seq)
        return Link(lost.seq if lost else held_seq, lost)

    def _lost(self, key: StreamKey, raw: RawRecord, held_seq: int) -> Break | None:
        if raw.kind in UNCHAINED:
            last = raw.seq
        elif (prev := _prev(raw)) is not None:
            last = prev
        elif raw.kind == "frame" and key.channel != "ticker":
            # The ingestor began anew and does not know what came before. A ticker tells its whole
            # state every time and its numbers have holes by nature; the others must not be trusted.
            last = raw.seq - 1
        else:
            last = held_seq
        if last <= held_seq:
            return None
        count = last - held_seq if key.channel in CONTIGUOUS else None
        return Break(raw.epoch, last, held_seq, Missed(held_seq + 1, last, count))


def _prev(raw: RawRecord) -> int | None:
    """The predecessor `raw` names, unless that cannot be one: 0, or a `seq` of a former epoch."""
    return raw.prev if raw.prev and raw.prev < raw.seq else None
