"""What the ingestor needs to know of a venue: its words mapped to ours, and nothing about sockets.

A venue is two adapters: `VenueFeed` turns frames into events and writes requests (pure), and
`VenueRest` answers the questions that healing asks (I/O).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Annotated, NamedTuple

import msgspec

from services.common.domain.decimals import BadDecimal, is_decimal, to_decimal

# The largest integer that every client holds exactly (JavaScript's numbers).
MAX_NUMBER = 2**53 - 1
# A trade id or sequence as a venue writes it. What is out of these bounds is none: it could become
# a position that no log can store and no client can read.
Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]


class Kind(Enum):
    """What a venue's frame means to us."""

    TRADE = "trade"
    TRADE_SEED = "trade_seed"
    TICKER = "ticker"
    BOOK_UPDATE = "book_update"
    BOOK_SNAPSHOT = "book_snapshot"
    ORDER = "order"
    HEARTBEAT = "heartbeat"
    SUBSCRIBED = "subscribed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class OrderAction(Enum):
    """What a message of the order-level feed does to the book."""

    NONE = "none"
    OPEN = "open"
    DONE = "done"
    MATCH = "match"
    CHANGE = "change"


class OrderEvent(NamedTuple):
    """A message of the order-level feed; every one of them counts `sequence` up by one."""

    sequence: int  # the venue's, contiguous per product
    time: int  # event time in µs, 0 when unknown
    action: OrderAction  # what it does to the book
    order_id: str = ""  # whose (of a match: the resting order's), "" when the book is not touched
    side: str = ""  # `buy` or `sell`, of OPEN only
    price: str = ""  # of OPEN and CHANGE; "" when a CHANGE does not say one
    size: Decimal = Decimal(0)  # what rests now (OPEN, CHANGE), or what was traded (MATCH)


class Event(msgspec.Struct, frozen=True, gc=False):
    """A frame, understood as far as continuity needs it."""

    kind: Kind  # what it is
    product: str  # whose, "" when it belongs to the connection
    number: int = 0  # trade id (TRADE, TRADE_SEED), venue sequence (TICKER, HEARTBEAT), else 0
    time: int = 0  # event time in µs; 0 when the venue gave none that makes sense
    trade_id: int = 0  # last trade the message knows of (TICKER, HEARTBEAT), 0 when absent
    text: str = ""  # the venue's words (REFUSED), the frame's type (UNKNOWN)
    # Of ORDER, and of TRADE where trades come from the order-level feed.
    order: OrderEvent | None = None


class MalformedFrame(ValueError):
    """The venue sent something that is not what it documents; `reason` labels the metric."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}")


def decimal_text(text: object) -> str:
    """`text` itself. Raises MalformedFrame when it is not a decimal number's text."""
    if not isinstance(text, str) or not is_decimal(text):
        raise MalformedFrame("bad_decimal", repr(text)[:80])
    return text


def decimal_value(text: object) -> Decimal:
    """What `text` says. Raises MalformedFrame when it is not a decimal number's text."""
    try:
        return to_decimal(text)
    except BadDecimal as error:
        raise MalformedFrame("bad_decimal", repr(text)[:80]) from error


@dataclass(frozen=True, slots=True)
class Credentials:
    key: str
    secret: str
    passphrase: str


class VenueFeed(ABC):
    """A venue's streaming protocol. `channels` maps its channel names to our canonical ones.

    A channel that feeds none of ours proves the others.
    """

    name: str
    channels: Mapping[str, tuple[str, ...]]

    @abstractmethod
    def parse(self, frame: bytes) -> Event:
        """Read a frame.

        Raises:
            MalformedFrame: it is not JSON, or lacks what its type must have.
        """

    @abstractmethod
    def damaged(self, frame: bytes) -> Event:
        """What a frame that `parse` refused was about, as far as that can be told.

        Of kind UNKNOWN when it may have been anything of its product, or of any when that is "".
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
    """A whole book over REST; `time` is when the venue took it, µs (0 = not said).

    In an `auction` prices and sizes are indicative, and bids may exceed asks.
    """

    time: int
    sequence: int
    body: bytes
    auction: bool = False


# Price, size and id of a resting order.
OrderRow = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class OrderImage:
    """All resting orders over REST, as of `sequence`; `time` in µs, `text` as it was written."""

    sequence: int
    time: int
    text: str
    bids: Sequence[OrderRow]
    asks: Sequence[OrderRow]


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
    async def trades(
        self, product: str, first: int, last: int, *, background: bool = False
    ) -> Sequence[TradeRow]:
        """Trades `first` to `last`, ascending, as far as the venue gave them.

        The answer may be stale or incomplete; the caller compares ids and asks again. One in the
        `background` is made once, and only when nothing more urgent would have to wait for it.
        """

    @abstractmethod
    async def ticker(self, product: str) -> Quote: ...

    @abstractmethod
    async def book(self, product: str, *, background: bool = False) -> BookImage:
        """The whole book; `background` as with `trades`."""

    @abstractmethod
    async def orders(self, product: str) -> OrderImage:
        """All resting orders; may be older than the newest message received."""
