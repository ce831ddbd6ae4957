"""What the normalizer says readers go without is asked of the venue again, at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from services.common.stream import Broker, Position, Record
from services.common.stream.dead_letters import InvalidLog
from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.redis.broker import RedisBroker
from services.common.subjects import INVALID_SUBJECT, StreamKey, raw_subject, tick_subject
from services.common.wire import LateBody, Missed, Parked, StatusBody
from services.ingestor.app import Ingestor
from services.ingestor.streams import BookStream, ProductStreams, TickerStream, TradesStream
from services.ingestor.testing import eventually, raw_records, running
from tools.embedded import NatsServer, ValkeyServer
from tools.simulator import SimulatedExchange

PRODUCT = "BTC-USD"


@pytest.fixture(params=["memory", "nats", "redis"])
async def broker(
    request: pytest.FixtureRequest, nats_server: NatsServer, valkey_server: ValkeyServer
) -> AsyncIterator[Broker]:
    made: Broker
    if request.param == "nats":
        made = NatsBroker([nats_server.url], prefix="MARKET")
    elif request.param == "redis":
        made = RedisBroker(valkey_server.url, prefix="market")
    else:
        made = MemoryBroker()
    async with made:
        yield made


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(products=(PRODUCT,), paced=False) as one:
        yield one


def streams_of(ingestor: Ingestor) -> ProductStreams:
    return ingestor.feeds[0].products[PRODUCT]


async def joined(ingestor: Ingestor) -> tuple[TradesStream, BookStream, TickerStream]:
    await eventually(
        lambda: (
            bool(ingestor.feeds)
            and all(stream.state.value == "live" for stream in streams_of(ingestor).all)
        )
    )
    streams = streams_of(ingestor)
    assert streams.trades is not None
    assert isinstance(streams.book, BookStream)
    assert streams.ticker is not None
    return streams.trades, streams.book, streams.ticker


def said(channel: str, reason: str, missed: Missed | None, *, tick: bool = False) -> Parked:
    key = StreamKey("coinbase", channel, PRODUCT)
    return Parked(1, reason, tick_subject(3, key) if tick else raw_subject(key), "", 1, "", missed)


async def test_what_readers_go_without_is_sent_again(
    broker: Broker, exchange: SimulatedExchange
) -> None:
    async with running(broker, exchange.ws_url, exchange.rest_url, PRODUCT) as ingestor:
        trades, book, ticker = await joined(ingestor)
        exchange.advance(3)
        await eventually(lambda: trades.messages > 2 and ticker.messages > 2)
        await ingestor.flushed()
        numbers = [r.seq for r in await raw_records(broker, "trades", PRODUCT) if r.kind == "frame"]
        bases, held = book.resyncs, numbers[1]
        invalid = InvalidLog(broker)
        await invalid.write(
            [
                # Nothing that anybody goes without; a stream of nobody; nothing readable.
                said("book", "bad_row: x", None),
                Parked(1, "bad_json", "", "", 1, "{"),
                said("book", "raw_log_break", Missed(1, 2)),
                said("trades", "invalid_message: bad_side", Missed(held, held, 1)),
                said("ticker", "record_too_large: 9", Missed(5, 5), tick=True),
            ]
        )
        await eventually(lambda: book.resyncs > bases and not book.suspect)
        await eventually(lambda: not ticker.behind)
        await eventually(lambda: trades.open.count == 0 and trades.open.gaps == ())
        await ingestor.flushed()
        resyncs = [
            msgspec.json.decode(record.body)["cause"]
            for channel in ("book", "ticker")
            for record in await raw_records(broker, channel, PRODUCT)
            if record.kind == "resync"
        ]
        assert "raw_log_break" in resyncs
        late = [
            msgspec.json.decode(record.body, type=LateBody)
            for record in await raw_records(broker, "trades", PRODUCT)
            if record.kind == "late"
        ]
        assert [one.reason for one in late] == ["open", "found"]
        assert [msgspec.json.decode(row)["trade_id"] for row in late[1].messages] == [held]
        states = [
            msgspec.json.decode(record.body, type=StatusBody).state
            for record in await raw_records(broker, "book", PRODUCT)
            if record.kind == "status"
        ]
        assert states[-2:] == ["resyncing", "live"]
        await invalid.aclose()


async def test_what_others_put_where_it_is_parked_ends_nobody(
    broker: Broker, exchange: SimulatedExchange
) -> None:
    async with running(broker, exchange.ws_url, exchange.rest_url, PRODUCT) as ingestor:
        _, book, _ = await joined(ingestor)
        bases = book.resyncs
        deep = b'{"x":' * 5000 + b"1" + b"}" * 5000
        publisher = await broker.publisher()
        for n, payload in enumerate((b"\xff", b'{"v":1,"reason":"\xff"}', deep), 1):
            await publisher.send(Record(INVALID_SUBJECT, payload, Position(0, n)))
        await publisher.flush()
        invalid = InvalidLog(broker)
        await invalid.write([said("book", "raw_log_break", Missed(1, 2))])
        await eventually(lambda: book.resyncs > bases and not book.suspect)
        await invalid.aclose()


async def test_what_was_never_passed_on_is_not_asked_for() -> None:
    async with (
        MemoryBroker() as broker,
        SimulatedExchange(products=(PRODUCT,), paced=False) as exchange,
        running(broker, exchange.ws_url, exchange.rest_url, PRODUCT) as ingestor,
    ):
        trades, _, _ = await joined(ingestor)
        for missed in (Missed(10**9, 10**9), Missed(5, 4), Missed(0, 3)):
            streams_of(ingestor).missed("trades", missed, "raw_log_break", 1)
        streams_of(ingestor).missed("candles", Missed(1, 1), "raw_log_break", 1)
        assert trades.open.gaps == ()
