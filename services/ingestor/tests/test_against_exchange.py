"""The whole ingestor against the simulated exchange, over real sockets, into a broker in memory."""

from __future__ import annotations

from typing import Any

import msgspec

from services.common.stream import Position, Record
from services.common.stream.memory.broker import MemoryBroker
from services.common.subjects import INVALID_SUBJECT, StreamKey, raw_subject
from services.common.wire import Parked, RawRecord, ResyncBody, encode
from services.ingestor.app import Ingestor
from services.ingestor.streams import ProductStreams
from services.ingestor.testing import check_books, eventually, raw_records, running
from tools.simulator import SimulatedExchange

PRODUCTS = ("BTC-USD", "ETH-USD")


def streams_of(ingestor: Ingestor, product: str) -> ProductStreams:
    return next(feed.products[product] for feed in ingestor.feeds if product in feed.products)


def last_trade(exchange: SimulatedExchange, product: str) -> int:
    trade = exchange.state(product).last_trade
    assert trade is not None
    return trade.trade_id


async def joined(ingestor: Ingestor, *products: str) -> None:
    """Every stream of these has begun."""

    def begun() -> bool:
        return bool(ingestor.feeds) and all(
            stream.state.value == "live"
            for product in products or PRODUCTS
            for stream in streams_of(ingestor, product).all
        )

    await eventually(begun, "all streams live")


def at_head(ingestor: Ingestor, exchange: SimulatedExchange, product: str) -> bool:
    """The raw log holds the model's last trade, and the book is trusted."""
    streams = streams_of(ingestor, product)
    assert streams.trades is not None
    assert streams.book is not None
    trades = (
        streams.trades.writer.seq == last_trade(exchange, product) and not streams.trades.healing
    )
    return trades and not streams.book.suspect


async def caught_up(ingestor: Ingestor, exchange: SimulatedExchange) -> None:
    await eventually(
        lambda: all(at_head(ingestor, exchange, product) for product in PRODUCTS), "caught up"
    )


def check_chain(records: list[RawRecord]) -> None:
    held: int | None = None
    position = (0, 0, 0)
    for record in records:
        here = (record.epoch, record.seq, record.sub)
        assert here > position
        assert record.prev == held
        position = here
        if record.kind != "status":
            held = record.seq


async def check_trades(broker: MemoryBroker, exchange: SimulatedExchange, product: str) -> None:
    """Every trade of the model from the first one written, once, in order, with its content."""
    records = await raw_records(broker, "trades", product)
    check_chain(records)
    assert [record for record in records if record.kind in ("gap", "resync")] == []
    frames = [record for record in records if record.kind == "frame"]
    first = frames[0].seq
    assert [record.seq for record in frames] == list(
        range(first, last_trade(exchange, product) + 1)
    )
    for record in frames:
        body = msgspec.json.decode(record.body)
        assert body["trade_id"] == record.seq


async def followed(
    broker: MemoryBroker, exchange: SimulatedExchange, seconds: float, **settings: Any
) -> None:
    """An ingestor that joins, follows the market for a while, and stops."""
    urls = exchange.ws_url, exchange.rest_url
    async with running(broker, *urls, *PRODUCTS, **settings) as ingestor:
        await joined(ingestor)
        exchange.advance(seconds)
        await caught_up(ingestor, exchange)


async def test_without_faults_every_trade_is_in_the_log_once_and_in_order(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    await followed(broker, exchange, 5)
    for product in PRODUCTS:
        await check_trades(broker, exchange, product)
        check_chain(await raw_records(broker, "ticker", product))
        check_chain(await raw_records(broker, "book", product))


async def test_trades_are_exactly_the_models_after_drops_repeats_reorders_and_disconnects(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor:
        await joined(ingestor)
        exchange.control(
            drop={"probability": 0.05},
            duplicate={"probability": 0.05},
            reorder={"probability": 0.05, "by": 3},
        )
        for _ in range(6):
            exchange.advance(2)
            exchange.control(disconnect={})
            await joined(ingestor)
        exchange.control(clear=True)
        exchange.advance(3)
        await caught_up(ingestor, exchange)
        found = [
            stream.gaps for product in PRODUCTS for stream in streams_of(ingestor, product).all
        ]
        assert sum(found) > 0
    for product in PRODUCTS:
        await check_trades(broker, exchange, product)


async def test_a_gap_of_one_product_is_not_noticed_by_the_other(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    """While BTC-USD waits for its refill, ETH-USD goes on."""
    async with running(
        broker, exchange.ws_url, exchange.rest_url, *PRODUCTS, resync_max_queue_ms=60_000
    ) as ingestor:
        await joined(ingestor)
        exchange.control(
            drop={"count": 1, "types": ["match"], "products": ["BTC-USD"]},
            rest={"status": 503, "paths": ["/trades"]},
        )
        exchange.advance(5)
        btc, eth = (streams_of(ingestor, product).trades for product in PRODUCTS)
        assert btc is not None
        assert eth is not None
        await eventually(
            lambda: eth.writer.seq == last_trade(exchange, "ETH-USD") and btc.held > 0,
            "ETH-USD at the head while BTC-USD waits",
        )
        assert btc.healing
        assert eth.gaps == 0
        exchange.control(clear=True)
        await caught_up(ingestor, exchange)
    for product in PRODUCTS:
        await check_trades(broker, exchange, product)


async def test_a_gap_re_bases_the_book_to_the_models(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor:
        await joined(ingestor)
        exchange.advance(2)
        exchange.control(drop={"count": 6, "types": ["match", "l2update"], "products": ["BTC-USD"]})
        exchange.advance(2)
        book = streams_of(ingestor, "BTC-USD").book
        assert book is not None
        await eventually(lambda: book.resyncs > 1 and not book.suspect, "a new base")
        exchange.advance(1)
        await check_books(broker, exchange, PRODUCTS)
    records = await raw_records(broker, "book", "BTC-USD")
    check_chain(records)
    causes = [
        msgspec.json.decode(record.body, type=ResyncBody).cause
        for record in records
        if record.kind == "resync"
    ]
    assert causes == ["start", "gap"]


async def test_an_ingestor_that_comes_back_fills_what_happened_in_between(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    # What waits is refilled however long a busy machine takes for the answers.
    patient = {"resync_max_queue_ms": 60_000}
    for _ in range(3):
        await followed(broker, exchange, 2, **patient)
        exchange.advance(20)
    await followed(broker, exchange, 0, **patient)
    for product in PRODUCTS:
        await check_trades(broker, exchange, product)
        for channel in ("ticker", "book"):
            check_chain(await raw_records(broker, channel, product))


async def test_a_record_from_the_future_at_the_end_of_the_log_silences_no_stream(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    """Far ahead in number and time, as only a broken clock or somebody else can have written it."""
    await followed(broker, exchange, 2)
    publisher = await broker.publisher()
    for channel in ("trades", "ticker"):
        last = (await raw_records(broker, channel, "BTC-USD"))[-1]
        time = last.ts_recv + 10**13
        forged = msgspec.structs.replace(last, kind="frame", seq=10**12, sub=0, ts_recv=time)
        subject = raw_subject(StreamKey("coinbase", channel, "BTC-USD"))
        position = Position(forged.epoch, forged.seq, 0)
        assert publisher.offer(Record(subject, encode(forged), position)) is not None
    await publisher.flush()
    await publisher.aclose()
    async with running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor:
        await eventually(lambda: bool(ingestor.feeds) and ingestor.feeds[0].connected)
        exchange.advance(30)
        await caught_up(ingestor, exchange)
        ticker = streams_of(ingestor, "BTC-USD").ticker
        assert ticker is not None
        assert ticker.writer.seq is not None
        assert ticker.writer.seq < 10**12
        assert ticker.writer.epoch > forged.epoch


async def test_a_hole_that_the_venue_knows_nothing_of_is_recorded_without_a_long_pause(
    broker: MemoryBroker,
) -> None:
    """The venue comes back with ids far ahead: none of those between ever existed."""
    heads: list[int] = []
    for seed in (1, 2):
        async with SimulatedExchange(products=PRODUCTS, paced=False, seed=seed) as exchange:
            heads.append(last_trade(exchange, "BTC-USD"))
    low, high = (1, 2) if heads[0] < heads[1] else (2, 1)
    for seed in (low, high):
        async with (
            SimulatedExchange(products=PRODUCTS, paced=False, seed=seed) as exchange,
            running(
                broker, exchange.ws_url, exchange.rest_url, "BTC-USD", resync_max_queue_ms=60_000
            ) as ingestor,
        ):
            await eventually(lambda: any(feed.connected for feed in ingestor.feeds), "connected")
            # Numbers so far ahead are believed with the next messages only.
            exchange.advance(2)
            await joined(ingestor, "BTC-USD")
            await eventually(lambda: at_head(ingestor, exchange, "BTC-USD"), "caught up")
    records = await raw_records(broker, "trades", "BTC-USD")
    check_chain(records)
    gaps = [record for record in records if record.kind == "gap"]
    assert gaps, "ids that never were"
    assert {record.epoch for record in records} == {records[0].epoch}
    frames = [record.seq for record in records if record.seq > gaps[-1].seq]
    assert frames[0] == gaps[-1].seq + 1


async def test_what_cannot_be_refilled_in_time_is_recorded_and_the_stream_goes_on(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with running(
        broker, exchange.ws_url, exchange.rest_url, *PRODUCTS, resync_max_queue_ms=300
    ) as ingestor:
        await joined(ingestor)
        exchange.control(
            drop={"count": 1, "types": ["match"], "products": ["BTC-USD"]},
            rest={"status": 500, "paths": ["/trades"]},
        )
        exchange.advance(3)
        await caught_up(ingestor, exchange)
    records = [
        record
        for record in await raw_records(broker, "trades", "BTC-USD")
        if record.kind in ("frame", "gap")
    ]
    assert [record.kind for record in records].count("gap") == 1
    assert [record.seq for record in records] == list(
        range(records[0].seq, last_trade(exchange, "BTC-USD") + 1)
    )


async def test_a_stale_answer_is_asked_for_again(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    """A heal right after a gap may get a CDN's copy that does not contain it yet."""
    async with running(
        broker, exchange.ws_url, exchange.rest_url, *PRODUCTS, resync_max_queue_ms=30_000
    ) as ingestor:
        await joined(ingestor)
        exchange.control(
            stale_rest_s=1.0, drop={"count": 2, "types": ["match"], "products": ["BTC-USD"]}
        )
        exchange.advance(3)
        await caught_up(ingestor, exchange)
    for product in PRODUCTS:
        await check_trades(broker, exchange, product)


async def test_a_lost_tail_is_found_by_heartbeats_alone(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    """Matches and tickers stop coming while trades go on: no number shows a gap."""
    async with running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor:
        await joined(ingestor)
        exchange.advance(2)
        await caught_up(ingestor, exchange)
        exchange.control(drop={"probability": 1.0, "types": ["match", "ticker"]})
        exchange.advance(4)
        for product in PRODUCTS:
            streams = streams_of(ingestor, product)
            trades, ticker = streams.trades, streams.ticker
            assert trades is not None
            assert ticker is not None
            await eventually(lambda stream=trades: stream.refilled > 0, "a refill")  # type: ignore[misc]  # mypy cannot infer a lambda's default
            await eventually(lambda stream=ticker: stream.gaps and not stream.behind, "a refresh")  # type: ignore[misc]  # likewise
        exchange.control(clear=True)
        exchange.advance(2)
        await caught_up(ingestor, exchange)
    for product in PRODUCTS:
        await check_trades(broker, exchange, product)
        tickers = await raw_records(broker, "ticker", product)
        check_chain(tickers)
        assert [record for record in tickers if record.kind == "resync"]


async def test_malformed_messages_are_parked_and_do_no_harm(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with running(broker, exchange.ws_url, exchange.rest_url, *PRODUCTS) as ingestor:
        await joined(ingestor)
        for kind in ("json", "utf8", "binary", "unknown_type"):
            exchange.control(garbage={"kind": kind, "count": 2})
            exchange.advance(1)
        await caught_up(ingestor, exchange)
        ignored = sum(feed.ignored for feed in ingestor.feeds)
        reconnects = sum(feed.reconnects for feed in ingestor.feeds)
    page = await broker.read(INVALID_SUBJECT)
    parked = [msgspec.json.decode(message.payload, type=Parked) for message in page.messages]
    # Stopping in the middle of a write may store some of them twice.
    assert len({(each.ts_recv, each.original) for each in parked}) == 6
    assert {each.reason for each in parked} <= {"bad_json", "bad_field"}
    assert all(each.original for each in parked)
    assert (ignored, reconnects) == (2, 0)
    for product in PRODUCTS:
        await check_trades(broker, exchange, product)
