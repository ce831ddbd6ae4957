"""A recorded minute of the venue through the whole platform: what comes out is what went in."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tools.stack import Stack, StackOptions
from tools.stack.options import BrokerKind
from tools.stack.testing import eventually, running_subscriber
from tools.subscriber import Subscriber, Verdict, Want
from tools.subscriber.book import SubscribedBook, record_of
from tools.subscriber.wants import Message

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

OPPOSITE = {"buy": "sell", "sell": "buy"}
Levels = dict[Decimal, Decimal]


class Recording:
    """What the capture says, read without any of the platform's code."""

    def __init__(self, path: Path) -> None:
        self.trades: dict[str, list[tuple[int, str, str, str]]] = {}
        self.books: dict[str, dict[str, Levels]] = {}
        self.last_update_us: dict[str, int] = {}
        for line in path.read_text().splitlines():
            message = json.loads(line)
            product = message.get("product_id")
            if message["type"] == "match":
                self.trades.setdefault(product, []).append(
                    (
                        message["trade_id"],
                        message["price"],
                        message["size"],
                        # A match tells the maker's side, a trade the taker's.
                        OPPOSITE[message["side"]],
                    )
                )
            elif message["type"] == "snapshot":
                self.books[product] = {
                    "buy": {Decimal(price): Decimal(size) for price, size in message["bids"]},
                    "sell": {Decimal(price): Decimal(size) for price, size in message["asks"]},
                }
            elif message["type"] == "l2update":
                for side, price, size in message["changes"]:
                    self.books[product][side][Decimal(price)] = Decimal(size)
                moment = datetime.fromisoformat(message["time"])
                self.last_update_us[product] = round(moment.timestamp() * 1e6)
        for book in self.books.values():
            for side, levels in book.items():
                book[side] = {price: size for price, size in levels.items() if size}


class Collected:
    """What one subscriber was given."""

    def __init__(self, products: tuple[str, ...]) -> None:
        self.trades: dict[str, list[tuple[int, str, str, str]]] = {name: [] for name in products}
        self.books = {name: SubscribedBook() for name in products}

    def take(self, message: Message, verdict: Verdict | None) -> None:
        record = record_of(message)
        channel, product = record.get("channel"), record.get("product", "")
        if channel == "book":
            self.books[product].take(message, verdict)
        elif channel == "trades" and message["type"] == "incr" and verdict is Verdict.APPLIED:
            trade: dict[str, Any] = record["fields"]["last_trade"]
            self.trades[product].append(
                (trade["trade_id"], trade["price"], trade["size"], trade["side"])
            )


def levels(book: SubscribedBook) -> dict[str, Levels]:
    return {
        "buy": {Decimal(price): Decimal(size) for price, size in book.book.bids()},
        "sell": {Decimal(price): Decimal(size) for price, size in book.book.asks()},
    }


@pytest.mark.parametrize("broker", ["nats", "redis"])
async def test_a_subscriber_gets_exactly_the_recorded_trades_and_books(
    broker: BrokerKind, captures: Path, tmp_path: Path
) -> None:
    path = captures / "coinbase" / "live-btc-eth.ndjson"
    recording = Recording(path)
    assert sum(len(trades) for trades in recording.trades.values()) == 435
    options = StackOptions(
        upstream="replay",
        capture=path,
        speed=10,
        broker_kind=broker,
        run_dir=tmp_path,
    )
    async with Stack(options) as stack:
        collected = Collected(stack.products)
        subscriber = Subscriber(
            stack.gateway_url,
            [Want("trades", stack.products, from_seq=0), Want("book", stack.products)],
            on_message=collected.take,
        )

        def everything_came() -> bool:
            return all(
                len(collected.trades[product]) >= len(recording.trades[product])
                and (subscriber.chains[f"coinbase:book:{product}"].seq or 0)
                >= recording.last_update_us[product]
                for product in stack.products
            )

        async with running_subscriber(subscriber):
            await eventually(everything_came, 90)
        assert collected.trades == recording.trades
        for product, book in collected.books.items():
            assert levels(book) == recording.books[product]
        assert subscriber.counts().breaks == 0
        assert subscriber.errors == []
