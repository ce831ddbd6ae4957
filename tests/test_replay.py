"""A recorded minute of the venue through the whole platform: what comes out is what went in."""

from __future__ import annotations

import gzip
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import zstandard
from market_data_fanout_client.chain import Verdict

from services.common.testing.waiting import eventually
from services.common.times import micros
from tests.stack_process import running_subscriber, stack_process
from tools.simulator.market.market import MarketModel, ModelSettings
from tools.simulator.venue import greeting
from tools.stack import Stack, StackOptions
from tools.stack.options import BrokerKind
from tools.subscribed_book import SubscribedBook, record_of
from tools.subscriber import Message, Subscriber, Want

pytestmark = pytest.mark.e2e

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
        elif channel == "trades" and message["type"] == "incr" and verdict is Verdict.APPLY:
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
            await eventually(everything_came, seconds=90)
        assert collected.trades == recording.trades
        for product, book in collected.books.items():
            assert levels(book) == recording.books[product]
        assert subscriber.counts().breaks == 0
        assert subscriber.errors == []


def market(seconds: int) -> list[str]:
    """What a recorder notes who came before the market began: receive time, tab, message."""
    names = ("BTC-USD", "ETH-USD")
    model = MarketModel(ModelSettings(names, rate=100, depth=50), 1_767_225_600_000_000)
    greetings = [
        each
        for name in names
        for channel in ("level2_batch", "matches")
        for each in greeting(model, channel, name)
    ]
    public = {"level2_batch", "matches"}
    messages = [
        each
        for each in model.advance(model.now_us + seconds * 1_000_000)
        if public & set(each.channels)
    ]
    lines = [f"1767225600\t{each.encoded().decode()}" for each in greetings]
    for each in messages:
        body = each.encoded().decode()
        received = (micros(json.loads(body)["time"]) or 0) / 1e6 + 0.01
        lines.append(f"{received:.6f}\t{body}")
    return lines


async def test_a_cut_packed_and_torn_recording_without_heartbeats_is_healed_from_the_truth(
    tmp_path: Path,
) -> None:
    lines = market(20)
    whole = tmp_path / "whole.zst"
    whole.write_bytes(zstandard.compress("\n".join(lines).encode()))
    cut = [line for number, line in enumerate(lines) if not 100 < number < 160]
    cut.insert(len(cut) * 2 // 3, "# reconnected")
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress("\n".join([*cut, lines[-1][:-9]]).encode()))
    arguments = ("--upstream", "replay", "--capture", str(path), "--truth", str(whole))
    async with stack_process(*arguments, "--duration", "14", folder=tmp_path) as stack:
        status = await stack.finish()
        summary = stack.summary()
        assert status == 0, stack.output
        assert (summary["books_equal"], summary["trades_equal"]) == (True, True)
        assert summary["left_out"] == {"torn": 1}
        assert summary["gaps_detected"] > 0
        assert "left out of the recording: 1 torn" in stack.output
        (log,) = (tmp_path / ".mdf").glob("run-*/ingestor.log")
        assert "stale" not in log.read_text()


async def test_what_cannot_be_replayed_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<html>\n<body>502</body>\n</html>\n")
    async with stack_process(
        "--upstream", "replay", "--capture", str(path), folder=tmp_path
    ) as stack:
        assert await stack.finish() == 1
        assert len(stack.lines) == 1
        assert "holds no message of the feed" in stack.output
