"""The whole ingestor on a recorded session of the venue."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.common.domain.book import Book
from services.common.stream.memory.broker import MemoryBroker
from services.ingestor.testing import eventually, folded, raw_records, running
from services.ingestor.tests.test_against_exchange import PRODUCTS, caught_up, check_chain
from tools.simulator import SimulatedExchange


async def test_a_recording_gives_exactly_its_435_trades_in_order(
    broker: MemoryBroker, captures: Path
) -> None:
    recording = captures / "coinbase" / "live-btc-eth.ndjson"
    async with SimulatedExchange(capture=recording, speed=0) as exchange:
        replay = exchange.replay
        assert replay is not None
        async with running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor:
            await eventually(lambda: replay.finished, "the end of the recording", 60)
            await caught_up(ingestor, exchange)
    expected: dict[str, list[int]] = {product: [] for product in PRODUCTS}
    books = {product: Book() for product in PRODUCTS}
    with recording.open("rb") as lines:
        for line in lines:
            message = msgspec.json.decode(line)
            match message["type"]:
                case "match":
                    expected[message["product_id"]].append(message["trade_id"])
                case "snapshot":
                    books[message["product_id"]].replace(message["bids"], message["asks"])
                case "l2update":
                    books[message["product_id"]].apply(message["changes"])
    total = 0
    for product in PRODUCTS:
        trades = await raw_records(broker, "trades", product)
        check_chain(trades)
        seqs = [record.seq for record in trades if record.kind == "frame"]
        assert seqs == expected[product]
        total += len(seqs)
        assert folded(await raw_records(broker, "book", product)) == books[product]
    assert total == 435
