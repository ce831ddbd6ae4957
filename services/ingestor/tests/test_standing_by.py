"""What a line does that stands by, and how it becomes the one that writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from services.common.errors import VenueRefused
from services.common.lines.keeper import LineKeeper, RawBeats
from services.common.lines.lease import RELEASED, Role
from services.common.stream import Broker, LogSpec, Position, Record
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.stream.nats.broker import NatsBroker
from services.common.subjects import (
    INVALID_LOG,
    INVALID_SUBJECT,
    RAW_LOG,
    StreamKey,
    pulse_key,
    raw_subject,
)
from services.common.testing.conformance import read_all
from services.common.testing.raw_records import raw_message
from services.ingestor.app import Ingestor
from services.ingestor.streams.predecessor import predecessor
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.waiting import WaitingStreams
from services.ingestor.testing import RawLog, eventually, raw_records, running
from services.ingestor.tests.test_against_exchange import joined, streams_of
from services.ingestor.tests.test_product_streams import NOW, SECOND, Bench
from services.ingestor.venues.base import Event, Kind
from tools.embedded import NatsServer
from tools.simulator import SimulatedExchange

PRODUCT = "BTC-USD"
BEATS = pulse_key("coinbase", "line-main")


@contextlib.asynccontextmanager
async def keeping(broker: Broker, line: str) -> AsyncIterator[LineKeeper]:
    """A line's keeper that runs; it lets go at the end, if it writes."""
    await broker.ensure([LogSpec(RAW_LOG, 600)])
    async with (
        LineKeeper(broker, RawBeats(BEATS), line, 0.2) as keeper,
        asyncio.TaskGroup() as group,
    ):
        running = group.create_task(keeper.run())
        yield keeper
        running.cancel()
        await keeper.release()


async def beats(broker: MemoryBroker) -> list[tuple[int, int]]:
    """Term and number of each in the log."""
    return [
        divmod(each.position.seq, RELEASED + 1)
        for each in await read_all(broker, raw_subject(BEATS))
    ]


async def test_who_lets_go_is_followed_at_once_in_the_next_term(broker: MemoryBroker) -> None:
    async with keeping(broker, "a") as first:
        await asyncio.wait_for(first.active(), 10)
        async with keeping(broker, "b") as second:
            await eventually(lambda: first.role is Role.ACTIVE, "it goes on")
            assert second.role is Role.STANDBY
            assert not second.may_write()
            await first.release()
            await asyncio.wait_for(second.active(), 10)
            assert not first.may_write()
    found = await beats(broker)
    assert (1, RELEASED) in found
    assert found[-1] == (2, RELEASED)
    assert found == sorted(found)


async def test_letting_go_does_not_wait_for_a_broker_that_is_away(nats_server: NatsServer) -> None:
    async with (
        NatsBroker([nats_server.url], prefix="MARKET") as broker,
        asyncio.timeout(30),
        keeping(broker, "a") as keeper,
    ):
        await keeper.active()
        # It lets go when this block is left.
        await nats_server.kill()


async def test_beats_go_on_in_the_log_that_was_made_anew() -> None:
    """One that began later would not see them in the numbering of the log that was lost."""
    server = MemoryServer()
    async with MemoryBroker(server) as broker, keeping(broker, "a") as keeper:
        await asyncio.wait_for(keeper.active(), 10)
        before = await broker.log_epoch(RAW_LOG)
        server.wipe()
        await broker.ensure([LogSpec(RAW_LOG, 600)])
        epoch = await broker.log_epoch(RAW_LOG)
        assert epoch > before

        async def heard() -> bool:
            last = await broker.last(raw_subject(BEATS))
            return last is not None and last.position.epoch == epoch

        await eventually(heard, "a beat of the new log")
        assert keeper.role is Role.ACTIVE


def started(
    broker: MemoryBroker, exchange: SimulatedExchange, line: str
) -> contextlib.AbstractAsyncContextManager[Ingestor]:
    return running(
        broker,
        exchange.ws_url,
        exchange.rest_url,
        PRODUCT,
        ingestor_pair="main",
        ingestor_line=line,
        shard_count=1,
    )


def flowing(ingestor: Ingestor) -> bool:
    return bool(ingestor.feeds) and all(feed.connected for feed in ingestor.feeds)


async def test_a_line_that_stands_by_listens_and_writes_nothing(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with (
        started(broker, exchange, "a") as first,
        started(broker, exchange, "b") as second,
    ):
        await eventually(lambda: flowing(first) and flowing(second), "both are connected")
        await eventually(
            lambda: {first.role, second.role} == {Role.ACTIVE, Role.STANDBY}, "one writes"
        )
        writer, other = (first, second) if first.role is Role.ACTIVE else (second, first)
        await eventually(lambda: bool(streams_of(writer, PRODUCT).all), "streams in their place")
        await joined(writer, PRODUCT)
        exchange.advance(3)
        before = writer.feeds[0].messages - other.feeds[0].messages
        # Both are sent it; one of them says so.
        exchange.control(garbage={"kind": "json", "count": 1})
        exchange.advance(1)
        with pytest.raises(VenueRefused, match="stands by"):
            await other.set_products(["ETH-USD"])
        last = exchange.state(PRODUCT).last_trade
        assert last is not None

        async def written() -> bool:
            return (await raw_records(broker, "trades", PRODUCT))[-1].seq == last.trade_id

        await eventually(written, "the writer has the last trade")
        lines = {each.line for each in await raw_records(broker, "trades", PRODUCT)}
        assert lines == {writer.settings.line}
        await eventually(
            lambda: writer.feeds[0].messages - other.feeds[0].messages == before, "both heard it"
        )
        await eventually(lambda: _parked(broker), "it is parked")
        assert len(await read_all(broker, INVALID_SUBJECT)) == 1


async def _parked(broker: MemoryBroker) -> bool:
    return bool(await broker.subjects(INVALID_LOG))


@pytest.mark.parametrize("held", [101, 103, 110])
def test_what_came_lately_is_handed_to_the_streams_that_take_the_place(held: int) -> None:
    """They go on where the log ends, so what it has already vanishes by its number."""
    waiting = WaitingStreams(PRODUCT)
    for number in range(100, 105):
        waiting.feed(Event(Kind.TRADE, PRODUCT, number, NOW), b"{}", NOW)
        waiting.feed(Event(Kind.BOOK_UPDATE, PRODUCT, time=NOW), b"{}", NOW)
    waiting.feed(Event(Kind.HEARTBEAT, PRODUCT, 1, NOW), b"{}", NOW + 1)
    bench = Bench()
    bench.feed(Kind.TRADE_SEED, held)
    waiting.hand_over(bench.streams, NOW + 2)
    assert bench.logs["trades"].seqs("frame") == list(range(held + 1, 105))
    assert not bench.logs["book"].of("frame")
    assert bench.streams.heard == NOW + 1
    assert not bench.wants


def test_what_came_long_ago_is_not_kept() -> None:
    waiting = WaitingStreams(PRODUCT)
    for second in range(8):
        at = NOW + second * SECOND
        waiting.feed(Event(Kind.TICKER, PRODUCT, 100 + second, at), b"{}", at)
    bench = Bench()
    waiting.hand_over(bench.streams, NOW)
    assert bench.logs["ticker"].seqs("frame") == list(range(102, 108))


def test_a_raw_record_names_what_stands_before_it() -> None:
    log = RawLog()
    key = StreamKey("coinbase", "trades", PRODUCT)
    writer = RawStreamWriter(key, "a", log.offer, epoch=5)
    writer.status("live", 1, "", 1)
    writer.frame(7, b"{}", 1)
    writer.status("quiet", 1, "", 1)
    writer.frame(8, b"{}", 1)
    writer.restart(6)
    writer.frame(3, b"{}", 1)
    places = [predecessor(raw_message(each)) for each in log.records]
    assert places == [None, Position(5, 0, 1), Position(5, 7, 0), Position(5, 7, 1), None]
    assert predecessor(Record(raw_subject(BEATS), b"", Position(1, 1))) is None
