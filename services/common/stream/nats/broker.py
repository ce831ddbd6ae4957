"""NatsBroker: logs as JetStream streams.

One stream a log (`MARKET_RAW`, `MARKET_TICK_3`), on files, kept by age. A cursor is
`<log epoch>@<stream sequence>`; the log epoch is the stream's creation time in microseconds.

What can follow a cursor (B5): a stream purges from its front, whatever the subject. When its first
sequence is above cursor + 1, records of the subject may have been among the purged ones, and
`PositionLost` is raised, also for a quiet subject that in truth lost nothing: the stream cannot
tell. A page that reached the head therefore answers a cursor at the log's end, not at the subject's
last record, so that a reader who comes back within the retention is never refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from services.common.errors import BrokerClosed, PositionLost
from services.common.network.tls import NO_TLS_FILES, TlsFiles
from services.common.stream.broker_base import BrokerBase, GroupOptions, PublisherOptions
from services.common.stream.nats.connection import Connection
from services.common.stream.nats.group import NatsGroup
from services.common.stream.nats.link import Link, NatsOptions
from services.common.stream.nats.live import NatsLive
from services.common.stream.nats.places import Places
from services.common.stream.nats.publisher import NatsPublisher
from services.common.stream.nats.records import parse_cursor, sequence_cursor
from services.common.stream.nats.streams import LogState, Streams
from services.common.stream.records import Held, LogSpec, Message, Page, Position
from services.common.subjects import log_of

_DEFAULT_LIMIT = 1024 * 1024


class NatsBroker(BrokerBase):
    """See `Broker`."""

    live_may_miss = True

    def __init__(
        self,
        servers: Sequence[str],  # URLs; one is picked at each connect
        *,
        prefix: str = "MARKET",  # of the streams' names
        creds_file: str | None = None,  # NATS credentials
        user: str | None = None,  # with the password, instead of a credentials file
        password: SecretStr | None = None,
        # Whom to believe, and the client certificate to show, where a server is `tls://`.
        tls: TlsFiles = NO_TLS_FILES,
        replicas: int = 1,  # of each stream
        # How often a live subscription looks whether it has seen everything.
        live_check_s: float = 10.0,
    ) -> None:
        super().__init__()
        self._options = NatsOptions(tuple(servers), creds_file, user, password, tls)
        self._streams = Streams(prefix, replicas)
        self._places = Places(prefix, replicas)
        self._live_check_s = live_check_s
        self._link: Link | None = None
        self._limit = _DEFAULT_LIMIT

    # ------------------------------------------------------------------ life

    async def open(self) -> None:
        if self._link is None:
            self._link = self._own(Link(self._options, "shared"))
        self._limit = (await self._link.connected()).max_payload

    def _shared(self) -> Link:
        if self._closed or self._link is None:
            raise BrokerClosed
        if self._link.failed:
            # Whoever worked with it was told; what is opened from now on has another.
            self._link = self._own(Link(self._options, "shared"))
        return self._link

    def _current(self) -> Connection:
        return self._shared().current()

    async def ping(self) -> None:
        await self._current().api("INFO")
        self.check_storing()

    @property
    def requests(self) -> int:
        """How many requests this connection has made; for measuring."""
        return self._current().requests

    async def api(self, verb: str) -> dict[str, Any]:
        """Ask JetStream itself; beyond what a `Broker` is, for operators and tests.

        Raises:
            BrokerUnavailable: the server refused or did not answer.
        """
        return await self._current().api(verb)

    # ------------------------------------------------------------------ logs

    async def ensure(self, specs: Sequence[LogSpec]) -> None:
        connection = self._current()
        for spec in specs:
            await self._streams.ensure(connection, spec)

    async def held(self, log: str) -> Held | None:
        connection = self._current()
        state = await self._streams.state(connection, log)
        with connection.reading():
            return state.held

    async def log_epoch(self, log: str) -> int:
        return (await self._streams.state(self._current(), log)).epoch

    async def subjects(self, log: str) -> Sequence[str]:
        return await (await self._streams.state(self._current(), log)).subjects()

    # ------------------------------------------------------------------ publish and follow

    def _publisher(self, options: PublisherOptions) -> NatsPublisher:
        self._shared()
        link = Link(self._options, "publisher")
        return NatsPublisher(link, self._streams, options, known_limit=self._limit)

    def _group(self, options: GroupOptions) -> NatsGroup:
        return NatsGroup(self._shared(), self._streams, self._places, options)

    def _live(self, log: str) -> NatsLive:
        return NatsLive(self._shared(), self._streams, log, check_s=self._live_check_s)

    # ------------------------------------------------------------------ read

    async def _state(self, subject: str) -> LogState:
        return await self._streams.state(self._current(), log_of(subject))

    async def read(self, subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
        log = await self._state(subject)
        after = 0
        if cursor:
            place = parse_cursor(subject, cursor, log.epoch)
            if isinstance(place, Position):
                place = await _resolve(log, subject, cursor, place)
            after = place
            if after > log.last:
                raise PositionLost(subject, cursor, None)
            _check_retained(log, subject, cursor, after)
        found, pending = await log.page(subject, after, limit)
        if cursor:
            # Records may have been purged between the two looks.
            _check_retained(await self._state(subject), subject, cursor, after)
        end = found[-1].seq if found else after
        if pending == 0:
            # Whatever the log held before the batch was asked for, this subject has no more of it.
            end = max(end, log.last)
        return Page(found, sequence_cursor(log.epoch, end), pending == 0)

    async def first(self, subject: str) -> Message | None:
        return await (await self._state(subject)).next(subject, 1)

    async def last(self, subject: str) -> Message | None:
        return await (await self._state(subject)).last_of(subject)

    async def seek(self, subject: str, after: Position) -> str:
        log = await self._state(subject)
        newest = await log.last_of(subject)
        if newest is None or newest.position <= after:
            end = max(log.last, newest.seq if newest is not None else 0)
            return sequence_cursor(log.epoch, end)
        found = await log.first_above(subject, after, newest)
        return sequence_cursor(log.epoch, found.seq - 1)


def _check_retained(log: LogState, subject: str, cursor: str, after: int) -> None:
    if log.first > after + 1:
        raise PositionLost(subject, cursor, sequence_cursor(log.epoch, log.first - 1))


async def _resolve(log: LogState, subject: str, cursor: str, position: Position) -> int:
    """The stream sequence a live record was given.

    Raises:
        PositionLost: it is not in the log, so what follows it cannot be told.
    """
    newest = await log.last_of(subject)
    if newest is None or newest.position < position:
        # Seen live a moment before it is stored; it will be read once more.
        return max(log.last, log.first - 1)
    before = Position(position.epoch, position.seq, position.sub - 1)
    found = await log.first_above(subject, before, newest)
    if found.position != position:
        raise PositionLost(subject, cursor, sequence_cursor(log.epoch, log.first - 1))
    return found.seq
