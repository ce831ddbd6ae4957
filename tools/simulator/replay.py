"""A recorded feed as a market: the frames byte for byte, and the state folded from them. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from services.common.domain.book import BadLevel, Book
from tools.simulator.clock import SECOND, iso6, parse_iso
from tools.simulator.messages import (
    FULL,
    HEARTBEAT,
    LEVEL2,
    LEVEL2_BATCH,
    MATCHES,
    STATUS,
    TICKER,
    TICKER_BATCH,
    Heartbeat,
    Match,
    Outgoing,
)
from tools.simulator.products import Product, product
from tools.simulator.tape import Tape
from tools.simulator.venue import Figures, ProductState, ticker_of

_CHANNELS = {
    "snapshot": (LEVEL2_BATCH, LEVEL2),
    "l2update": (LEVEL2_BATCH, LEVEL2),
    "last_match": (MATCHES,),
    "match": (MATCHES, FULL),
    "heartbeat": (HEARTBEAT,),
    "ticker": (TICKER, TICKER_BATCH),
    "received": (FULL,),
    "open": (FULL,),
    "done": (FULL,),
    "change": (FULL,),
    "activate": (FULL,),
    "status": (STATUS,),
}


class BadCapture(Exception):
    """A line of the recording cannot be replayed."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        self.path = path
        self.line = line
        super().__init__(f"{path}, line {line}: {reason}")


@dataclass(frozen=True, slots=True)
class Frame:
    """One recorded frame. `at_us` never goes back along the recording."""

    at_us: int
    type: str
    product: str
    raw: bytes
    message: dict[str, Any]
    trade: Match | None = None


def load_capture(path: Path) -> list[Frame]:
    """Read a recording: one raw frame a line, in the order of arrival.

    `subscriptions` acknowledgements and unknown types are left out; each client gets its own ack.

    Raises:
        BadCapture: a line is not a message of the feed, or nothing in it has a time.
        OSError: the file cannot be read.
    """
    frames: list[Frame] = []
    at_us = 0
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        raw = line.rstrip(b"\r")
        if not raw.strip():
            continue
        try:
            frame = _frame(raw, at_us)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            raise BadCapture(path, number, repr(error)) from error
        at_us = frame.at_us
        if frame.type in _CHANNELS:
            frames.append(frame)
    first = next((each.at_us for each in frames if each.at_us), None)
    if first is None:
        raise BadCapture(path, 0, "no frame with a time")
    return [each if each.at_us else replace(each, at_us=first) for each in frames]


def _frame(raw: bytes, at_us: int) -> Frame:
    message = msgspec.json.decode(raw, type=dict[str, Any])
    kind = str(message["type"])
    # A last_match is dated by its trade, which may be long past.
    if "time" in message and kind != "last_match":
        at_us = max(at_us, parse_iso(message["time"]))
    trade = None
    if kind in ("match", "last_match"):
        trade = msgspec.convert({**message, "type": "match"}, Match)
    return Frame(at_us, kind, str(message.get("product_id", "")), raw, message, trade)


class _Recorded:
    """One product as far as the replay has come."""

    def __init__(self) -> None:
        self.book: Book | None = None
        self.tape = Tape()
        self.sequence = 0
        self.time_us = 0
        self.beats = False
        self.told_after: int | None = None

    def apply(self, frame: Frame) -> None:
        message = frame.message
        self.time_us = max(self.time_us, frame.at_us)
        self.sequence = max(self.sequence, int(message.get("sequence", 0)))
        if frame.trade is not None:
            if self.told_after is None:
                newest = frame.trade.trade_id
                self.told_after = newest if frame.type == "last_match" else newest - 1
            self.tape.add(frame.trade)
        elif frame.type == "snapshot":
            self.book = Book()
            self.book.replace(message["bids"], message["asks"])
        elif frame.type == "l2update" and self.book is not None:
            self.book.apply(message["changes"])
        elif frame.type == "heartbeat":
            self.beats = True


class ReplayMarket:
    """Gives out recorded frames in order and knows the state they add up to.

    Where the recording has no tickers for a product, one is made from each match (without the
    24 h figures, which nobody recorded), so that the channel is not silent.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames
        names = dict.fromkeys(frame.product for frame in frames if frame.product)
        self.products: list[Product] = [product(name) for name in names]
        self._recorded = {name: _Recorded() for name in names}
        self._with_ticker = {frame.product for frame in frames if frame.type == "ticker"}
        self.first_us = frames[0].at_us
        self._now = self.first_us
        self.position = 0
        self._begun = False

    @property
    def now_us(self) -> int:
        """The recording's clock: the time of the newest frame given out, or what `beat` made it."""
        return self._now

    @property
    def finished(self) -> bool:
        return self.position >= len(self._frames)

    def begin(self) -> None:
        self._begun = True

    def progress(self) -> dict[str, object]:
        state = "finished" if self.finished else "running" if self._begun else "waiting"
        return {"state": state, "frames": len(self._frames), "position": self.position}

    def state(
        self, product_id: str, *, orders: bool = False, depth: int | None = None
    ) -> ProductState:
        """The product as far as the replay has come. `orders` cannot be had from a recording."""
        del orders
        recorded = self._recorded[product_id]
        book = recorded.book or Book()
        return ProductState(
            product=product_id,
            time_us=recorded.time_us,
            sequence=recorded.sequence,
            # A recorded feed does not say how many orders a level holds.
            bids=[(price, size, 1) for price, size in book.bids(depth)],
            asks=[(price, size, 1) for price, size in book.asks(depth)],
            tape=recorded.tape,
            told_after=recorded.told_after,
        )

    def has_book(self, product_id: str) -> bool:
        return self._recorded[product_id].book is not None

    def take(self, count: int) -> list[Outgoing]:
        """The next `count` frames, whatever their time."""
        return self._give(min(len(self._frames), self.position + count))

    def advance(self, to_us: int) -> list[Outgoing]:
        """The frames up to and including that time of the recording's clock."""
        end = self.position
        while end < len(self._frames) and self._frames[end].at_us <= to_us:
            end += 1
        return self._give(end)

    def _give(self, end: int) -> list[Outgoing]:
        out: list[Outgoing] = []
        for frame in self._frames[self.position : end]:
            recorded = self._recorded.get(frame.product)
            if recorded is not None:
                # A bad level is sent as it was recorded; only our own view of the book skips it.
                with contextlib.suppress(BadLevel):
                    recorded.apply(frame)
            self._now = max(self._now, frame.at_us)
            out.append(Outgoing(_CHANNELS[frame.type], frame.product, frame.type, frame.raw))
            if frame.trade is not None and frame.product not in self._with_ticker:
                out.append(self._derived_ticker(frame.trade))
        self.position = end
        return out

    def _derived_ticker(self, trade: Match) -> Outgoing:
        state = self.state(trade.product_id, depth=1)
        bid = state.bids[0] if state.bids else None
        ask = state.asks[0] if state.asks else None
        ticker = ticker_of(trade, Figures(), bid, ask)
        return Outgoing((TICKER, TICKER_BATCH), trade.product_id, "ticker", ticker)

    def beat(self, to_us: int) -> list[Outgoing]:
        """Heartbeats of a market in which nothing happens any more, on whole seconds."""
        out: list[Outgoing] = []
        for second in range(self._now // SECOND + 1, to_us // SECOND + 1):
            for name, recorded in self._recorded.items():
                last = recorded.tape.last
                if recorded.beats and last is not None:
                    time = iso6(second * SECOND)
                    beat = Heartbeat(last.trade_id, name, recorded.sequence, time)
                    out.append(Outgoing((HEARTBEAT,), name, "heartbeat", beat))
        self._now = max(self._now, to_us)
        return out
