"""The rules of a replica: one stream's verified chain inside the gateway. Pure.

A replica is fed what the live tail brings (`on_live`), pages of the log (`on_page`) and a stored
state (`on_base`), in whatever order and however often they arrive. It answers what to fetch next
(`want`) and what was proven to come next (`take`): exactly the log, in order, each record once.

    BASE     no position yet: a stored state is wanted, or the log's oldest record
    FILLING  the log is read from a known place; live records wait
    LIVE     each live record follows the one before it; one that does not leads back to FILLING

When the log itself has a hole after the position held (records expired before they were read, or
the log was lost), or a record that cannot be read, the chain cannot go on: the replica starts over
behind it and counts up `generation`. Those who followed it need its state anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from services.common.domain.book import BadLevel
from services.common.domain.fold import Fold
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import UNREADABLE, Reset, Tick, decode_record
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Window

# Records that wait to be folded at once: a snapshot asked for has at most this much to catch up.
_MAX_UNFOLDED = 256


class Phase(Enum):
    BASE = auto()
    FILLING = auto()
    LIVE = auto()


@dataclass(frozen=True, slots=True)
class WantBase:
    """A stored state, or the answer that there is none."""


@dataclass(frozen=True, slots=True)
class WantPage:
    """Records of the log: after `cursor` where given, else after position `after`.

    Neither means from the oldest one retained.
    """

    cursor: str
    after: Position | None


@dataclass(slots=True, eq=False)
class Replica:
    """See the module's docstring."""

    key: StreamKey
    window: Window
    max_held: int = 20_000
    head: Position | None = None  # position of the newest tick or reset (None: there is none yet)
    mark: Position | None = None  # position of the newest record of any kind
    status: StreamRecord | None = None  # the newest status record
    # Whether the folded state is complete: a book that begins in the middle is not.
    whole: bool = False
    generation: int = 0  # how often the chain had to start over
    last_ingest: int = 0  # `ts_ingest` of the newest record, microseconds
    phase: Phase = Phase.BASE
    _held: list[StreamRecord] = field(default_factory=list)
    # Whether a stored state may help with the next hole: not twice without being live between.
    _may_load: bool = False
    _cursor: str = ""
    # While there is no mark: everything up to here is over.
    _after: Position | None = None
    _unfolded: list[StreamRecord] = field(default_factory=list)
    _proven: list[StreamRecord] = field(default_factory=list)
    _fold: Fold = field(init=False)

    def __post_init__(self) -> None:
        self._fold = Fold(self.key)

    def want(self) -> WantBase | WantPage | None:
        """What has to be fetched for the chain to go on; None while live."""
        if self._in(Phase.LIVE):
            return None
        if self._in(Phase.BASE):
            return WantBase()
        return WantPage(self._cursor, self.mark or self._after)

    def drain(self) -> list[StreamRecord]:
        """The records proven since the last call, in the log's order."""
        proven, self._proven = self._proven, []
        return proven

    def on_base(self, position: Position | None, cursor: str = "", state: bytes = b"") -> None:
        """Begin after a stored state, or with the log's oldest record (None)."""
        if not self._in(Phase.BASE):
            return
        self._may_load = False
        self._begin()
        self.phase = Phase.FILLING
        if position is not None:
            try:
                self._fold.load(position, state)
            except (*UNREADABLE, BadLevel):
                self._fold = Fold(self.key)
                return
            self._cursor = cursor
            self.head = self.mark = Position(position.epoch, position.seq)
            self.whole = True
            self.window.restart(self.head)

    def on_page(self, records: Sequence[StreamRecord], cursor: str, *, at_head: bool) -> bool:
        """Take what the log holds after the place that was wanted.

        Answers False when this brought nothing and more is still wanted: wait before reading again.
        """
        if not self._in(Phase.FILLING):
            return True
        before = self.mark
        for record in records:
            if self._is_over(record):
                continue
            hole = record.chained and self.head is not None and not record.follows(self.head)
            if hole and self._cursor:
                # A log that lost its end may hold other records at that place by now; by position
                # there may still be a way.
                self._cursor = ""
                return True
            if hole or record.unreadable is not None:
                self._start_over()
                if self._in(Phase.BASE):
                    return True
            if record.unreadable is None:
                self._prove(record)
            else:
                self._after = record.position
        self._cursor = cursor
        if at_head:
            self._join()
        return self._in(Phase.LIVE) or self.mark != before

    def on_live(self, records: Sequence[StreamRecord]) -> None:
        """Take what the live tail brought."""
        for index, record in enumerate(records):
            if not self._in(Phase.LIVE):
                self._hold(records[index:])
                return
            if self._is_over(record):
                continue
            if not self._follows(record):
                self._refill()
                self._hold(records[index:])
                return
            self._prove(record)

    def on_interrupted(self) -> None:
        """The live tail may have missed something: nothing after the mark is proven."""
        if self._in(Phase.LIVE):
            self._refill()

    def on_lost(self) -> None:
        """The log cannot go on from the place that was wanted."""
        if not self._in(Phase.FILLING):
            return
        if self._cursor and self.mark is not None:
            # The cursor is another log's, or expired; so too by position.
            self._cursor = ""
        else:
            self._start_over()

    def on_failure(self) -> None:
        """Whoever fed this failed midway: nothing that is held can be relied on."""
        self._held.clear()
        self._unfolded.clear()
        self._may_load = True
        self._start_over()

    def learn_status(self, record: StreamRecord) -> bool:
        """Take an older record as the current status when none is known; whether it was taken."""
        if self.status is not None:
            return False
        self.status = record
        return True

    @property
    def stateful(self) -> bool:
        """Whether the whole state at `head` is known."""
        if self._unfolded and self.whole:
            self._catch_up_fold()
        return self.whole and self.head is not None

    def state(self, depth: int | None = None) -> tuple[Position, bytes] | None:
        """The whole state at `head`; None while there is nothing, or not all of it.

        `depth` keeps a book's best levels on each side only.
        """
        if not self.stateful or self.head is None:
            return None
        return self.head, self._fold.state(depth)

    def _in(self, phase: Phase) -> bool:
        return self.phase is phase

    def _is_over(self, record: StreamRecord) -> bool:
        """Whether the chain stands behind this record already."""
        held = self.mark or self._after
        return held is not None and record.position <= held

    def _begin(self) -> None:
        self._fold = Fold(self.key)
        self._unfolded.clear()
        self.head = self.mark = None
        self.whole = False
        self.status = None
        self.window.restart(None)

    def _refill(self) -> None:
        self.phase = Phase.FILLING
        self._cursor = ""

    def _hold(self, records: Sequence[StreamRecord]) -> None:
        if len(self._held) + len(records) <= self.max_held:
            self._held.extend(records)
        else:
            # They are in the log; the next live record will not follow and has them read.
            self._held.clear()

    def _join(self) -> None:
        """The log is read to its head: go live if what waited follows, else read on."""
        held, self._held = self._held, []
        self.phase = Phase.LIVE
        self._may_load = True
        self.on_live(held)

    def _follows(self, record: StreamRecord) -> bool:
        if self.mark is None:
            return False
        if not record.chained:
            return record.before == self.mark
        # A seq of another epoch proves nothing; the log tells what stands between.
        return record.follows(self.head) and record.position.epoch == self.mark.epoch

    def _prove(self, record: StreamRecord) -> None:
        if record.chained:
            if record.kind == "reset" or self.head is None:
                self._judge_whole(record)
            self.head = record.position
            self._unfolded.append(record)
            if len(self._unfolded) > _MAX_UNFOLDED:
                self._catch_up_fold()
        elif record.kind == "status":
            self.status = record
        self.mark = record.position
        self.last_ingest = record.ts_ingest or self.last_ingest
        self.window.append(record)
        self._proven.append(record)

    def _judge_whole(self, record: StreamRecord) -> None:
        if self.key.channel != "book":
            # Every ticker tick tells all, and trades are whole however few are known.
            self.whole = True
        elif record.kind == "reset":
            self.whole = record.repair == "snapshot"
        else:
            self.whole = record.prev is None

    def _catch_up_fold(self) -> None:
        for record in self._unfolded:
            try:
                decoded = decode_record(record.payload)
                if isinstance(decoded, Tick | Reset):
                    self._fold.apply(decoded)
            except (*UNREADABLE, BadLevel):
                # The chain holds, the state no longer does.
                self.whole = False
        self._unfolded.clear()

    def _start_over(self) -> None:
        """Begin with a stored state again, or where one did not help, with what comes next."""
        self.generation += 1
        self._proven.clear()
        self._cursor = ""
        self._after = None
        if self._may_load:
            self.phase = Phase.BASE
        else:
            self._begin()
