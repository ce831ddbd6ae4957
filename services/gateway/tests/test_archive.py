"""`from_seq` beyond the log: archive, log, window and live records are one chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.stores.ports import LatestRow
from services.common.stream import Position
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.gateway.testing import Bench, Client, Market, Rows, bench, eventually

MINUTE_US = 60_000_000


@dataclass
class Place:
    """A gateway whose log keeps 30 minutes, and whose archive keeps what the test puts there."""

    gateway: Bench
    rows: Rows
    market: Market
    now: list[float]

    def archive(self) -> None:
        """Archive all that was published so far, and write the stream's row."""
        market = self.market
        self.rows.archived[market.key] = list(market.records)
        at = Position(market.epoch, market.chain[-1])
        row = LatestRow(market.key, at, "", market.shard, 0, b'{"volume_30d":"1"}')
        self.rows.rows[market.key] = row

    async def expire(self) -> None:
        """Let the log forget all it holds, and the gateway its memory of it."""
        self.now[0] += 3600
        await eventually(lambda: not self.gateway.gateway.parts.streams.feeds)

    async def follow(self, client: Client, from_seq: int, **more: Any) -> dict[str, Any]:
        await client.send(type="subscribe", product="BTC-USD", from_seq=from_seq, **more)
        result: dict[str, Any] = (await client.of("subscribed"))["results"][0]
        return result


@asynccontextmanager
async def a_place(**more: Any) -> AsyncIterator[Place]:
    now = [0.0]
    rows = Rows()
    broker = MemoryBroker(MemoryServer(clock=lambda: now[0]))
    options = {
        "backfill_max_minutes": 120,
        "window_bytes": 4000,
        "js_retention_minutes": 30,
        "stream_linger_s": 0.02,
        "ws_queue_bytes": 20_000,
        **more,
    }
    async with bench(broker, rows=rows, **options) as gateway:
        yield Place(gateway, rows, gateway.market(), now)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with a_place() as found:
        yield found


async def test_archive_log_window_and_live_records_are_one_chain(place: Place) -> None:
    market = place.market
    await market.ticks(700)
    await market.publish(market.status("stale"), market.status())
    await market.ticks(1)
    place.archive()
    await place.expire()
    await market.ticks(300)
    async with place.gateway.client() as client:
        async with asyncio.TaskGroup() as group:
            result = await place.follow(client, market.chain[9])
            group.create_task(market.ticks(100))
            await client.reach(market)
        await market.ticks(5)
        await client.reach(market)
    assert (result["start"], result.get("warning")) == ("backfill", None)
    assert client.seen[str(market.key)] == market.chain[10:]
    assert client.breaks == []
    assert "snapshot" not in client.types()
    assert client.types().count("status") >= 2


async def test_what_the_archive_and_the_log_both_hold_comes_once(place: Place) -> None:
    market = place.market
    await market.ticks(50)
    await place.expire()
    await market.ticks(50)
    place.archive()
    async with place.gateway.client() as client:
        await place.follow(client, market.chain[0])
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain[1:]
    assert client.breaks == []


async def test_a_log_that_forgot_all_of_a_stream_is_replaced_by_the_archive(place: Place) -> None:
    market = place.market
    await market.ticks(40)
    place.archive()
    await place.expire()
    # A status only: it proves that there were ticks that nobody was sent.
    await market.publish(market.status("quiet"))
    async with place.gateway.client() as client:
        await place.follow(client, 0)
        begin = await client.of("backfill")
        assert begin["complete"]
        await market.ticks(3)
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain
    assert client.breaks == []


async def test_zero_is_the_oldest_record_that_is_not_too_old(place: Place) -> None:
    market = place.market
    real = market.clock
    market.clock = lambda: real() - 121 * MINUTE_US
    await market.ticks(20)
    market.clock = lambda: real() - 119 * MINUTE_US
    await market.ticks(20)
    place.archive()
    await place.expire()
    market.clock = real
    await market.ticks(20)
    chain = market.chain
    async with place.gateway.client() as client:
        await place.follow(client, 0)
        begin = await client.of("backfill")
        end = await client.of("backfill")
        for message in (begin, end):
            assert (message["complete"], message["from"]) == (False, 0)
            warning = message["warning"]
            assert (warning["code"], warning["cause"]) == (4001, "age")
            assert (warning["oldest_seq"], warning["max_minutes"]) == (chain[20], 120)
        await client.reach(market)
        await place.follow(client, chain[18], on_unrecoverable="error")
        error = await client.of("error")
        assert (error["code"], error["oldest_seq"]) == (4001, chain[20])
    assert client.seen[str(market.key)] == chain[20:]


async def test_all_that_is_retained_is_complete_though_the_first_record_is_gone(
    place: Place,
) -> None:
    market = place.market
    await market.ticks(20)
    await place.expire()
    await market.ticks(20)
    place.rows.archived[market.key] = list(market.records)[10:]
    async with place.gateway.client() as client:
        result = await place.follow(client, 0)
        assert "warning" not in result
        begin, end = [await client.of("backfill") for _ in range(2)]
    assert (begin["from"], begin["complete"]) == (0, True)
    assert (end["from"], end["complete"], end["count"]) == (0, True, 30)
    assert "warning" not in end
    assert client.seen[str(market.key)] == market.chain[10:]


async def test_what_the_archive_holds_beyond_the_limit_is_left_out_and_that_is_said(
    place: Place,
) -> None:
    market = place.market
    real = market.clock
    market.clock = lambda: real() - 121 * MINUTE_US
    await market.ticks(20)
    place.archive()
    await place.expire()
    market.clock = real
    await market.publish(market.status("quiet"))
    async with place.gateway.client() as client:
        result = await place.follow(client, 0)
        begin, end = [await client.of("backfill") for _ in range(2)]
        assert result["warning"] == begin["warning"] == end["warning"]
        assert (end["complete"], end["count"], end["from"]) == (False, 0, 0)
        assert end["warning"]["cause"] == "age"


async def test_without_an_answer_of_the_archive_nobody_says_complete(place: Place) -> None:
    market = place.market
    await market.ticks(20)
    place.archive()
    await place.expire()
    await market.ticks(20)
    place.rows.away = True
    async with place.gateway.client() as client:
        await place.follow(client, 0)
        begin, end = [await client.of("backfill") for _ in range(2)]
    for message in (begin, end):
        assert (message["complete"], message["from"]) == (False, 0)
        assert (message["warning"]["code"], message["warning"]["cause"]) == (6001, "archive")
        assert message["warning"]["oldest_seq"] == market.chain[20]


async def test_the_archive_is_not_asked_for_what_is_too_old_anyway() -> None:
    async with a_place(backfill_max_minutes=15) as place:
        market = place.market
        real = market.clock
        market.clock = lambda: real() - 20 * MINUTE_US
        await market.ticks(20)
        place.archive()
        await place.expire()
        await market.ticks(20)
        async with place.gateway.client() as client:
            result = await place.follow(client, market.chain[2])
            assert result["warning"]["code"] == 4001
    assert place.rows.asked == 0


async def test_an_archive_that_does_not_answer_is_told_and_can_be_asked_again(
    place: Place,
) -> None:
    market = place.market
    await market.ticks(20)
    place.archive()
    await place.expire()
    await market.ticks(20)
    place.rows.away = True
    async with place.gateway.client() as client:
        result = await place.follow(client, market.chain[2], on_unrecoverable="error")
        assert (result["ok"], result["error"]["code"]) == (False, 6001)
        assert "archive" in place.gateway.gateway.health.report()["degraded"]
        result = await place.follow(client, market.chain[2])
        assert result["warning"]["code"] == 6001
        await client.of("snapshot")
        place.rows.away = False
        await place.follow(client, market.chain[2])
        await client.of("backfill")
        await client.reach(market)
    assert client.seen[str(market.key)] == market.chain[3:]
    assert "archive" not in place.gateway.gateway.health.report()["degraded"]


async def test_a_hole_between_archive_and_log_is_announced_with_its_range(place: Place) -> None:
    market = place.market
    await market.ticks(20)
    place.archive()
    await market.ticks(20)
    await place.expire()
    await market.ticks(20)
    chain = market.chain
    async with place.gateway.client() as client:
        await place.follow(client, chain[4])
        reset = await client.of("reset")
        assert (reset["cause"], reset["repair"]) == ("retention", "snapshot")
        assert reset["missed"] == {"from": chain[19] + 1, "to": chain[59]}
        assert (await client.of("snapshot"))["reason"] == "catch_up"
        await market.ticks(3)
        await client.reach(market)
    seen = [seq for seq in client.seen[str(market.key)] if seq != chain[59]]
    assert seen == chain[5:20] + market.chain[60:]
    assert client.breaks == []


async def test_a_slow_client_whose_place_expired_goes_on_from_the_archive() -> None:
    async with a_place(stream_linger_s=5, js_retention_minutes=30) as place:
        market = Market(place.gateway.publisher, padding=2000)
        place.market = market
        await market.ticks(3)
        first = market.chain[-1]
        async with place.gateway.client(max_queue=1) as client:
            await client.send(type="subscribe", product="BTC-USD")
            await client.of("snapshot")
            (session,) = place.gateway.gateway.sessions
            subscription, _feed = session.subscriptions.by_stream[market.key]

            def far_behind() -> bool:
                """Whether what it has, and what was read for it, ends far before the head.

                What was read for it comes from memory, whatever the log forgets meanwhile.
                """
                catching = subscription.catching
                if catching is None or catching.reading:
                    return False
                last = catching.page[-1].position if catching.page else catching.position
                assert market.seq is not None
                return last.seq < market.seq - 700

            # However much the kernel takes for a client that does not read.
            while not far_behind():
                await market.ticks(100)
            place.archive()
            place.now[0] += 3600
            await market.ticks(20)
            await client.reach(market)
            await client.until(lambda m: m["type"] == "mode" and m["reason"] == "recovered")
        chain = market.chain
    assert place.rows.asked
    assert client.seen[str(market.key)] == chain[chain.index(first) + 1 :]
    assert "reset" not in client.types()
    assert client.breaks == []


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=st.lists(
        st.sampled_from(["ticks", "ticks", "status", "reset", "archive", "expire"]),
        min_size=2,
        max_size=12,
    ),
    start=st.integers(0, 400),
    live=st.integers(0, 60),
)
async def test_wherever_the_parts_begin_and_end_nothing_is_missing_or_doubled(
    parts: list[str], start: int, live: int
) -> None:
    async with a_place() as place:
        market = place.market
        await market.ticks(3)
        for part in parts:
            if part == "ticks":
                await market.ticks(60)
            elif part == "status":
                await market.publish(market.status("quiet"), market.status())
            elif part == "reset":
                await market.publish(market.reset({"volume_30d": "5"}))
            elif part == "archive":
                place.archive()
            else:
                # As in the field: nothing expires that was not archived long before.
                place.archive()
                await place.expire()
        await market.ticks(1)
        chain = market.chain
        held = chain[start % len(chain)]
        async with place.gateway.client() as client:
            async with asyncio.TaskGroup() as group:
                group.create_task(market.ticks(live))
                await place.follow(client, held)
            await market.ticks(1)
            await client.reach(market)
        assert client.seen[str(market.key)] == market.chain[start % len(chain) + 1 :]
        assert client.breaks == []
        assert [
            m for m in client.messages if m["type"] == "snapshot" and m["reason"] != "reset"
        ] == []
