"""What a client hands out: typed events. Times are microseconds since the Unix epoch, UTC.

Prices and sizes are the venue's own decimal strings; make a `Decimal` of them where you calculate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Channel = Literal["ticker", "trades", "book"]
Side = Literal["buy", "sell"]


@dataclass(frozen=True, slots=True)
class Level:
    """One price of a book, and how much rests there.

    `size` is None in a ticker's best bid or ask where the venue does not say it.
    """

    price: str
    size: str | None


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade; `side` is the taker's."""

    price: str
    size: str
    side: Side
    trade_id: int
    time: int | None


@dataclass(frozen=True, slots=True)
class Stats24h:
    """The last 24 hours, as the venue counts them."""

    open: str | None
    high: str | None
    low: str | None
    volume: str | None


@dataclass(frozen=True, slots=True)
class Fields:
    """What a tick changes: whichever its channel gives, the others are None.

    Attributes:
        changes: of a book: (side, price, new size); a size of zero removes the level.
    """

    last_trade: Trade | None = None
    best_bid: Level | None = None
    best_ask: Level | None = None
    stats_24h: Stats24h | None = None
    volume_30d: str | None = None
    changes: tuple[tuple[Side, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Belongs to one stream, `venue:channel:product`."""

    venue: str
    channel: str
    product: str

    @property
    def stream(self) -> str:
        return f"{self.venue}:{self.channel}:{self.product}"


@dataclass(frozen=True, slots=True)
class Tick(Event):
    """The next tick of a stream, verified: it continues what was handed out before.

    Attributes:
        prev: seq of the record before it in the log; None for a stream's very first.
        ts_event: the venue's own time.
        ts_ingest: when the platform received it.
        merged: how many ticks it stands for; more than 1 only in mode `latest`.
    """

    epoch: int
    seq: int
    prev: int | None
    ts_event: int | None
    ts_ingest: int
    fields: Fields
    venue_seq: int | None = None
    merged: int = 1


@dataclass(frozen=True, slots=True)
class Late(Event):
    """Trades of an announced gap (`Reset.missed`) that were found afterwards; `late` asks for them.

    The stream's position does not move. One may come twice around a reconnect.

    Attributes:
        missed: first and last trade id of the gap, as it was announced.
        ticks: ascending; each one's `seq` is its trade id.
        open: ranges (first, last) that are still missing and asked for; none: the gap is closed.
        lost: ranges that will not come any more.
        reason: `found`, `denied`, `expired`, `too_many`, `renumbered`, or `open`: nothing new.
    """

    epoch: int
    missed: tuple[int, int]
    ticks: tuple[Tick, ...]
    open: tuple[tuple[int, int], ...]
    lost: tuple[tuple[int, int], ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot(Event):
    """The whole state at (`epoch`, `seq`); it replaces everything held.

    A book's parts are joined: `bids` and `asks` are whole, best first.
    """

    epoch: int
    seq: int
    ts_snapshot: int
    reason: str
    fields: Fields = field(default_factory=Fields)
    trades: tuple[Trade, ...] = ()
    bids: tuple[Level, ...] = ()
    asks: tuple[Level, ...] = ()


@dataclass(frozen=True, slots=True)
class Reset(Event):
    """The stream starts over: what was held is void. `missed` is the range that was lost."""

    epoch: int
    seq: int
    cause: str = ""
    repair: str = "none"
    missed: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Status(Event):
    """How the stream does: live, quiet, stale, resyncing, down.

    `evidence` is a text of the ingestor, or the gateway's own `{"by": "gateway", "age_ms": ...}`:
    how old what it serves is, when it says `stale` (nothing comes through) or takes that back.
    """

    state: str
    since: int = 0
    evidence: str | dict[str, Any] = ""


@dataclass(frozen=True, slots=True)
class Subscribed(Event):
    """The stream was accepted. `head` is its newest seq; None when it has no record yet.

    `warning`: of a position that is not served whole: the fields of an error (`code`, `name`,
    `message` ...). With `start` `snapshot` it says why, with `backfill` what is left out.
    """

    epoch: int | None = None
    head: int | None = None
    start: str = "live"
    mode: str | None = None
    warning: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Backfill(Event):
    """Ticks of the past begin or end here.

    Attributes:
        first: the seq they are asked after; 0: from the beginning.
        last: of the last tick; None when the stream has none.
        count: of ticks and resets, once they have come.
        complete: whether everything after `first` that is retained is given.
        warning: what is left out when it is not: the fields of an error, `cause` (`age`, `archive`
            or `expired`) and `oldest_seq`, the first that is given.
    """

    state: Literal["begin", "end"]
    first: int
    last: int | None
    count: int | None = None
    complete: bool = False
    warning: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ModeChange(Event):
    """The gateway sends this stream in another way: this client was slow, or is no more."""

    before: str
    after: str
    reason: str
    lag: int = 0


@dataclass(frozen=True, slots=True)
class Resync(Event):
    """The chain did not continue; a fresh snapshot was asked for and comes next.

    `cause`: `break`, `epoch` (the numbering began anew) or `behind` (a heartbeat's head was ahead).
    """

    cause: Literal["break", "epoch", "behind"]
    held: int | None
    got: int


@dataclass(frozen=True, slots=True)
class StreamError(Event):
    """One stream cannot be served. With retry `after`, the client asks again by itself."""

    code: int = 0
    name: str = ""
    message: str = ""
    retry: str = "no"


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection stands; `number` counts them from 1."""

    number: int
    session: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """There is no connection; the next attempt is made after `retry_in_s`.

    `attempts`: how many in a row failed or were of no use, this one included; 0: it stood.
    """

    reason: str
    retry_in_s: float
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class ServerError:
    """The gateway did not like something that belongs to no stream."""

    code: int = 0
    name: str = ""
    message: str = ""
    retry: str = "no"


AnyEvent = (
    Tick
    | Late
    | Snapshot
    | Reset
    | Status
    | Subscribed
    | Backfill
    | ModeChange
    | Resync
    | StreamError
    | Connected
    | Disconnected
    | ServerError
)
