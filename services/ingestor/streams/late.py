"""Trades that a stream went on without: what is found of them later is written as `late`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from services.common.wire import LateBody, Missed, OpenGap
from services.ingestor.integrity.open_gaps import (
    MAX_OPEN,
    Range,
    as_ranges,
    left_of,
    missed,
    within,
    without,
)
from services.ingestor.streams.raw_writer import OpenGaps, RawStreamWriter
from services.ingestor.streams.stream import StreamEvents
from services.ingestor.venues.base import TradeRow

# Trades in one record: about 100 KB as the normalizer writes them.
_PER_RECORD = 200


class OpenTrades:
    """The open gaps of one trades stream; they stand in its writer, and so in the raw log."""

    def __init__(self, writer: RawStreamWriter, events: StreamEvents) -> None:
        self._writer = writer
        self._events = events

    @property
    def gaps(self) -> OpenGaps:
        return self._writer.open_gaps

    @property
    def left(self) -> list[Range]:
        """Ids that are missing and asked for, ascending."""
        return sorted(part for gap in self.gaps for part in left_of(gap))

    @property
    def count(self) -> int:
        """How many trades these are."""
        return sum(last - first + 1 for first, last in self.left)

    def with_gap(self, first: int, last: int, ts: int) -> OpenGaps:
        """The open gaps, and this one too."""
        while len(self.gaps) >= MAX_OPEN:
            oldest = self.gaps[0]
            if not self._settle(oldest, [], left_of(oldest), "too_many", ts):
                break
        return (*self.gaps, OpenGap(Missed(first, last, last - first + 1), ts))

    def reopen(self, first: int, last: int, ts: int) -> None:
        """Ask for trades whose loss readers were told already; nothing for what is open anyway."""
        for low, high in without([(first, last)], self.left):
            missing = Missed(low, high, high - low + 1)
            body = LateBody(missing, [], [missing], [], "open")
            self._writer.late(body, self.with_gap(low, high, ts), ts)

    def found(self, rows: Sequence[TradeRow], ts: int) -> int:
        """Take trades (ascending); how many of them were still missing."""
        taken = 0
        for gap in self.gaps:
            left = left_of(gap)
            mine = [row for row in rows if within(left, row.trade_id, row.trade_id)]
            for at in range(0, len(mine), _PER_RECORD):
                part = mine[at : at + _PER_RECORD]
                if not self._settle(self._now(gap), part, [], "found", ts):
                    return taken
                taken += len(part)
        return taken

    def deny(self, ranges: Sequence[Range], ts: int) -> int:
        """The venue does not have these ids; how many of them were asked for."""
        return self._give_up(self.gaps, ranges, "denied", ts)

    def expire(self, before: int, ts: int) -> int:
        """Give up what was announced before that time (µs); how many trades."""
        old = [gap for gap in self.gaps if gap.since < before]
        return self._give_up(old, self.left, "expired", ts)

    def renumbered(self, held: int, ts: int) -> None:
        """The venue's ids go on behind `held`, far below those before: are they other trades now?

        Within an announced gap they are not: nothing was there, and the ids behind it were broken
        numbers. What is missing up to `held` then stays asked for; all else is given up.
        """
        returned = any(gap.missed.from_ - 1 <= held <= gap.missed.to for gap in self.gaps)
        kept = [(0, held)] if returned else []
        self._give_up(self.gaps, without(self.left, kept), "renumbered", ts)
        # Also if the broker has no room for it: the rest must not go over into the next numbering.
        cut = [
            (gap, [part for low, high in kept for part in within(left_of(gap), low, high)])
            for gap in self.gaps
        ]
        self._writer.open_gaps = tuple(
            msgspec.structs.replace(gap, left=missed(left)) for gap, left in cut if left
        )

    def restate(self, ts: int) -> None:
        """Write again what is open: the record that said so is about to leave the log."""
        for gap in self.gaps[:1]:
            self._settle(gap, [], [], "open", ts)

    # ---- inside

    def _now(self, gap: OpenGap) -> OpenGap:
        """The gap as it is after records that were written meanwhile."""
        return next(each for each in self.gaps if each.missed == gap.missed)

    def _give_up(
        self, gaps: Sequence[OpenGap], ranges: Sequence[Range], reason: str, ts: int
    ) -> int:
        lost = 0
        for gap in gaps:
            left = left_of(gap)
            mine = sorted(part for first, last in ranges for part in within(left, first, last))
            if mine and self._settle(gap, [], mine, reason, ts):
                lost += sum(last - first + 1 for first, last in mine)
        return lost

    def _settle(
        self, gap: OpenGap, rows: Sequence[TradeRow], lost: Sequence[Range], reason: str, ts: int
    ) -> bool:
        """Write what became known of a gap; False when the broker has no room."""
        left = without(left_of(gap), as_ranges(row.trade_id for row in rows))
        left = without(left, lost)
        messages = [msgspec.Raw(row.body) for row in rows]
        body = LateBody(gap.missed, messages, missed(left), missed(lost), reason)
        rest = msgspec.structs.replace(gap, left=missed(left))
        whole = tuple(
            rest if each is gap else each for each in self.gaps if each is not gap or left
        )
        if not self._writer.late(body, whole, ts):
            return False
        if count := len(rows) or sum(last - first + 1 for first, last in lost):
            self._events.late(self._writer.key, reason, count)
        return True
