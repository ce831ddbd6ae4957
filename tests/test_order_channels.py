"""From every order's messages to ticks: what a subscriber folds is the exchange's own book."""

from __future__ import annotations

import pytest

from services.common.domain.fold import Fold
from services.common.stream.memory.broker import MemoryBroker
from services.common.subjects import StreamKey
from services.common.wire import RawRecord, Status, decode_record
from services.ingestor.streams import OrdersStream
from services.ingestor.testing import eventually, raw_records, running, true_book
from services.normalizer.normalize import Normalizer
from tools.simulator import Credentials, SimulatedExchange

PRODUCT = "BTC-USD"


def folded(key: StreamKey, records: list[RawRecord]) -> Fold:
    """What the ticks of these raw records fold to, checked as a client checks them."""
    normalizer, fold, held = Normalizer(1), Fold(key), None
    for raw in records:
        output = normalizer.normalize(key, raw)
        assert not output.refused
        for out in output.records:
            record = decode_record(out.payload)
            if not isinstance(record, Status):
                assert record.prev == held
                held = record.seq
                fold.apply(record)
    return fold


@pytest.mark.parametrize("channels", [("full", "ticker"), ("level3", "matches")], ids="+".join)
async def test_ticks_of_orders_fold_to_the_exchanges_book_in_spite_of_losses(
    channels: tuple[str, ...],
) -> None:
    key = Credentials()
    book_key = StreamKey("coinbase", "book", PRODUCT)
    async with (
        MemoryBroker() as broker,
        SimulatedExchange(products=(PRODUCT,), paced=False) as exchange,
        running(
            broker,
            exchange.ws_url,
            exchange.rest_url,
            PRODUCT,
            coinbase_channels=channels,
            coinbase_api_key=key.key,
            coinbase_api_secret=key.secret,
            coinbase_api_passphrase=key.passphrase,
        ) as ingestor,
    ):
        await eventually(
            lambda: bool(ingestor.feeds) and ingestor.feeds[0].state.value != "stopped", "a feed"
        )
        book = ingestor.feeds[0].products[PRODUCT].book
        assert isinstance(book, OrdersStream)

        def at_home() -> bool:
            if book.suspect:
                # A base needs messages that follow it.
                exchange.advance(0.2)
            return not book.suspect and book.sequence == exchange.state(PRODUCT).sequence

        async def home() -> None:
            await eventually(at_home, "home", every=0.05)

        await home()
        exchange.control(drop={"count": 5, "types": ["open", "match", "done", "level3"]})
        exchange.advance(2)
        await home()
        exchange.control(clear=True)
        exchange.advance(3)
        await home()
        truth = true_book(exchange, PRODUCT)

        async def holds() -> bool:
            return folded(book_key, await raw_records(broker, "book", PRODUCT)).book == truth

        await eventually(holds, "the whole book in the log")
        assert book.gaps >= 1
        trades = await raw_records(broker, "trades", PRODUCT)
        fold = folded(StreamKey("coinbase", "trades", PRODUCT), trades)
    last = exchange.state(PRODUCT).last_trade
    assert last is not None
    assert fold.position is not None
    assert fold.position.seq == last.trade_id
