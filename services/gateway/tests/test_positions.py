"""`from_seq`: from the window, from the log, and where it cannot be served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest
from prometheus_client import Counter

from services.common.stores.ports import Checkpoint, LatestRow
from services.common.stream import Position
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.gateway.testing import EPOCH, Bench, Market, Rows, bench, eventually


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker(), backfill_max_minutes=60) as running:
        yield running


async def test_from_the_window_each_tick_comes_once_and_then_live_ones(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(30)
    chain = market.chain
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=chain[9])
        subscribed = await client.of("subscribed")
        assert subscribed["results"][0]["start"] == "backfill"
        begin = await client.of("backfill")
        assert (begin["state"], begin["from"], begin["to"]) == ("begin", chain[9], chain[29])
        end = await client.of("backfill")
        assert (end["state"], end["count"], end["complete"]) == ("end", 20, True)
        await market.ticks(5)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain[10:]
    assert "snapshot" not in client.types()
    assert client.breaks == []


async def test_from_the_log_when_the_window_is_too_small() -> None:
    async with bench(MemoryBroker(), window_bytes=4000) as gateway:
        market = gateway.market()
        await market.ticks(1500)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[0])
            await client.reach(market)
            await market.ticks(5)
            await client.reach(market)
    assert client.seen[str(market.key)] == market.chain[1:]
    assert client.breaks == []


async def test_ticks_published_during_a_backfill_are_neither_lost_nor_doubled() -> None:
    async with bench(MemoryBroker(), window_bytes=20_000) as gateway:
        market = gateway.market()
        await market.ticks(2000)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=0)
            await client.of("backfill")
            for _ in range(50):
                await market.ticks(20)
                await client.receive()
            await client.reach(market)
    assert client.seen[str(market.key)] == market.chain
    assert client.breaks == []


async def test_the_head_itself_means_start_live(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(3)
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=market.seq)
        begin = await client.of("backfill")
        end = await client.of("backfill")
        assert (begin["state"], end["state"], end["count"]) == ("begin", "end", 0)
        await market.ticks(1)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain[-1:]


async def test_zero_is_the_oldest_retained(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(12)
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=0)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain


async def test_a_cursor_stands_for_epoch_and_seq(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(12)
    cursor = f"{EPOCH}.{market.chain[3]}"
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"], cursor=cursor)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain[4:]


@pytest.mark.parametrize(
    ("position", "code"),
    [({"from_seq": 10**9}, 4002), ({"from_seq": 107, "epoch": 5}, 4000)],
)
async def test_positions_of_another_future_or_epoch_are_errors_where_asked_for(
    gateway: Bench, position: dict[str, int], code: int
) -> None:
    market = gateway.market()
    await market.ticks(12)
    async with gateway.client() as client:
        await client.send(
            type="subscribe", id=1, products=["BTC-USD"], on_unrecoverable="error", **position
        )
        subscribed = await client.of("subscribed")
        assert subscribed["results"][0]["error"]["code"] == code
        error = await client.of("error")
        assert (error["code"], error["stream"], error["id"]) == (code, str(market.key), 1)


async def test_positions_that_cannot_be_served_give_a_snapshot_otherwise(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(12)
    async with gateway.client() as client:
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=10**9)
        subscribed = await client.of("subscribed")
        assert subscribed["results"][0]["start"] == "snapshot"
        snapshot = await client.of("snapshot")
        assert snapshot["reason"] == "catch_up"
        await market.ticks(2)
        await client.reach(market)
    assert client.breaks == []


async def test_a_position_that_this_gateway_has_yet_to_see_is_waited_for(gateway: Bench) -> None:
    market = gateway.market()
    await market.ticks(3)
    async with gateway.client() as early, gateway.client() as client:
        await early.send(type="subscribe", products=["BTC-USD"])
        await early.of("snapshot")
        feed = gateway.gateway.parts.streams.feeds[market.key]
        # What another gateway has sent already, and this one is about to see.
        records = [market.tick(), market.tick()]
        await client.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[3])
        await eventually(lambda: feed.interest == 2)
        await market.publish(*records)
        await market.ticks(1)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain[4:]
    assert "snapshot" not in client.types()


async def test_one_piece_is_handed_out_in_a_turn_however_many_catch_up() -> None:
    async with bench(MemoryBroker()) as gateway, AsyncExitStack() as stack:
        market = gateway.market()
        await market.ticks(1200)
        first, *clients = [await stack.enter_async_context(gateway.client()) for _ in range(5)]
        await first.send(type="subscribe", products=["BTC-USD"])
        await first.of("snapshot")
        feed = gateway.gateway.parts.streams.feeds[market.key]
        largest, position = 0, Position(0, 0)
        while (piece := feed.replica.window.run_after(position)) is not None:
            largest, position = max(largest, len(piece.records)), piece.records[-1].position
        given = gateway.gateway.metrics.backfill_ticks.labels("coinbase", "ticker")
        before = most = 0.0

        async def watch() -> None:
            nonlocal before, most
            before = _value(given)
            while True:
                await asyncio.sleep(0)
                now = _value(given)
                before, most = now, max(most, now - before)

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            for client in clients:
                await client.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[0])
            for client in clients:
                await client.reach(market)
            watching.cancel()
        assert 0 < most <= largest < 1000
    assert all(client.breaks == [] for client in clients)


def _value(counter: Counter) -> float:
    [family] = counter.collect()
    return family.samples[0].value


async def ticks_of_long_ago(market: Market) -> None:
    """Forty, an hour old; those after them are of now."""
    clock, then = market.clock, time.time_ns() // 1000 - 3_600_000_000
    market.clock = lambda: then
    await market.ticks(40)
    market.clock = clock


async def test_too_old_by_age_names_the_oldest_seq() -> None:
    async with bench(MemoryBroker(), backfill_max_minutes=10) as gateway:
        market = gateway.market()
        await ticks_of_long_ago(market)
        await market.ticks(10)
        chain = market.chain
        async with gateway.client() as client:
            await client.send(
                type="subscribe",
                products=["BTC-USD"],
                from_seq=chain[5],
                on_unrecoverable="error",
            )
            error = await client.of("error")
            assert (error["code"], error["oldest_seq"]) == (4001, chain[40])
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=chain[39])
            await client.reach(market)
        assert client.seen[str(market.key)] == chain[40:]


async def test_from_the_beginning_says_what_the_limit_left_out() -> None:
    async with bench(MemoryBroker(), backfill_max_minutes=10) as gateway:
        market = gateway.market()
        await ticks_of_long_ago(market)
        await market.ticks(10)
        chain = market.chain
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=0)
            result = (await client.of("subscribed"))["results"][0]
            begin, end = [await client.of("backfill") for _ in range(2)]
            await client.reach(market)
    warning = result["warning"]
    assert (warning["code"], warning["cause"], warning["max_minutes"]) == (4001, "age", 10)
    assert warning["oldest_seq"] == chain[40]
    assert begin["warning"] == end["warning"] == warning
    assert (begin["from"], begin["to"], begin["complete"]) == (0, chain[-1], False)
    assert (end["from"], end["count"], end["complete"]) == (0, 10, False)
    assert client.seen[str(market.key)] == chain[40:]


async def test_from_the_beginning_with_all_too_old_gives_nothing_and_is_not_complete() -> None:
    async with bench(MemoryBroker(), backfill_max_minutes=10) as gateway:
        market = gateway.market()
        await ticks_of_long_ago(market)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=0)
            begin, end = [await client.of("backfill") for _ in range(2)]
    assert (begin["from"], begin["complete"]) == (0, False)
    assert (end["from"], end["count"], end["complete"]) == (0, 0, False)
    assert (end["warning"]["cause"], end["warning"]["oldest_seq"]) == ("age", None)


async def test_too_old_by_retention() -> None:
    now = [0.0]
    broker = MemoryBroker(MemoryServer(clock=lambda: now[0]))
    async with bench(broker, js_retention_minutes=30) as gateway:
        market = gateway.market()
        await market.ticks(10)
        now[0] += 3600
        await market.ticks(5)
        chain = market.chain
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=chain[3])
            result = (await client.of("subscribed"))["results"][0]
            assert (result["warning"]["code"], result["start"]) == (4001, "snapshot")
            assert result["warning"]["oldest_seq"] in chain[10:]
            await client.of("snapshot")
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=chain[9])
            await client.reach(market)
        assert client.breaks == []


async def test_a_stored_row_is_the_base_and_the_log_goes_on_from_it() -> None:
    rows = Rows()
    broker = MemoryBroker()
    async with bench(broker, rows=rows) as gateway:
        market = gateway.market()
        await market.ticks(10)
        messages = (await broker.read(market.subject)).messages
        row = messages[6]
        rows.rows[market.key] = LatestRow(
            market.key,
            Position(market.epoch, market.chain[6]),
            row.cursor,
            market.shard,
            0,
            b'{"volume_30d":"77"}',
        )
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            snapshot = await client.of("snapshot")
            assert snapshot["snapshot"]["seq"] == market.seq
            feed = gateway.gateway.parts.streams.feeds[market.key]
            assert feed.replica.window.start == Position(market.epoch, market.chain[6])
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[1])
            await client.of("backfill")
            await client.of("backfill")
        assert client.seen[str(market.key)] == market.chain[2:]


async def test_without_the_stores_the_log_alone_serves_and_the_reason_is_shown() -> None:
    rows = Rows()
    rows.away = True
    async with bench(MemoryBroker(), rows=rows) as gateway:
        market = gateway.market()
        await market.ticks(10)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            snapshot = await client.of("snapshot")
            assert snapshot["snapshot"]["seq"] == market.seq
        report = gateway.gateway.health.report()
        assert report["ready"]
        assert "away" in report["degraded"]["stores"]["reason"]


async def test_a_book_begins_with_its_checkpoint_and_the_log_after_it() -> None:
    rows = Rows()
    broker = MemoryBroker()
    async with bench(broker, rows=rows) as gateway:
        market = gateway.market(channel="book")
        await market.ticks(10)
        place = (await broker.read(market.subject)).messages[4]
        at = Position(market.epoch, market.chain[4])
        whole = {"bids": [["7", "7"]], "asks": []}
        rows.rows[market.key] = LatestRow(
            market.key, at, place.cursor, market.shard, 0, b"{}", checkpoint="one"
        )
        rows.checkpoints["one"] = Checkpoint(
            market.key, at, place.cursor, market.shard, 0, msgspec.json.encode(whole)
        )
        async with gateway.client() as client:
            await client.send(type="subscribe", product="BTC-USD", channel="book")
            snapshot = await client.of("snapshot")
            assert snapshot["snapshot"]["seq"] == market.seq
            assert ["7", "7"] in snapshot["snapshot"]["state"]["bids"]
            await market.ticks(3)
            await client.reach(market)
        assert client.breaks == []


async def test_a_book_that_begins_in_the_middle_is_refused_until_a_reset_brings_its_state() -> None:
    broker = MemoryBroker()
    async with bench(broker) as gateway:
        market = gateway.market(channel="book")
        market.tick()
        await market.ticks(3)
        async with gateway.client() as client:
            await client.send(type="subscribe", product="BTC-USD", channel="book")
            result = (await client.of("subscribed"))["results"][0]
            assert result["error"]["code"] == 6001
            await market.publish(market.reset({"bids": [], "asks": []}))
            ok = False
            while not ok:
                await client.send(type="subscribe", product="BTC-USD", channel="book")
                ok = (await client.of("subscribed"))["results"][0]["ok"]
            await client.of("snapshot")
