"""How old data is, and whether it may be taken for the market now. Pure.

Times are whole microseconds: the server's since the Unix epoch, the client's own on a clock that
never goes back, from wherever. The same rule stands in every SDK, and one file of cases holds them
to it (clients/conformance/market_data_conformance/freshness.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What is older is not shown as live; a gateway says `stale` of what is so old by itself.
LIMIT_US = 10_000_000
_LOST_HEARTBEATS = 2
# However short heartbeats are, a connection is not given up sooner.
_LOST_AT_LEAST_US = 3_000_000
# Two clocks drift apart by a part in so many.
_DRIFT = 10_000
# When a line's delay is known less well than this the worst that it may be is taken.
_UNSURE_US = 1_000_000

State = Literal[
    "offline",
    "refused",
    "waiting",
    "resyncing",
    "down",
    "stale",
    "catching_up",
    "quiet",
    "live",
]


def silent_after_us(heartbeat_us: int) -> int:
    """A line on which nothing was heard for so long says nothing of now: two heartbeats."""
    return _LOST_HEARTBEATS * heartbeat_us


def lost_after_us(heartbeat_us: int) -> int:
    """A connection on which nothing was heard for so long is given up; 0: before the first word."""
    return LIMIT_US if heartbeat_us == 0 else max(_LOST_AT_LEAST_US, silent_after_us(heartbeat_us))


class ServerClock:
    """What the server's clock shows now, by what it showed in its messages.

    A message was on its way for some time, so that the server's clock is ahead of what it says by
    no less than nothing; and where it answers something, by no more than the answer took. A line
    that delays everything alike is known by the second, or by how little it delayed before.
    """

    def __init__(self) -> None:
        # The server's clock less ours: at least this, as it was found then; and at most this.
        self._least: tuple[int, int] | None = None
        self._most: int | None = None

    def heard(self, server: int, now: int, asked: int | None = None) -> None:
        """A message said `server`, and came at `now`; it answers what was asked at `asked`."""
        least = server - now
        most = server - asked if asked is not None else None
        if self._least is None or least >= self._at_least(now, self._least):
            self._least = (least, now)
        if most is not None and (self._most is None or most < self._most):
            self._most = most
        if self._most is not None and self._at_least(now, self._least) > self._most:
            # Both cannot be: one of the clocks was set, or this is another server.
            self._least, self._most = (least, now), most

    def now_us(self, now: int) -> int | None:
        """The server's time, rather too late than too early; None before anything was heard."""
        if self._least is None:
            return None
        least = self._at_least(now, self._least)
        unsure = self._most is not None and self._most - least > _UNSURE_US
        return now + (self._most if unsure and self._most is not None else least)

    @staticmethod
    def _at_least(now: int, least: tuple[int, int]) -> int:
        offset, found = least
        return offset - (now - found) // _DRIFT


@dataclass(slots=True)
class Facts:
    """What is known of one stream.

    Attributes:
        accepted: the gateway takes the subscription, on this connection; None: no answer yet.
        feed: the newest `status`; empty before the first.
        mode: how it is sent: `full`, `latest` or `catch_up`.
        lag: records to catch up, by the gateway's word.
        newest: when the newest record held was received by the platform (`ts_ingest`).
        as_of: what is held was the newest at this time by the server's clock.
    """

    accepted: bool | None = None
    feed: str = ""
    mode: str = ""
    lag: int = 0
    newest: int | None = None
    as_of: int | None = None

    def ingested(self, at: int) -> None:
        """A record that was received at `at` is held."""
        if self.newest is None or at > self.newest:
            self.newest = at
        self.current(at)

    def current(self, at: int) -> None:
        """What is held is all there was at `at`."""
        if self.as_of is None or at > self.as_of:
            self.as_of = at


@dataclass(frozen=True, slots=True)
class Freshness:
    """Whether what is held of a stream may be taken for the market now.

    Attributes:
        state: `live` or `quiet` (nothing happens there) when it may; else why not: `offline` (no
            connection, or two heartbeats long nothing was heard), `refused`, `waiting` (nothing
            came yet), `resyncing`, `down`, `stale` (older than 10 s, or the gateway says so),
            `catching_up`.
        as_of: when it was the market, microseconds since the Unix epoch by the server's clock;
            None when nothing is held.
        age_ms: of the newest record, from the platform's receiving it until now; None when no
            record came yet.
        feed: the newest `status`.
        mode: `full`, `latest` or `catch_up`.
        lag: records to catch up.
    """

    state: State
    as_of: int | None
    age_ms: int | None
    feed: str
    mode: str
    lag: int

    @property
    def fresh(self) -> bool:
        """Whether it may be shown as live."""
        return self.state in ("live", "quiet")


def judge(
    facts: Facts,
    *,
    silent: int | None,
    heartbeat: int,
    server_now: int | None,
    broken: bool,
    backfilling: bool,
) -> Freshness:
    """The verdict on one stream.

    Args:
        facts: what is known of it.
        server_now: the server's time; None when it is not known.
        silent: for how long nothing was heard; None: there is no connection.
        heartbeat: 0 when it is not known.
        broken: its chain waits for a snapshot.
        backfilling: ticks of the past are coming.
    """
    age = None if server_now is None or facts.newest is None else server_now - facts.newest
    return Freshness(
        _state(facts, silent, heartbeat, server_now, broken, backfilling),
        facts.as_of,
        None if age is None else max(0, age) // 1000,
        facts.feed,
        facts.mode,
        facts.lag,
    )


def _state(
    facts: Facts,
    silent: int | None,
    heartbeat: int,
    server_now: int | None,
    broken: bool,
    backfilling: bool,
) -> State:
    if silent is None or (heartbeat and silent > silent_after_us(heartbeat)):
        return "offline"
    if facts.accepted is False:
        return "refused"
    if facts.as_of is None or facts.accepted is None:
        return "waiting"
    if broken:
        return "resyncing"
    if facts.feed == "down":
        return "down"
    if facts.feed == "stale":
        return "stale"
    if facts.feed == "resyncing":
        return "resyncing"
    if backfilling or facts.mode == "catch_up":
        return "catching_up"
    limit = max(LIMIT_US, silent_after_us(heartbeat))
    if server_now is None or server_now - facts.as_of > limit:
        return "stale"
    return "quiet" if facts.feed == "quiet" else "live"


class Line:
    """The connection, and the server's clock as far as it was told on it. Seconds are `take`'s.

    Attributes:
        heard: when something was last heard on the connection that stands; None without one.
    """

    def __init__(self) -> None:
        self.clock = ServerClock()
        self.heartbeat_s = 0.0
        self.heard: float | None = None
        self._asked: float | None = None
        # The newest time that the server told on this connection.
        self._told: int | None = None

    def opened(self, asked: float | None) -> None:
        """A connection stands that was asked for at `asked`; nothing was heard on it yet."""
        self.lost()
        self._asked = asked

    def lost(self) -> None:
        """The connection ended."""
        self.heard = self._asked = self._told = None

    def welcomed(self, server_time: int | None, now: float) -> None:
        """The first message: it answers the asking for the connection."""
        self._hear(server_time, now, self._asked)

    def says(self, server_time: int | None, now: float) -> None:
        """A message told the server's time."""
        self._hear(server_time, now, None)

    def caught_up(self, facts: Facts) -> None:
        """A stream holds all there was when the server last told its time: what it told before."""
        if self._told is not None and facts.accepted is not None:
            facts.current(self._told)

    def judge(self, facts: Facts, now: float, *, broken: bool, backfilling: bool) -> Freshness:
        """See the function `judge`."""
        return judge(
            facts,
            silent=None if self.heard is None else _micros(now - self.heard),
            heartbeat=_micros(self.heartbeat_s),
            server_now=self.clock.now_us(_micros(now)),
            broken=broken,
            backfilling=backfilling,
        )

    def _hear(self, server_time: int | None, now: float, asked: float | None) -> None:
        if server_time is not None:
            self._told = server_time
            asked_us = None if asked is None else _micros(asked)
            self.clock.heard(server_time, _micros(now), asked_us)


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
