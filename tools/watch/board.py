"""What the board shows, computed from server messages. Pure: rendering is `render.py`'s."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from market_data_fanout_client import Freshness
from market_data_fanout_client.chain import Verdict

from services.common.domain.decimals import BadDecimal, to_decimal
from tools.latency import LatencyHistogram
from tools.subscribed_book import SubscribedBook, record_of
from tools.subscriber import Message

_RATE_WINDOW_S = 5
_LOG_LINES = 200


class Rate:
    """Events a second over the last five whole seconds."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._first: int | None = None

    def add(self, now: float) -> None:
        second = int(now)
        if second not in self._counts:
            self._first = second if self._first is None else self._first
            self._counts = {
                at: count for at, count in self._counts.items() if at >= second - _RATE_WINDOW_S
            }
        self._counts[second] = self._counts.get(second, 0) + 1

    def per_second(self, now: float) -> float:
        second = int(now)
        if self._first is None or second <= self._first:
            return float(self._counts.get(second, 0))
        # The running second is not over yet, so it does not count.
        full = range(max(self._first, second - _RATE_WINDOW_S), second)
        return sum(self._counts.get(at, 0) for at in full) / len(full)


@dataclass
class Row:
    """One stream of the board. Prices are the venue's text; `latency_ms` of the newest tick."""

    product: str
    channel: str
    last: str | None = None
    bid: str | None = None
    ask: str | None = None
    # What `change` compares with: the 24 h opening, else the first price seen.
    opening: str | None = None
    ticks: int = 0
    seq: int | None = None
    latency_ms: float | None = None
    chain: str = "waiting"
    feed: str = ""
    # The verdict at the last `judge`; None before the first.
    freshness: Freshness | None = None
    breaks: int = 0
    rate: Rate = field(default_factory=Rate)
    direction: int = 0

    @property
    def change_percent(self) -> float | None:
        if self.last is None or self.opening is None:
            return None
        try:
            now, then = to_decimal(self.last), to_decimal(self.opening)
        except BadDecimal:
            return None
        return float((now - then) / then * 100) if then else None


@dataclass(frozen=True)
class Depth:
    """The best levels of a book, (price, size), best first; `complete` when it may be believed."""

    row: Row
    complete: bool
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


class Board:
    """Feed it every message with the chain's verdict; read `rows`, `log`, `connection`.

    There is a row for each product and channel. `ladder`: levels a side of the first product's book
    to show; 0 shows none. `latency` is that of the ticks received, where somebody counts it;
    `freshness` tells of a channel and product whether what is held is the market now.
    """

    def __init__(
        self,
        products: tuple[str, ...],
        channels: tuple[str, ...],
        *,
        ladder: int = 0,
    ) -> None:
        self.latency: LatencyHistogram | None = None
        self.freshness: Callable[[str, str], Freshness] | None = None
        self.ladder = ladder if "book" in channels else 0
        self.rows = {
            (channel, product): Row(product, channel)
            for channel in channels
            for product in products
        }
        self.connection = "connecting"
        self.reconnects = 0
        self.log: deque[tuple[float, str]] = deque(maxlen=_LOG_LINES)
        self._books = {key: SubscribedBook() for key in self.rows if key[0] == "book"}

    def depth(self) -> Depth | None:
        """The book to show; None when none is wanted."""
        if not self.ladder:
            return None
        key, book = next(iter(self._books.items()))
        bids, asks = book.book.bids(self.ladder), book.book.asks(self.ladder)
        return Depth(self.rows[key], book.complete, bids, asks)

    def judge(self) -> None:
        """Ask whether what the rows show is the market now; also while nothing comes."""
        if self.freshness is not None:
            for (channel, product), row in self.rows.items():
                row.freshness = self.freshness(channel, product)

    def connection_changed(self, state: str, now: float) -> None:
        """Take in what the subscriber says of its connection; `now` in seconds."""
        if state.startswith("disconnected"):
            self.reconnects += 1
            self.note(state, now)
            for row in self.rows.values():
                row.chain = "waiting"
        self.connection = state

    def note(self, text: str, now: float) -> None:
        self.log.append((now, text))

    def take(self, message: Message, verdict: Verdict | None, now: float) -> None:
        """Take in a server message received at `now`, seconds since the Unix epoch."""
        kind = message.get("type")
        if kind == "error":
            self.note(f"error {message.get('name')}: {message.get('message')}", now)
            return
        record = record_of(message)
        row = self.rows.get((record.get("channel", ""), record.get("product", "")))
        if row is None:
            return
        if verdict is not None:
            self._chain(row, verdict, now)
        book = self._books.get((row.channel, row.product))
        if book is not None and kind in ("snapshot", "reset", "incr"):
            book.take(message, verdict)
            self._best(row, book)
        if kind == "incr" and verdict is Verdict.APPLY:
            row.ticks += 1
            row.rate.add(now)
            row.seq = record["seq"]
            row.latency_ms = now * 1000 - record["ts_ingest"] / 1000
            self._fields(row, record["fields"])
        elif kind == "snapshot" and verdict is Verdict.APPLY:
            row.seq = record["seq"]
            state = record.get("state", {})
            trades = state.get("trades")
            self._fields(row, {"last_trade": trades[-1]} if trades else state)
        elif kind == "reset":
            cause, repair = record.get("cause"), record.get("repair")
            self.note(f"{row.channel} {row.product}: reset ({cause}, {repair})", now)
        elif kind == "status":
            self._status(row, record, now)
        elif kind == "mode":
            self.note(
                f"{row.channel} {row.product}: {message.get('from')} to {message.get('to')} "
                f"({message.get('reason')})",
                now,
            )

    def _chain(self, row: Row, verdict: Verdict, now: float) -> None:
        if verdict.asks_resync:
            row.breaks += 1
            row.chain = "resyncing"
            self.note(f"{row.channel} {row.product}: chain {verdict.value}, asked to resync", now)
        elif verdict is Verdict.APPLY:
            row.chain = "unbroken" if row.breaks == 0 else f"healed {row.breaks}x"

    def _status(self, row: Row, record: dict[str, Any], now: float) -> None:
        state = str(record.get("state"))
        # The state at subscribing is no news, unless it is trouble.
        if row.feed not in ("", state) or (row.feed == "" and state not in ("live", "quiet")):
            self.note(f"{row.channel} {row.product}: {state} ({_why(record)})", now)
        row.feed = state

    def _fields(self, row: Row, fields: dict[str, Any]) -> None:
        trade = fields.get("last_trade")
        if trade:
            self._price(row, trade["price"])
        for name, side in (("bid", "best_bid"), ("ask", "best_ask")):
            level = fields.get(side)
            if level:
                setattr(row, name, level["price"])
        stats = fields.get("stats_24h")
        if stats and stats.get("open"):
            row.opening = stats["open"]

    def _price(self, row: Row, price: str) -> None:
        if row.last is not None:
            step = to_decimal(price) - to_decimal(row.last)
            row.direction = (step > 0) - (step < 0) or row.direction
        row.last = price
        if row.opening is None:
            row.opening = price

    def _best(self, row: Row, book: SubscribedBook) -> None:
        bids, asks = book.book.bids(1), book.book.asks(1)
        row.bid = bids[0][0] if bids else None
        row.ask = asks[0][0] if asks else None


def _why(record: dict[str, Any]) -> str:
    evidence = record.get("evidence")
    if isinstance(evidence, dict):
        # The gateway's own word.
        return f"data {evidence.get('age_ms', 0) / 1000:.0f} s old"
    return str(evidence)
