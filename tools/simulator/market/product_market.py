"""One product of the simulated market: its engine's events become numbered, dated messages."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from services.common.domain.book import BUY, SELL
from tools.simulator.clock import SECOND, iso6
from tools.simulator.market.flow import OrderFlow, new_order_id
from tools.simulator.market.matching import (
    Activated,
    Done,
    Event,
    Matched,
    Moved,
    NumberedEvent,
    Opened,
    Received,
    Resized,
)
from tools.simulator.market.products import SIZE_UNIT, Product, size_text, trim
from tools.simulator.market.traffic import MAX_BATCH, PLAIN, Traffic
from tools.simulator.protocol.messages import (
    Change,
    Channel,
    Heartbeat,
    L2Update,
    Match,
    OrderMessage,
    Outgoing,
    order_message,
)
from tools.simulator.venue import L2Row, ProductState, Tape, ticker_of

# A ticker usually precedes its match in this share of trades, as on the venue.
_TICKER_FIRST = 0.17
# Trades of one order that share a ticker, as happens when an order sweeps several makers.
_TICKER_COALESCED = 0.2
_PRICES = frozenset({"price", "old_price", "new_price"})
_KINDS: dict[type, str] = {
    Received: "received",
    Opened: "open",
    Done: "done",
    Resized: "change",
    Moved: "change",
}


class ProductMarket:
    """Numbers every order event (`sequence` +1) and every trade (`trade_id` +1)."""

    def __init__(
        self,
        product: Product,
        rng: Random,
        *,
        depths: tuple[int, int],
        start_us: int,
        history: int,
        untraded: bool = False,
        traffic: Traffic = PLAIN,
    ) -> None:
        """`untraded`: nothing was ever traded or ordered, and nothing will be."""
        self.product = product
        self._rng = rng
        self._scale = product.scale()
        self._flow = OrderFlow(product, rng, (0, 0) if untraded else depths, traffic)
        self._traffic = traffic
        # Whether anybody is there for a channel; single orders and levels are many, and writing
        # them for nobody would be most of the work.
        self.wanted: Callable[[str], bool] = lambda _channel: True
        self.tape = Tape()
        self._sequence = rng.randrange(10_000_000_000, 140_000_000_000)
        self._trade_id = rng.randrange(10_000_000, 1_000_000_000)
        # (side, price) of level 2 changes since the last batch, and the time of the newest.
        self._changed: dict[tuple[str, int], None] = {}
        self._changed_us = start_us
        self._batched_ticker = 0
        start = self._scale.start
        # Volume of the day before, of about a hundred million of the quote.
        self._volume = self._scale.notional_size(rng.uniform(2e7, 2e8), start)
        self._volume_30d = self._volume * rng.randrange(25, 35)
        self._open = max(1, round(start * rng.uniform(0.97, 1.03)))
        self._high = max(self._open, round(start * rng.uniform(1.001, 1.04)))
        self._low = min(self._open, max(1, round(start * rng.uniform(0.96, 0.999))))
        if untraded:
            self._trade_id = 0
        else:
            self._past(start_us, history)

    def _past(self, start_us: int, count: int) -> None:
        """Trades from before the start, so that paging has something to page through."""
        rng, scale = self._rng, self._scale
        at = start_us - count * SECOND // 4
        for _ in range(max(1, count)):
            self._sequence += rng.randrange(2, 400)
            at = min(start_us, at + rng.randrange(1, SECOND // 2))
            price = max(1, scale.start + round(rng.gauss(0, 3)))
            size = scale.notional_size(rng.lognormvariate(5.5, 1.8), price)
            maker, taker, side = new_order_id(rng), new_order_id(rng), rng.choice((BUY, SELL))
            self._record_trade(Matched(maker, taker, side, price, size), at)

    def order(self, at: int, room_us: int, *, trades: bool, out: list[Outgoing]) -> None:
        """Let the next order of the flow arrive, or the next few, within `room_us`."""
        self._fleeting(at, out)
        if trades:
            self._emit(self._flow.trade(), at, out)
            return
        rng, traffic = self._rng, self._traffic
        for number in range(min(traffic.burst(rng), MAX_BATCH - len(self._changed)) or 1):
            if number and rng.random() >= traffic.same_time:
                at, room_us = at + 1, room_us - 1
            if room_us <= 0:
                break
            flickers = traffic.flicker and rng.random() < traffic.flicker
            self._emit(self._flow.flicker() if flickers else self._flow.quiet(), at, out)

    def _orders_wanted(self) -> bool:
        return self.wanted(Channel.FULL) or self.wanted(Channel.LEVEL3)

    def _fleeting(self, at: int, out: list[Outgoing]) -> None:
        """Orders that are refused or withdrawn before they rest."""
        count = self._traffic.fleeting(self._rng)
        if not self._orders_wanted():
            self._sequence += 2 * count
            return
        for _ in range(count):
            order_id = f"00000000-0000-4000-a000-{self._sequence:012x}"
            price = self._scale.start
            for event in (
                Received(order_id, BUY, SIZE_UNIT, price),
                Done(order_id, BUY, price, SIZE_UNIT, "canceled"),
            ):
                self._emit_order_event(self._message(event, at), out)

    def _emit(self, events: list[Event], at: int, out: list[Outgoing]) -> None:
        fills = sum(isinstance(event, Matched) for event in events)
        coalesce = fills > 1 and self._rng.random() < _TICKER_COALESCED
        orders_wanted = self._orders_wanted()
        for event in events:
            if isinstance(event, Activated):
                if orders_wanted:
                    out.append(self._activate(event, at))
                continue
            if not orders_wanted and not isinstance(event, Matched):
                self._sequence += 1
                continue
            message = self._message(event, at)
            ticker = None
            if isinstance(message, Match):
                fills -= 1
                if not coalesce or fills == 0:
                    ticker = self._ticker_out(message, Channel.TICKER)
            first = ticker is not None and self._rng.random() < _TICKER_FIRST
            if ticker is not None and first:
                out.append(ticker)
            self._emit_order_event(message, out)
            if ticker is not None and not first:
                out.append(ticker)
        touched = self._flow.book.touched
        if touched:
            self._changed_us = at
        if self.wanted(Channel.LEVEL2):
            for side, price in touched:
                update = L2Update(self.product.id, [self._change(side, price)], iso6(at))
                out.append(Outgoing((Channel.LEVEL2,), self.product.id, "l2update", update))
        self._changed.update(touched)
        touched.clear()

    def _emit_order_event(self, message: OrderMessage | Match, out: list[Outgoing]) -> None:
        name = self.product.id
        if isinstance(message, Match):
            out.append(Outgoing((Channel.MATCHES, Channel.FULL), name, "match", message))
        else:
            out.append(Outgoing((Channel.FULL,), name, message["type"], message))
        out.append(Outgoing((Channel.LEVEL3,), name, Channel.LEVEL3, message))

    def _activate(self, event: Activated, at: int) -> Outgoing:
        message = order_message(
            "activate",
            product_id=self.product.id,
            timestamp=f"{at / SECOND:.6f}",
            order_id=event.order_id,
            stop_type="entry" if event.side == BUY else "loss",
            side=event.side,
            stop_price=self._scale.trimmed_price(event.stop_price),
            size=trim(size_text(event.size)),
            funds="0",
            private=True,
        )
        return Outgoing((Channel.FULL,), self.product.id, "activate", message)

    def _message(self, event: NumberedEvent, at: int) -> OrderMessage | Match:
        if isinstance(event, Matched):
            return self._record_trade(event, at)
        self._sequence += 1
        price_text = self._scale.trimmed_price
        fields: dict[str, Any] = {
            "product_id": self.product.id,
            "sequence": self._sequence,
            "time": iso6(at),
        }
        for name, value in event._asdict().items():
            if value is None:
                continue
            if value.__class__ is not int:
                fields[name] = value
            elif name in _PRICES:
                fields[name] = price_text(value)
            else:
                fields[name] = trim(size_text(value))
        if isinstance(event, Received):
            fields["order_type"] = "market" if event.price is None else "limit"
        elif isinstance(event, Done) and event.price is None:
            del fields["remaining_size"]
        return order_message(_KINDS[event.__class__], **fields)

    def _record_trade(self, event: Matched, at: int) -> Match:
        self._sequence += 1
        self._trade_id += 1
        trade = Match(
            trade_id=self._trade_id,
            maker_order_id=event.maker_order_id,
            taker_order_id=event.taker_order_id,
            side=event.side,
            size=trim(size_text(event.size)),
            price=self._scale.trimmed_price(event.price),
            product_id=self.product.id,
            sequence=self._sequence,
            time=iso6(at),
        )
        self.tape.add(trade)
        self._high = max(self._high, event.price)
        self._low = min(self._low, event.price)
        # The window does not slide: trades only add to the day that went before the start.
        self._volume += event.size
        self._volume_30d += event.size
        return trade

    def _change(self, side: str, price: int) -> Change:
        return side, self._scale.price(price), size_text(self._flow.book.size_at(side, price))

    def cut_batch(self, out: list[Outgoing]) -> None:
        """Emit the level 2 changes since the last batch: absolute sizes, buys before sells.

        A level that came and went inside the batch is reported as removed, as the venue does.
        """
        if not self._changed:
            return
        order = sorted(self._changed, key=lambda level: level[0] != BUY)
        changes = [self._change(side, price) for side, price in order]
        self._changed.clear()
        update = L2Update(self.product.id, changes, iso6(self._changed_us))
        out.append(Outgoing((Channel.LEVEL2_BATCH,), self.product.id, "l2update", update))

    def begin_auction(self) -> None:
        """Collect orders without trading; the book may cross. Nothing while one is running."""
        self._flow.book.collecting = True

    def end_auction(self, at: int, out: list[Outgoing]) -> None:
        """Trade what crosses, and go on as before."""
        if self._flow.book.collecting:
            self._emit(self._flow.book.uncross(), at, out)

    def next_batch_us(self) -> int:
        return self._traffic.pause_us(self._rng)

    def renumber(self) -> None:
        """Begin sequences and trade ids anew, far below; former trades are gone from REST."""
        self._sequence = self._rng.randrange(1, 1000)
        self._trade_id = self._batched_ticker = 0
        self.tape = Tape()

    def heartbeat(self, at: int, out: list[Outgoing]) -> None:
        late = self._traffic.late_beats
        if late and self._rng.random() < late:
            at += 1
        beat = Heartbeat(self._trade_id, self.product.id, self._sequence, iso6(at))
        out.append(Outgoing((Channel.HEARTBEAT,), self.product.id, "heartbeat", beat))

    def ticker_batch(self, out: list[Outgoing]) -> None:
        """The ticker of the newest trade, if there was one since the last time."""
        trade = self.tape.last
        if trade is not None and trade.trade_id != self._batched_ticker:
            self._batched_ticker = trade.trade_id
            out.append(self._ticker_out(trade, Channel.TICKER_BATCH))

    def _ticker_out(self, trade: Match, channel: str) -> Outgoing:
        bids, asks = self._rows(BUY, 1), self._rows(SELL, 1)
        ticker = ticker_of(trade, self._figures(), bids, asks)
        return Outgoing((channel,), self.product.id, "ticker", ticker)

    def _figures(self) -> dict[str, str]:
        trimmed = self._scale.trimmed_price
        return {
            "open_24h": trimmed(self._open),
            "high_24h": trimmed(self._high),
            "low_24h": trimmed(self._low),
            "volume_24h": size_text(self._volume),
            "volume_30d": size_text(self._volume_30d),
        }

    def _rows(self, side: str, depth: int | None) -> list[L2Row]:
        rows: list[L2Row] = []
        for price, level in self._flow.book.half(side).walk():
            if depth is not None and len(rows) >= depth:
                break
            rows.append((self._scale.price(price), size_text(level.size), len(level.orders)))
        return rows

    def state(self, now_us: int, *, orders: bool, depth: int | None) -> ProductState:
        return ProductState(
            product=self.product.id,
            time_us=now_us,
            sequence=self._sequence,
            bids=self._rows(BUY, depth),
            asks=self._rows(SELL, depth),
            tape=self.tape,
            figures=self._figures(),
            orders=self._orders() if orders else None,
            auction=self._flow.book.collecting,
        )

    def _orders(self) -> list[tuple[str, str, str, str]]:
        return [
            (side, self._scale.price(price), size_text(order.size), order.id)
            for side in (BUY, SELL)
            for price, level in self._flow.book.half(side).walk()
            for order in level.orders.values()
        ]
