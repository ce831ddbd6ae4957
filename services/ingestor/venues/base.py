"""What the ingestor needs to know of a venue: its words mapped to ours, and nothing about sockets.

A venue is two adapters: `VenueFeed` turns frames into events and writes requests (pure), and
`VenueRest` answers the questions that healing asks (I/O).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a venue's frame means to us."""

    TRADE = "trade"
    TRADE_SEED = "trade_seed"
    TICKER = "ticker"
    BOOK_UPDATE = "book_update"
    BOOK_SNAPSHOT = "book_snapshot"
    HEARTBEAT = "heartbeat"
    SUBSCRIBED = "subscribed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Event(NamedTuple):
    """A frame, understood as far as continuity needs it.

    Attributes:
        kind: what it is.
        product: whose, "" when it belongs to the connection.
        number: trade id (TRADE, TRADE_SEED), venue sequence (TICKER, HEARTBEAT), else 0.
        time: event time in µs; 0 when the venue gave none that makes sense.
        trade_id: last trade the message knows of (TICKER, HEARTBEAT), 0 when absent.
        text: the venue's words (REFUSED), the frame's type (UNKNOWN).
    """

    kind: Kind
    product: str
    number: int = 0
    time: int = 0
    trade_id: int = 0
    text: str = ""


class MalformedFrame(ValueError):
    """The venue sent something that is not what it documents; `reason` labels the metric."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True, slots=True)
class Credentials:
    key: str
    secret: str
    passphrase: str


class VenueFeed(ABC):
    """A venue's streaming protocol. `channels` maps its channel names to our canonical ones."""

    name: str
    channels: Mapping[str, str]

    @abstractmethod
    def parse(self, frame: bytes) -> Event:
        """Read a frame.

        Raises:
            MalformedFrame: it is not JSON, or lacks what its type must have.
        """

    @abstractmethod
    def subscribe(self, products: Iterable[str], channels: Iterable[str], now: float) -> bytes:
        """The request for `products` on the venue's `channels`; `now` is Unix time, seconds."""

    @abstractmethod
    def unsubscribe(self, products: Iterable[str], channels: Iterable[str]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TradeRow:
    """A trade as the venue's REST API tells it; `body` is untouched."""

    trade_id: int
    time: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """A REST ticker; `body` is untouched."""

    trade_id: int
    time: int
    body: bytes


@dataclass(frozen=True, slots=True)
class BookImage:
    """A whole book over REST; `time` is when the venue took it, µs (0 = not said)."""

    time: int
    sequence: int
    body: bytes


class VenueRest(ABC):
    """A venue's REST API.

    Every method raises `VenueUnavailable` when the venue does not answer in spite of repetitions,
    and `VenueRefused` when asking again cannot help.
    """

    @property
    @abstractmethod
    def backlog_s(self) -> float:
        """Seconds that a call made now waits for its turn before it is sent."""

    @abstractmethod
    async def tradable(self) -> Mapping[str, str | None]:
        """Every product; the value says why it cannot be subscribed, None when it can."""

    @abstractmethod
    async def trades(self, product: str, first: int, last: int) -> Sequence[TradeRow]:
        """Trades `first` to `last`, ascending, as far as the venue gave them.

        The answer may be stale or incomplete; the caller compares ids and asks again.
        """

    @abstractmethod
    async def ticker(self, product: str) -> Quote: ...

    @abstractmethod
    async def book(self, product: str) -> BookImage: ...
