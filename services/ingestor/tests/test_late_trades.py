"""Trades that REST could not give in time: asked for afterwards, over a restart, and delivered."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from services.common.stream import Broker
from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.nats.broker import NatsBroker
from services.common.wire import LateBody, RawRecord
from services.ingestor.app import Ingestor
from services.ingestor.streams import TradesStream
from services.ingestor.testing import eventually, raw_records, running
from tools.embedded import NatsServer
from tools.simulator import SimulatedExchange

BTC = "BTC-USD"


@pytest.fixture(params=["memory", "nats"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    if request.param == "memory":
        async with MemoryBroker() as memory:
            yield memory
        return
    async with NatsServer() as server, NatsBroker([server.url], prefix="MARKET") as nats:
        yield nats


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(products=(BTC,), paced=False) as exchange:
        yield exchange


def stream_of(ingestor: Ingestor) -> TradesStream:
    stream = ingestor.feeds[0].products[BTC].trades
    assert stream is not None
    return stream


async def lose_some(ingestor: Ingestor, exchange: SimulatedExchange, count: int) -> None:
    """Drop trades on the wire while REST is away for longer than trades wait."""
    await eventually(
        lambda: bool(ingestor.feeds) and stream_of(ingestor).state.value == "live", "live"
    )
    exchange.control(
        drop={"count": count, "types": ["match"], "products": [BTC]},
        rest={"status": 500, "paths": ["/trades"]},
    )
    exchange.advance(3)
    await eventually(lambda: at_head(ingestor, exchange), "gone on without them")
    assert stream_of(ingestor).open.count == count


def at_head(ingestor: Ingestor, exchange: SimulatedExchange) -> bool:
    stream = stream_of(ingestor)
    trade = exchange.state(BTC).last_trade
    return trade is not None and stream.writer.seq == trade.trade_id and not stream.healing


def late_bodies(records: list[RawRecord]) -> list[LateBody]:
    return [
        msgspec.json.decode(record.body, type=LateBody)
        for record in records
        if record.kind == "late"
    ]


def check_complete(records: list[RawRecord]) -> None:
    """Each id once: in its place or late, and nothing is open at the end."""
    late = late_bodies(records)
    ids = [record.seq for record in records if record.kind == "frame"]
    ids += [msgspec.json.decode(message)["trade_id"] for body in late for message in body.messages]
    assert sorted(ids) == list(range(min(ids), max(ids) + 1))
    assert [body.open for body in late][-1:] == [[]]
    assert all(body.lost == [] for body in late)
    assert records[-1].open_gaps is None
    assert records[-1].open_at is None


async def test_trades_that_rest_could_not_give_in_time_come_late(
    broker: Broker, exchange: SimulatedExchange
) -> None:
    async with running(
        broker, exchange.ws_url, exchange.rest_url, BTC, resync_max_queue_ms=100
    ) as ingestor:
        await lose_some(ingestor, exchange, 6)
        exchange.advance(2)
        exchange.control(clear=True)
        await eventually(lambda: not stream_of(ingestor).open.gaps, "closed")
    check_complete(await raw_records(broker, "trades", BTC))


async def test_a_restart_goes_on_asking(broker: Broker, exchange: SimulatedExchange) -> None:
    async with running(
        broker, exchange.ws_url, exchange.rest_url, BTC, resync_max_queue_ms=100
    ) as ingestor:
        await lose_some(ingestor, exchange, 3)
        exchange.advance(2)
    exchange.control(clear=True)
    async with running(broker, exchange.ws_url, exchange.rest_url, BTC) as ingestor:
        await eventually(
            lambda: bool(ingestor.feeds) and stream_of(ingestor).state.value == "live", "live"
        )
        await eventually(lambda: not stream_of(ingestor).open.gaps, "closed")
    check_complete(await raw_records(broker, "trades", BTC))


async def test_gaps_older_than_the_limit_are_given_up_in_writing(
    broker: Broker, exchange: SimulatedExchange
) -> None:
    async with running(
        broker,
        exchange.ws_url,
        exchange.rest_url,
        BTC,
        resync_max_queue_ms=100,
        late_trades_max_hours=0,
    ) as ingestor:
        await eventually(
            lambda: bool(ingestor.feeds) and stream_of(ingestor).state.value == "live", "live"
        )
        exchange.control(
            drop={"count": 2, "types": ["match"], "products": [BTC]},
            rest={"status": 500, "paths": ["/trades"]},
        )
        exchange.advance(3)
        await eventually(lambda: at_head(ingestor, exchange), "gone on without them")
        await eventually(lambda: not stream_of(ingestor).open.gaps, "closed")
    (late,) = late_bodies(await raw_records(broker, "trades", BTC))
    assert (late.reason, late.open, late.messages) == ("expired", [], [])
    assert late.lost[0].to - late.lost[0].from_ == 1
