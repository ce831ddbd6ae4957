"""What the snapshotter knows of one stream: what was taken, archived, written, and its state. Pure.

The group delivers a stream's records at least once; after a crash, or when one comes again late,
not in order. So every record is judged: it is held already, or it provably follows what is held, or
the log has to be read between. What goes into the fold and the archive goes in order, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from opentelemetry.trace import Span

from services.common.domain.book import BadLevel
from services.common.domain.fold import Fold
from services.common.stores.index import Head
from services.common.stores.ports import Checkpoint, LatestRow
from services.common.stores.rows import BOOK_DEPTH
from services.common.stream import Message, Position
from services.common.subjects import StreamKey
from services.common.wire import Reset, Tick, encode


class DeliveryVerdict(Enum):
    HELD = "held"
    NEXT = "next"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class BookImage:
    """A whole book at a position, not encoded yet: that takes long and can be done elsewhere."""

    key: StreamKey
    position: Position
    cursor: str
    shard: int
    ts_snapshot: int
    bids: Sequence[tuple[str, str]]
    asks: Sequence[tuple[str, str]]

    def encoded(self) -> Checkpoint:
        """As it is stored; milliseconds for a large book."""
        state = encode({"bids": self.bids, "asks": self.asks})
        place = (self.position, self.cursor, self.shard)
        return Checkpoint(self.key, *place, self.ts_snapshot, state)


class View:
    """The fold of a stream, and how much of it is in the stream's latest row.

    A book is `whole` from a reset that brings its state; from a break in the chain, or a reset
    without state, until the next such reset it is not, and its row keeps the last whole state.
    """

    def __init__(self, key: StreamKey) -> None:
        self.key = key
        self.fold = Fold(key)
        self.cursor = ""
        self.ts_ingest = 0
        self.whole = key.channel != "book"
        self.stored: Position | None = None
        self.checkpoint: str | None = None
        self.checkpointed: Position | None = None
        self._was_reset = False

    def load(self, position: Position, cursor: str, state: bytes) -> None:
        """Start from a stored state.

        Raises:
            UNREADABLE: the state does not have the channel's shape.
            BadLevel: a book's row is malformed.
        """
        self.fold.load(position, state)
        self.cursor = cursor
        self.whole = True

    @property
    def start(self) -> Head | None:
        """Where the log has to be read from; None is its beginning."""
        return Head(self.fold.position, self.cursor) if self.fold.position is not None else None

    def apply(self, record: Tick | Reset, cursor: str) -> bool:
        """Take the next record in; False when it was not new.

        Raises:
            BadLevel: a book's change is malformed; the book is not whole from here.
        """
        held = self.fold.position
        follows = held is not None and record.epoch == held.epoch and record.prev == held.seq
        is_book = self.key.channel == "book"
        try:
            if not self.fold.apply(record):
                return False
        except BadLevel:
            self.whole = not is_book
            raise
        self.cursor = cursor
        self.ts_ingest = record.ts_ingest
        if isinstance(record, Reset):
            self.whole = not is_book or record.state is not None
            self._was_reset = True
        elif is_book and not follows:
            self.whole = False
        return True

    def pop_reset(self) -> bool:
        """Whether a reset came since this was asked last."""
        was_reset, self._was_reset = self._was_reset, False
        return was_reset

    @property
    def dirty(self) -> bool:
        """Whether the row is behind."""
        position = self.fold.position
        return (
            self.whole and position is not None and (self.stored is None or self.stored < position)
        )

    @property
    def checkpoint_behind(self) -> bool:
        return (
            self.key.channel == "book"
            and self.whole
            and self.fold.position is not None
            and self.checkpointed != self.fold.position
        )

    def covers(self, position: Position) -> bool:
        """Whether nothing about `position` is left to be written into the row."""
        plain = Position(position.epoch, position.seq)
        return not self.dirty or (self.stored is not None and self.stored >= plain)

    def row(self, shard: int, now: int) -> LatestRow | None:
        """The row to write now (`now` in microseconds); None when the row is not behind."""
        if not self.dirty or self.fold.position is None:
            return None
        place = (self.fold.position, self.cursor, shard)
        return LatestRow(self.key, *place, now, self.fold.state(BOOK_DEPTH), self.checkpoint)

    def changed_book(self, shard: int, now: int) -> BookImage | None:
        """The whole book, as it is now; None when the last checkpoint still is it."""
        if not self.checkpoint_behind or self.fold.position is None:
            return None
        book = self.fold.book
        return BookImage(
            self.key, self.fold.position, self.cursor, shard, now, book.bids(), book.asks()
        )

    def written(self, position: Position) -> None:
        """The row holds `position`, or something newer."""
        self.stored = position if self.stored is None else max(self.stored, position)


class Stream:
    """One stream's place: last record taken, batched, archived; what is not acked yet.

    Args:
        subject: where its records are published.
        view: its state, for ticks; None for raw records, which are only archived.
        archived: how far the archive goes already.
    """

    def __init__(
        self, key: StreamKey, subject: str, shard: int, view: View | None, archived: Head | None
    ) -> None:
        self.key = key
        self.subject = subject
        self.shard = shard
        self.view = view
        self.archived = archived.position if archived is not None else None
        self.batched = self.archived
        # Reading starts where the archive and the state both have everything before.
        start = archived
        if view is not None:
            starts = (archived, view.start)
            start = None if None in starts else min(starts, key=_place)
        self.held = start.position if start is not None else None
        self.cursor = start.cursor if start is not None else ""
        self._unacked: dict[Position, Message] = {}
        # Of the last traced record that was folded and is in no row yet.
        self.trace: Span | None = None

    def judge(self, position: Position, prev: int | None, prev_sub: int | None) -> DeliveryVerdict:
        """How a record relates to what was taken; `prev` and `prev_sub` as the record says them.

        Another snapshotter of the group may have been given what is between. Without `prev_sub` a
        record proves nothing of the statuses before it.
        """
        held = self.held
        if held is None:
            return DeliveryVerdict.UNPROVEN
        if position <= held:
            return DeliveryVerdict.HELD
        if position.epoch != held.epoch:
            return DeliveryVerdict.UNPROVEN
        if position.seq == held.seq:
            return (
                DeliveryVerdict.NEXT if position.sub == held.sub + 1 else DeliveryVerdict.UNPROVEN
            )
        follows = position.sub == 0 and prev == held.seq and prev_sub == held.sub
        return DeliveryVerdict.NEXT if follows else DeliveryVerdict.UNPROVEN

    def advance(self, position: Position, cursor: str) -> None:
        """The record at `position` was taken."""
        self.held = position
        self.cursor = cursor

    def take_over(self, stored: View | None) -> bool:
        """Go on from a state that another process stored, if it is newer than the view."""
        if self.view is None or stored is None:
            return False
        own, theirs = self.view.fold.position, stored.fold.position
        if theirs is None or (own is not None and theirs <= own):
            return False
        self.view = stored
        return True

    def wants_archived(self, position: Position) -> bool:
        return self.batched is None or position > self.batched

    def deliver(self, message: Message) -> int:
        """Remember a delivery until it can be acked; returns the bytes it adds."""
        fresh = message.position not in self._unacked
        # The newest delivery of a record is the one whose ack counts.
        self._unacked[message.position] = message
        return len(message.payload) if fresh else 0

    def settled(self, position: Position) -> bool:
        """Whether the record's whole effect is stored."""
        if self.archived is None or position > self.archived:
            return False
        return self.view is None or self.view.covers(position)

    def pop_settled(self) -> list[Message]:
        """Deliveries that can be acked now, no longer remembered."""
        done: list[Message] = []
        for position, message in self._unacked.items():
            if not self.settled(position):
                break
            done.append(message)
        for message in done:
            del self._unacked[message.position]
        return done


def _place(head: Head | None) -> Position:
    return head.position if head is not None else Position(0, 0)
