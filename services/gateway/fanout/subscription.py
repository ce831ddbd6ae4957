"""One client's interest in one stream: a state machine. Pure.

    IDLE         it gets nothing: not begun yet, or between two states
    LIVE         it gets every record the moment it is proven
    MERGED       it gets the newest state now and then; `conflation` knows what it holds
    CATCHING_UP  nothing is pushed to it; `catching` knows where it stands and reads on from there
    ENDED        it was unsubscribed or refused, or its client is gone

    event                      IDLE         LIVE         MERGED       CATCHING_UP  ENDED
    go_live                    LIVE         -            LIVE         LIVE         -
    merge                      MERGED       MERGED       -            MERGED       -
    fall_behind (full outbox)  -            CATCHING_UP  CATCHING_UP  -            -
    catch_up (a position)      CATCHING_UP  -            -            CATCHING_UP  -
    rest (reset, new mode)     IDLE         IDLE         IDLE         IDLE         -
    end                        ENDED        ENDED        ENDED        ENDED        ENDED

Where the table says nothing, the event is refused (`WrongState`). Nobody else writes the state. The
hub alone calls these, as a stream's lists of who is live have to follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from services.common.stream import Position
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Run
from services.gateway.fanout.conflation import Conflation
from services.gateway.websocket.rfc6455.frames import text_frame

if TYPE_CHECKING:
    from services.common.resilience import TokenBucket
    from services.gateway.fanout.live_streams import LiveStream, Subscriber
    from services.gateway.fanout.outbox import Outbox

Mode = Literal["full", "latest"]
Reason = Literal["backfill", "slow", "snapshot"]
BEGINNING = Position(0, 0)
# Payload bytes handed to the client at once; between two such pieces others get their turn.
CHUNK = 64 * 1024


class State(Enum):
    IDLE = auto()
    LIVE = auto()
    MERGED = auto()
    CATCHING_UP = auto()
    ENDED = auto()


class WrongState(Exception):
    """An event that the state does not allow; a fault of the caller."""

    def __init__(self, event: str, state: State) -> None:
        super().__init__(f"{event} while {state.name}")


class View(NamedTuple):
    """What of a stream is sent; clients with one view get the same bytes."""

    depth: int = 0  # a book's levels on each side; 0 for all
    late: bool = False  # trades of an announced gap too, that were found afterwards


class Terms(NamedTuple):
    """How a client wants a stream sent."""

    mode: Mode = "full"
    # Messages a second in `latest` mode; None for as many as it takes.
    max_rate: float | None = None
    view: View = View()
    on_unrecoverable: Literal["snapshot", "error"] = "snapshot"


class Piece(NamedTuple):
    """What is handed out at once."""

    frames: bytes  # none, where all of it is for others (late trades)
    records: int  # how many of it advance `seq`
    whole: bool  # whether the chain goes on behind it; otherwise what comes next is missing


@dataclass(slots=True, eq=False)
class Catching:
    """Where a client stands that catches up."""

    # Why it does. `backfill`: it asked to; `slow`: it did not take what was pushed; `snapshot`: a
    # state is sent to it for which there was no room
    reason: Reason
    position: Position  # the last record that was handed out
    seq: int | None  # the chain's seq the client holds by then; None: it holds nothing
    since: float = 0.0  # when it began (the caller's clock, seconds)
    preface: deque[bytes] = field(default_factory=deque)  # frames that come before any record
    # Records that were read and come next.
    page: deque[StreamRecord] = field(default_factory=deque, init=False)
    # Where the log is read on behind `page`; empty: it has to be looked for.
    cursor: str = field(default="", init=False)
    # Of a backfill: what was asked for, and what of it is left out from the start.
    asked: int = 0
    warning: Mapping[str, Any] | None = None
    count: int = field(default=0, init=False)  # records handed out
    reading: bool = field(default=False, init=False)  # whether somebody fetches what comes next

    def set_page(self, page: deque[StreamRecord], cursor: str) -> None:
        """Records were read that come next; none: the place has to be looked for again."""
        self.page = page
        self.cursor = cursor if page else ""

    def links(self, record: StreamRecord) -> bool:
        """Whether nothing is missing between what the client holds and this record."""
        if record.unreadable is not None:
            return False
        held = self.seq
        if held is None:
            return True
        if _follows(record, Position(self.position.epoch, held)):
            return True
        # By its own word a client may hold a seq between two records; nothing is missing then.
        first = record.chained and self.reason == "backfill" and self.count == 0
        return first and (record.prev or 0) <= held < record.position.seq

    def linked(self, records: Iterable[StreamRecord]) -> list[StreamRecord]:
        """As many of them, from the first on, as go on from here without a hole."""
        found: list[StreamRecord] = []
        held: Position | None = None
        for record in records:
            if not (self.links(record) if held is None else _follows(record, held)):
                break
            if record.chained:
                held = record.position
            found.append(record)
        return found

    def give(self, page: deque[StreamRecord], view: View) -> Piece:
        """Hand out the first of these records, which are taken off, as far as they link."""
        frames: list[bytes] = []
        size = records = 0
        whole = True
        while page and size < CHUNK:
            record = page.popleft()
            whole = self.links(record)
            if not whole:
                break
            self.position = record.position
            if record.chained:
                self.seq = record.position.seq
                self.count += 1
                records += 1
            for message in record.messages(*view):
                frames.append(text_frame(message))
                size += len(message)
        return Piece(b"".join(frames), records, whole)

    def give_run(self, run: Run, view: View) -> Piece:
        """Hand out a run of a window, where its first record links."""
        self.cursor = ""
        if run.frames is None or not self.links(run.records[0]):
            return self.give(deque(run.records), view)
        # A window is contiguous: where its first record follows, all do.
        last = run.records[-1]
        self.position = last.position
        if run.chained:
            self.seq = last.position.seq
        self.count += run.chained
        return Piece(run.frames, run.chained, True)


def _follows(record: StreamRecord, held: Position) -> bool:
    """Whether nothing is missing between the chain's record at `held` and this one."""
    if record.unreadable is not None:
        return False
    if record.chained:
        return record.prev == held.seq
    # A status names the seq it was written after; a greater one was never sent.
    return record.position.epoch != held.epoch or record.position.seq <= held.seq


@dataclass(slots=True, eq=False)
class Subscription:
    """See the module's docstring; at most one of a client is there for a stream."""

    client: Subscriber
    live_stream: LiveStream
    terms: Terms = field(default_factory=Terms)  # how the client wants it sent
    outbox: Outbox = field(init=False)
    state: State = field(default=State.IDLE, init=False)  # see above
    # Counts the changes of state, so that what was noted about one of them is known to be over.
    version: int = field(default=0, init=False)
    conflation: Conflation | None = field(default=None, init=False)  # while `MERGED`
    catching: Catching | None = field(default=None, init=False)  # while `CATCHING_UP`
    quota: TokenBucket | None = field(default=None, init=False)  # of messages a second; the hub's

    def __post_init__(self) -> None:
        self.outbox = self.client.outbox

    @property
    def live(self) -> bool:
        """Whether records are pushed to it, each or merged."""
        return self.state is State.LIVE or self.state is State.MERGED

    def configure(self, terms: Terms) -> None:
        """It is to be sent so from its next state on."""
        if self.live:
            raise WrongState("configure", self.state)
        self.terms = terms

    def go_live(self) -> None:
        """It was given everything up to now, and gets every record from now on."""
        self._to(State.LIVE, "go_live", State.IDLE, State.MERGED, State.CATCHING_UP)

    def merge(self, held: Position | None, max_rate: float | None) -> None:
        """It holds `held` (None: nothing), and gets what comes from now on merged."""
        self._to(State.MERGED, "merge", State.IDLE, State.LIVE, State.CATCHING_UP)
        self.conflation = Conflation(held, max_rate)

    def fall_behind(self, before: Position, now: float) -> Catching:
        """Its outbox has no room for what follows `before`, or for what it is owed."""
        held = before
        if self.conflation is not None:
            # What was merged and not sent is what it does not hold.
            held = self.conflation.held or BEGINNING
        self._to(State.CATCHING_UP, "fall_behind", State.LIVE, State.MERGED)
        seq = held.seq if held != BEGINNING else None
        catching = self.catching = Catching("slow", held, seq, now)
        return catching

    def catch_up(self, catching: Catching) -> None:
        """It stands somewhere in the past, and is brought to the head from there."""
        self._to(State.CATCHING_UP, "catch_up", State.IDLE, State.CATCHING_UP)
        self.catching = catching

    def rest(self) -> None:
        """It gets nothing for now; what it held is not to be gone on from."""
        if self.state is not State.IDLE:
            self._to(State.IDLE, "rest", State.LIVE, State.MERGED, State.CATCHING_UP)

    def end(self) -> None:
        """It gets nothing any more."""
        if self.state is not State.ENDED:
            self._to(State.ENDED, "end", *State)

    def _to(self, state: State, event: str, *allowed: State) -> None:
        if self.state not in allowed:
            raise WrongState(event, self.state)
        self.state = state
        self.version += 1
        self.conflation = None
        self.catching = None
