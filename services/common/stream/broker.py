"""The Broker: a durable, ordered, replayable log behind one interface.

Every backend (JetStream, Redis Streams, in memory) obeys the clauses below and passes one
conformance suite, `services/common/testing/conformance/`, whose tests are named after them.

Vocabulary. A *record* is published on a *subject*; subjects belong to a *log* (`subjects.log_of`);
a record's *position* in its subject is (epoch, seq, sub), chosen by the publisher and strictly
increasing. A *cursor* is the broker's own opaque place in a subject: "everything up to here was
read".

B1  Order. A subject's records are delivered to each subscription in the order they were published.
B2  Durability. `Publisher.durable(ticket)` returns only after the record of that ticket, and all
    sent before it, are stored. Many records may be in flight; those of a subject are stored in the
    order sent, and none while an older one is not, whatever the server loses or refuses.
    At most `max_records` and `max_bytes` are held; then `send` waits and `offer` answers None.
    What can never be stored is not taken (`RecordRefused`), and what follows it goes on. Where only
    the server knows, the publisher's owner is told (`OnRefused`), and all others go on.
    A log that lost its end is given it again by who wrote it, before anything newer. Where several
    write a subject's records, each says what its record follows (`predecessor`): above a hole it
    stores nothing, and ends by `LogWentBack`, as what is missing is another's or has to be made
    again.
B3  Idempotence. A record whose (subject, epoch, seq, sub) was already stored inside the duplicate
    window is acknowledged and not stored again. (Redis and memory: for as long as the subject's
    newest record is retained.)
B4  Groups. A group gets every record of a log at least once, in order per subject; what is not
    acked is delivered again, to this member or, after `ack_wait`, to another. Ack after the effect.
    A member that joins, or comes back after an outage, is first given everything the group has not
    acked, so that no newer record can overtake it. Members that read at the same time share the
    records; whoever needs a subject's records in one piece runs one member. A group that the server
    lost, or that somebody deleted there, goes on at its acked place, which is kept apart from it
    (at most about a second of acks is given again): only a log that was lost begins anew.
B5  Cursors. `read(subject, cursor)` returns what follows the cursor, without a hole, or raises
    `PositionLost`; it never skips silently. A cursor of a log that was lost raises `PositionLost`.
B6  Bounds. A group has at most `max_pending` unacked records; no subscription makes the caller's
    memory grow without limit.
B7  Ends. `aclose` may be called twice; subscriptions and publishers then raise `BrokerClosed`,
    which nothing else means. One that broke by an error nobody foresaw raises `BrokerFailed`,
    naming it, to all who wait or come later; the broker's other parts go on, and whoever opened it
    opens another or ends. What a failed publisher had not confirmed may or may not be stored.
    What others put into a log ends nobody: a record without a position of ours has (0, 0).
B8  Seek. `seek(subject, position)` finds the cursor after which the first record with a greater
    position stands, in O(log n) of the log's size.
B9  Identity. `log_epoch(log)` is the same integer while the log exists and a greater one after it
    was lost and made anew.
B10 Outages. A server that goes away and comes back with its log is survived by every open
    publisher and subscription without the caller's help: nothing that was sent is lost or stored
    twice, and ordered readers see neither a hole nor a repetition. A live subscription that may
    have missed something says so (`LiveBatch.interrupted`). A question that a server does not
    answer, or that is about a log it does not have, raises `BrokerUnavailable`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

from services.common.errors import BrokerUnavailable, RecordRefused
from services.common.stream.holes import Predecessor
from services.common.stream.records import (
    Held,
    LiveBatch,
    LogSpec,
    Message,
    Page,
    Position,
    PublisherStats,
    Record,
    Storing,
)

# Told of a record that was taken and that the server will never store. What it answers is stored in
# its place (the same subject and position); None leaves the place empty. Must not wait.
OnRefused = Callable[[Record, RecordRefused], Record | None]


class Publisher(ABC):
    """A pipelined, ordered, bounded writer (B2, B3, B10). Use from one event loop."""

    @abstractmethod
    async def send(self, record: Record) -> int:
        """Take a record, waiting while the window is full; return its ticket (1, 2, 3, ...).

        Raises:
            RecordRefused: it can never be stored (`check_record`; RecordTooLarge); not taken.
        """

    @abstractmethod
    def offer(self, record: Record) -> int | None:
        """Like `send`, but answer None at once when the window is full."""

    @abstractmethod
    async def durable(self, ticket: int) -> None:
        """Return once everything up to `ticket` is stored; B7 where it ends before that."""

    async def flush(self) -> None:
        """Return once everything sent so far is stored."""
        await self.durable(self.stats().sent)

    @abstractmethod
    def stats(self) -> PublisherStats: ...

    @abstractmethod
    async def aclose(self) -> None:
        """Stop; what is still in flight is abandoned (call `flush` first)."""


class GroupSubscription(ABC):
    """One member of a group (B4, B6)."""

    joins: int  # how often it joined: since an outage the log may hold less than before

    @abstractmethod
    async def next_batch(self, max_records: int = 512) -> Sequence[Message]:
        """Wait for at least one record; return what is there, at most `max_records`.

        What a member that ended (B7) still held is delivered to the next.
        """

    @abstractmethod
    async def ack(self, messages: Sequence[Message]) -> None:
        """Say that the effect of these is durable; they will not be delivered again."""

    @abstractmethod
    async def lag(self) -> int:
        """How many records of the log this group has not acked yet."""

    @abstractmethod
    async def unread(self) -> int:
        """How many of these nobody was given yet: the group's, and what this member holds ready."""

    @abstractmethod
    async def aclose(self) -> None: ...


class LiveSubscription(ABC):
    """New records of some subjects as soon as they are published; the cheapest way to follow a log.

    It begins at "now". A reader verifies it with `prev` and refills what is missing by `read`.
    """

    @abstractmethod
    async def next_batch(self) -> LiveBatch:
        """Wait for at least one record or an interruption.

        After one that ended (B7) read what was missed meanwhile.
        """

    @abstractmethod
    async def aclose(self) -> None: ...


class Broker(ABC):
    """See the module's docstring for the clauses B1 to B10.

    Attributes:
        live_may_miss: a live subscription can lose records on a reconnect (and says so).
    """

    live_may_miss = False

    @abstractmethod
    async def open(self) -> None:
        """Connect, waiting for the server as long as it takes (cancel to give up)."""

    @abstractmethod
    async def aclose(self) -> None: ...

    @abstractmethod
    async def ensure(self, specs: Sequence[LogSpec]) -> None:
        """Create the logs or bring their settings up to date; repeating it changes nothing."""

    @abstractmethod
    async def ping(self) -> None:
        """Raise BrokerUnavailable unless the broker answers now and stores.

        That it stores is told from what the publishers opened here were given (`storing`).
        """

    @abstractmethod
    def storing(self) -> Storing:
        """How long what was given to the publishers opened here has waited to be stored."""

    def hazards(self) -> Sequence[str]:
        """What of the server's settings may cost acknowledged records, as far as it is known."""
        return ()

    def check_storing(self) -> None:
        """Raise BrokerUnavailable when it does not store; the end of `ping`."""
        problem = self.storing().problem
        if problem is not None:
            raise BrokerUnavailable("log", problem)

    @abstractmethod
    async def publisher(
        self,
        *,
        max_records: int = 4096,
        max_bytes: int = 32 * 1024 * 1024,
        on_refused: OnRefused | None = None,
        predecessor: Predecessor | None = None,
        replaceable: bool = False,
    ) -> Publisher:
        """Open a publisher. Without `on_refused` it breaks where a taken record is refused.

        With `predecessor`, by which several can share a subject, it ends by `LogWentBack` where
        what a record follows is gone (B2). `replaceable`: another writer may take this one's place
        at any time, so that what a newer record stands above is no loss, and is not told as one.
        """

    @abstractmethod
    async def group(
        self, log: str, group: str, *, max_pending: int = 8192, ack_wait_s: float = 30.0
    ) -> GroupSubscription:
        """Join `group` on `log`; a new group begins at the oldest record the log holds.

        What the group has not acked is delivered again, also what another member still holds.
        """

    @abstractmethod
    async def live(self, log: str) -> LiveSubscription:
        """Follow all subjects of `log` from now on. Active when this returns."""

    @abstractmethod
    async def read(self, subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
        """Up to `limit` records of `subject` after `cursor`; "" is the oldest one retained.

        A page may hold fewer than `limit` before the head, where records are large.

        Raises:
            PositionLost: the log cannot go on from this cursor (B5).
        """

    @abstractmethod
    async def seek(self, subject: str, after: Position) -> str:
        """Cursor from which `read` returns the first retained record with a position > `after`.

        Whether that record directly follows `after` is proven by its `prev`, not by this call.
        """

    @abstractmethod
    async def first(self, subject: str) -> Message | None:
        """The oldest record retained, or None."""

    @abstractmethod
    async def last(self, subject: str) -> Message | None:
        """The newest record stored, or None."""

    @abstractmethod
    async def subjects(self, log: str) -> Sequence[str]:
        """The subjects of `log` that hold records, sorted."""

    @abstractmethod
    async def log_epoch(self, log: str) -> int:
        """Microseconds since the Unix epoch at which this log was made (B9)."""

    @abstractmethod
    async def held(self, log: str) -> Held | None:
        """How much of a log is kept; None where a broker bounds no log by its size."""

    async def publish(self, *records: Record) -> None:
        """Store these, in order, and wait for them: for rare writes."""
        publisher = await self.publisher()
        try:
            for record in records:
                await publisher.send(record)
            await publisher.flush()
        finally:
            await publisher.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
