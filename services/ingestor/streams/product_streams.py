"""One product's three streams, fed from one connection. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from services.common.wire import Missed
from services.ingestor.streams.book import BookStream
from services.ingestor.streams.gate import Gate, Park
from services.ingestor.streams.orders import OrdersStream
from services.ingestor.streams.ticker import TickerStream
from services.ingestor.streams.trades import TradesStream
from services.ingestor.venues.base import Event, Kind

# A connection's snapshot comes before so many heartbeats, a second apart, or not at all. A slow
# machine or a slow way keeps both waiting alike, and to ask then would only make it slower.
_BEATS_BEFORE_SNAPSHOT = 4
# A stream without messages for so long is called quiet.
_QUIET_US = 30_000_000

# What a message that cannot be read may have been.
_OF_BOOKS = frozenset({Kind.BOOK_UPDATE, Kind.BOOK_SNAPSHOT, Kind.UNKNOWN})
_OF_TRADES = frozenset({Kind.TRADE, Kind.UNKNOWN})

AnyStream = TradesStream | BookStream | OrdersStream | TickerStream


class Want(Enum):
    """What a stream needs fetched."""

    TRADES = "trades"
    BOOK = "book"
    TICKER = "ticker"


class ProductStreams:
    """Spreads a product's events over its streams, and one stream's loss to the others' suspicion.

    A stream is None when its channel is not subscribed. Times are µs.

    What names a number far ahead waits for another message that confirms it (`Gate`); `park` is
    told of what none did.
    """

    def __init__(
        self,
        product: str,
        trades: TradesStream | None,
        book: BookStream | OrdersStream | None,
        ticker: TickerStream | None,
        ask: Callable[[Want], None],
        park: Park = lambda _reason, _body, _ts: None,
    ) -> None:
        self.product = product
        self.trades = trades
        self.book = book
        self.ticker = ticker
        # When the product's last heartbeat came on this connection; 0 before the first.
        self.heard = 0
        self.refused: str | None = None  # why the venue will not serve the product, or None
        self._ask = ask
        self._connected_at = 0
        # Heartbeats of this connection.
        self._beats = 0
        self._gaps_seen = 0
        self._updates = book if isinstance(book, BookStream) else None
        self._orders = book if isinstance(book, OrdersStream) else None
        self._replica = self._updates.replica if self._updates is not None else None
        numbered = [stream.writer.seq for stream in (ticker, self._orders) if stream is not None]
        self._gate = Gate(
            trades.writer.seq if trades is not None else None,
            max((seq for seq in numbered if seq is not None), default=None),
            park,
            max((stream.writer.heard for stream in self.all), default=0),
        )
        # Per channel: how many messages there were when `watch` last saw a new one, and when.
        self._spoke: dict[str, tuple[int, int]] = {}

    @property
    def all(self) -> list[AnyStream]:
        return [stream for stream in (self.trades, self.book, self.ticker) if stream is not None]

    @property
    def messages(self) -> int:
        return sum(stream.messages for stream in self.all)

    def feed(self, event: Event, body: bytes, ts: int) -> None:
        """Take an event of this product; those of a channel without a stream are ignored."""
        if event.kind is Kind.BOOK_UPDATE:
            if self._updates is not None:
                self._updates.update(event.time, body, ts)
            return
        for arrived in self._gate.admit(event, body, ts):
            self._dispatch(*arrived)

    def _dispatch(self, event: Event, body: bytes, ts: int) -> None:
        kind = event.kind
        if kind is Kind.TRADE:
            if self.trades is not None:
                self.trades.trade(event.number, event.time, body, ts)
                if self._replica is not None:
                    self._replica.trade = body
                if self.trades.gaps != self._gaps_seen:
                    self._trades_gap(ts)
            if event.order is not None and self._orders is not None:
                self._orders.order(event.order, body, ts)
        elif kind is Kind.ORDER:
            if event.order is not None and self._orders is not None:
                self._orders.order(event.order, body, ts)
        elif kind is Kind.TICKER:
            if self.ticker is not None:
                self.ticker.ticker(event.number, event.time, event.trade_id, body, ts)
                if self._replica is not None:
                    self._replica.ticker = body
                self.ticker.state.clear("down", "ticker received", ts)
        elif kind is Kind.HEARTBEAT:
            self._heartbeat(event, ts)
        elif kind is Kind.TRADE_SEED:
            if self.trades is not None:
                self.trades.seed(event.number, event.time, ts)
                # A reconnect's hole says nothing about the book: its snapshot comes anyway.
                self._gaps_seen = self.trades.gaps
                self.trades.state.clear("down", f"joined at trade {event.number}", ts)
        elif kind is Kind.BOOK_SNAPSHOT and self._updates is not None:
            self._updates.snapshot(event.time, body, ts)
            if self._updates.based:
                self._updates.state.clear("down", "snapshot received", ts)

    def unreadable(self, event: Event, evidence: str, ts: int) -> None:
        """A message came that cannot be read; `event` says what it may have been about.

        Whatever it may have changed is made sure of at once. A ticker is followed by the next one,
        and heartbeats tell when that does not come.
        """
        kind = event.kind
        if kind in _OF_BOOKS and self.book is not None:
            self.book.unreadable(event.time, evidence, ts)
        if kind in _OF_TRADES and self.trades is not None:
            self.trades.unreadable(event.number, ts)
            # Nothing was lost on the way, so this says nothing about the book.
            self._gaps_seen = self.trades.gaps

    def missed(self, channel: str, missed: Missed, cause: str, ts: int) -> None:
        """Readers of a stream go without something that was passed on: ask the venue again."""
        text = f"readers have no {missed.from_}..{missed.to} ({cause})"
        if channel == "book" and self.book is not None:
            self.book.distrust(cause, text, ts)
        elif channel == "trades" and self.trades is not None:
            self.trades.reopen(missed, ts)
        elif channel == "ticker" and self.ticker is not None:
            self.ticker.distrust(cause, text, ts)

    def log_lost(self, epoch: int, ts: int) -> None:
        """The broker lost the log and made a new one: every stream begins anew in it."""
        for stream in self.all:
            stream.writer.restart(epoch)
            stream.state.repeat(ts)
        if self.book is not None:
            self.book.unbase("log_lost", "the log was lost", ts)

    def connected(self, ts: int) -> None:
        """The subscription was sent."""
        self._connected_at = ts
        self._beats = 0
        self.heard = 0
        self.refused = None
        if self.book is not None:
            self.book.connected()

    def lost(self, reason: str, ts: int) -> None:
        """The connection is gone."""
        self._connected_at = 0
        self.heard = 0
        for stream in self.all:
            stream.state.raise_("down", reason, ts)
        if self.book is not None:
            self.book.lost(ts)
        if self.ticker is not None:
            self.ticker.lost()

    def watch(self, suspect_us: int, ts: int) -> None:
        """Judge silence: call this about twice a second while connected."""
        if not self._connected_at or self.refused is not None:
            return
        age = ts - (self.heard or self._connected_at)
        for stream in self.all:
            if age > suspect_us:
                stream.state.raise_("stale", f"no heartbeat for {age / 1e6:.1f} s", ts)
            else:
                stream.state.retry(ts)
            self._judge_quiet(stream, ts)
        book = self.book
        if book is not None and not book.based and self._beats >= _BEATS_BEFORE_SNAPSHOT:
            self._ask(Want.BOOK)

    def _judge_quiet(self, stream: AnyStream, ts: int) -> None:
        channel = stream.writer.key.channel
        seen, since = self._spoke.get(channel, (-1, ts))
        if stream.messages != seen:
            self._spoke[channel] = (stream.messages, ts)
            stream.state.clear("quiet", "messages again", ts)
        elif ts - since > _QUIET_US:
            text = f"nothing for {_QUIET_US // 1_000_000} s while heartbeats go on"
            stream.state.raise_("quiet", text, ts)

    def report(self) -> dict[str, Any]:
        """The product's streams, for people."""
        return {
            stream.writer.key.channel: {
                "state": stream.state.value,
                "since": stream.state.since,
                "evidence": stream.state.evidence,
                "epoch": stream.writer.epoch,
                "seq": stream.writer.seq,
                "messages": stream.messages,
                "duplicates": stream.duplicates,
                "gaps": stream.gaps,
                **stream.extra(),
            }
            for stream in self.all
        } | {
            "heard": self.heard or None,
            "refused": self.refused,
            "withheld": self._gate.withheld,
        }

    def _heartbeat(self, event: Event, ts: int) -> None:
        for stream in self.all:
            stream.state.clear("stale", "heartbeat received", ts)
        self.heard = ts
        self._beats += 1
        if self.trades is not None:
            self.trades.heartbeat(event.trade_id, ts)
            if self.trades.gaps != self._gaps_seen:
                self._trades_gap(ts)
            self.trades.state.clear("down", "heartbeat received", ts)
        if self.ticker is not None:
            self.ticker.heartbeat(event.number, event.trade_id, ts)
            self.ticker.state.clear("down", "heartbeat received", ts)
        if self.book is not None:
            self.book.heartbeat(event.time, event.number, ts)

    def _trades_gap(self, ts: int) -> None:
        self._gaps_seen = self.trades.gaps if self.trades is not None else 0
        if self.book is not None:
            self.book.trades_missing(ts)
