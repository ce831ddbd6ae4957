"""When the gateway says that what it serves is old, and when it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.sharding import shard_of
from services.common.stream import Position, Record
from services.common.stream.memory.broker import MemoryBroker
from services.common.subjects import StreamKey, pulse_key, tick_subject
from services.common.wire import Pulse, StreamState, encode
from services.gateway.chain.freshness import Age, Pulses
from services.gateway.chain.replica import Replica
from services.gateway.chain.stream_condition import StreamCondition
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Budget, Window
from services.gateway.testing import Bench, Client, Market, Message, bench, eventually

MOST = 10_000_000
NOW = 1_800_000_000_000_000
KEY = StreamKey("coinbase", "ticker", "BTC-USD")

# ---------------------------------------------------------------------- the rules


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2 * NOW)), max_size=30))
def test_the_newest_pulse_counts_in_whatever_order_they_come_and_none_is_of_the_future(
    taken: list[tuple[str, int]],
) -> None:
    pulses = Pulses()
    for product, ts in taken:
        pulses.record("coinbase", [product], ts, NOW)
    for product in "ab":
        times = [min(ts, NOW) for name, ts in taken if name == product and ts > 0]
        assert pulses.of("coinbase", product) == (max(times) if times else None)
    assert pulses.of("other", "a") is None


@given(
    st.lists(st.integers(1, 3_000_000), min_size=1, max_size=50),
    st.integers(0, 1_000_000),
)
def test_with_pulses_a_quiet_stream_is_never_stale_and_without_them_it_becomes_so(
    steps: list[int], delay: int
) -> None:
    age, now = Age(MOST, NOW), NOW
    for step in steps:
        now += step
        # Nothing is recorded any more: `mark` and `ingested` stay.
        age.prove(now - delay, NOW, "mark", now)
        assert not age.judge(now)
        assert not age.stale
    heard = max(now - delay, NOW)
    for later in range(now, now + 2 * MOST, 1_000_000):
        age.prove(now - delay, NOW, "mark", later)
        changed = age.judge(later)
        assert age.stale == (later - heard > MOST)
        assert age.heard == heard
        if changed:
            assert age.since == later


def test_what_is_not_taken_makes_it_old_though_pulses_come() -> None:
    age = Age(MOST, NOW)
    age.prove(NOW, NOW, 1, NOW)
    # The chain waits for a refill: nothing is proven, whatever the pulses say.
    assert age.judge(NOW + MOST + 1)
    assert age.stale


def test_a_backlog_is_as_old_as_its_records() -> None:
    age = Age(MOST, NOW)
    age.prove(NOW - 60_000_000, NOW - 60_000_000, 1, NOW)
    assert age.judge(NOW)
    for mark in range(2, 60):
        age.prove(NOW - 60_000_000 + mark * 1_000_000, NOW - 55_000_000, mark, NOW + mark)
        age.judge(NOW + mark)
        assert age.stale == (NOW + mark - age.heard > MOST)
    assert not age.stale


def test_old_event_and_receive_times_of_a_recording_do_not_make_it_stale() -> None:
    replayed, old = Age(MOST, NOW), 1_500_000_000_000_000
    for second in range(30):
        now = NOW + second * 1_000_000
        replayed.prove(now, old + second, second, now)
        assert not replayed.judge(now)
    by_an_older_tool = Age(MOST, NOW)
    for second in range(30):
        now = NOW + second * 1_000_000
        by_an_older_tool.prove(None, old + second, second, now)
        assert not by_an_older_tool.judge(now)
    ended = NOW + 29_000_000 + MOST + 1
    by_an_older_tool.prove(None, old + 29, 29, ended)
    assert by_an_older_tool.judge(ended)


def test_records_that_come_are_enough_where_pulses_have_ended() -> None:
    age = Age(MOST, NOW)
    for second in range(60):
        now = NOW + second * 1_000_000
        age.prove(NOW, now, second, now)
        assert not age.judge(now)


def replica_of(*states: StreamState) -> Replica:
    market = Market(None)
    market.clock = lambda: NOW
    replica = Replica(KEY, Window(Budget(10**6), 10**6))
    replica.on_base(None)
    records = [market.tick(), *(market.status(state) for state in states)]
    replica.on_page([StreamRecord(record.payload) for record in records], "", at_head=True)
    return replica


def said(entry: StreamRecord | None) -> str | None:
    return None if entry is None else entry.payload.decode().split('"state":"')[1].split('"')[0]


@pytest.mark.parametrize("logged", ["live", "quiet", "resyncing", "stale", "down"])
def test_the_gateway_overrules_only_what_claims_to_be_current(logged: StreamState) -> None:
    condition = StreamCondition(KEY, 0, replica_of(logged), Age(MOST, NOW))
    grave = logged in ("stale", "down")
    assert condition.judge(NOW, NOW) is None
    assert condition.state == logged
    old = NOW + MOST + 1
    word = condition.judge(NOW, old)
    assert said(word) == (None if grave else "stale")
    assert condition.state == (logged if grave else "stale")
    assert condition.judge(NOW, old) is None
    back = condition.judge(old, old)
    assert said(back) == (None if grave else logged)
    assert condition.state == logged


def test_a_status_of_a_backlog_does_not_hide_that_it_is_old() -> None:
    replica = replica_of("live")
    condition = StreamCondition(KEY, 0, replica, Age(MOST, NOW))
    condition.judge(NOW, NOW)
    old = NOW + MOST + 1
    assert said(condition.judge(NOW, old)) == "stale"
    replica.status = replica_of("down").status
    assert condition.passed_on(old) is None
    replica.status = replica_of("live").status
    assert said(condition.passed_on(old)) == "stale"
    assert said(condition.judge(old, old)) == "live"


def test_a_chain_that_waits_for_what_is_missing_is_old_though_pulses_come() -> None:
    replica = replica_of("live")
    condition = StreamCondition(KEY, 0, replica, Age(MOST, NOW))
    assert condition.judge(NOW, NOW) is None
    # What came last does not follow: the log is asked, and has not answered yet.
    market = Market(None)
    market.tick()
    market.tick()
    replica.on_live([StreamRecord(market.tick().payload)])
    later = NOW + MOST + 1
    assert said(condition.judge(later, later)) == "stale"


# ---------------------------------------------------------------------- in the gateway


class Ward:
    """A gateway with a clock of the test's, and an ingestor's pulses as the normalizer passes them.

    A pulse names one product.
    """

    def __init__(self) -> None:
        self.now = NOW
        self.gateway: Bench

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        """The gateway serves while the block runs."""
        async with bench(MemoryBroker(), micros=lambda: self.now, **SETTINGS) as self.gateway:
            yield self.gateway

    async def market(self, product: str = "BTC-USD") -> Market:
        """A stream with a tick and a status, received now."""
        market = self.gateway.market(product)
        market.clock = lambda: self.now
        await market.publish(market.tick(), market.status())
        return market

    async def beat(self, *products: str) -> None:
        """What is heard of now; it has reached the gateway when this returns."""
        for product in products:
            shard = shard_of(product, self.gateway.gateway.settings.shard_count)
            pulse = Pulse(1, "coinbase", "line", shard, self.now, [product])
            subject = tick_subject(shard, pulse_key("coinbase", f"line-{product}"))
            record = Record(subject, encode(pulse), Position(1, self.now))
            await self.gateway.publisher.send(record)
        await self.gateway.publisher.flush()


SETTINGS: dict[str, Any] = {"stale_after_ms": MOST // 1000, "ws_heartbeat_ms": 100}
HOUR = 3_600_000_000


def by_gateway(message: Message) -> bool:
    return message["type"] == "status" and isinstance(message["evidence"], dict)


async def hears(client: Client, product: str, state: str) -> Message:
    """The gateway's next word on this product's ticker, which has to be this one."""
    message = await client.until(lambda m: by_gateway(m) and m["product"] == product)
    assert message["state"] == state
    assert message["evidence"]["by"] == "gateway"
    return message


async def subscribe(client: Client, *products: str, **more: object) -> None:
    await client.send(type="subscribe", products=list(products), **more)
    await client.of("subscribed")


async def test_subscribers_hear_once_that_it_is_old_and_once_that_it_goes_on() -> None:
    ward = Ward()
    async with ward.running() as gateway:
        market = await ward.market()
        await ward.beat("BTC-USD")
        async with (
            gateway.client() as full,
            gateway.client() as latest,
            httpx.AsyncClient(base_url=gateway.http) as http,
        ):
            await subscribe(full, "BTC-USD")
            await subscribe(latest, "BTC-USD", mode="latest")
            for client in (full, latest):
                assert (await client.of("status"))["state"] == "live"
            ward.now += MOST + 1
            for client in (full, latest):
                message = await hears(client, "BTC-USD", "stale")
                assert message["evidence"]["age_ms"] == MOST // 1000
                assert (message["epoch"], message["seq"]) == (market.epoch, market.seq)
            (stream,) = (await http.get("/v1/status")).json()["streams"]
            assert (stream["state"], stream["age_ms"]) == ("stale", MOST // 1000)
            snapshot = (await http.get("/v1/snapshot/BTC-USD")).json()
            assert snapshot["status"]["state"] == "stale"
            ready = await http.get("/readyz")
            assert (ready.status_code, "freshness" in ready.json()["degraded"]) == (200, True)
            metrics = (await http.get("/metrics")).text
            assert "md_ws_stale_streams 1.0" in metrics
            assert f'md_ws_data_age_seconds{{shard="{market.shard}"}}' in metrics
            # Somebody who comes now is told at once, and not what the log says.
            async with gateway.client() as late:
                await subscribe(late, "BTC-USD")
                assert by_gateway(await late.of("status"))
            await ward.beat("BTC-USD")
            for client in (full, latest):
                await hears(client, "BTC-USD", "live")
                assert sum(map(by_gateway, client.messages)) == 2
            snapshot = (await http.get("/v1/snapshot/BTC-USD")).json()
            assert snapshot["status"]["state"] == "live"


async def test_each_product_is_judged_by_its_own_ingestor() -> None:
    ward = Ward()
    async with ward.running() as gateway:
        products = ("BTC-USD", "ETH-USD")
        for product in products:
            await ward.market(product)
        await ward.beat(*products)
        async with gateway.client() as client:
            await subscribe(client, *products)
            for _ in range(4):
                ward.now += MOST // 3
                await ward.beat("ETH-USD")
            await hears(client, "BTC-USD", "stale")
            # Whatever would be said of the other has been said after so many looks at it.
            for _ in range(20):
                await client.of("hb")
            assert {m["product"] for m in client.messages if by_gateway(m)} == {"BTC-USD"}


async def test_records_that_come_say_more_than_an_old_pulse() -> None:
    ward = Ward()
    async with ward.running() as gateway:
        await ward.beat("BTC-USD")
        ward.now += HOUR
        await ward.market()
        async with gateway.client() as client:
            await subscribe(client, "BTC-USD")
            assert (await client.of("status"))["state"] == "live"


@pytest.mark.parametrize("more", [{}, {"from_seq": 0}, {"mode": "latest"}], ids=str)
async def test_a_gateway_that_comes_later_says_so_at_once(more: dict[str, object]) -> None:
    ward = Ward()
    async with ward.running() as gateway:
        market = await ward.market()
        await ward.beat("BTC-USD")
        ward.now += HOUR
        async with gateway.client() as client:
            await subscribe(client, "BTC-USD", **more)
            if "from_seq" in more:
                # The log's own statuses are read on the way.
                await client.until(lambda m: m["type"] == "backfill" and m["state"] == "end")
                assert by_gateway(await client.of("status"))
            await client.reach(market)
            told = [m for m in client.messages if m["type"] == "status"]
            assert (by_gateway(told[-1]), told[-1]["state"]) == (True, "stale")
            assert told[-1]["evidence"]["age_ms"] == HOUR // 1000


async def test_what_goes_on_while_a_client_catches_up_is_told_when_it_is_done() -> None:
    ward = Ward()
    async with ward.running() as gateway:
        market = await ward.market()
        await ward.beat("BTC-USD")
        ward.now += HOUR
        hold = gateway.gateway.parts.streams.acquire(market.key)
        feed = hold.feed
        await feed.ready.wait()
        feed.judge()
        assert feed.condition.state == "stale"
        assert feed.news(ago_s=0) is not None
        ward.now += 1_000_000
        await ward.beat("BTC-USD")
        await eventually(lambda: feed.condition.state == "live")
        ward.now += 1_000_000
        assert feed.news(ago_s=5) is not None
        assert feed.news(ago_s=0) is None
        hold.release()


async def test_pulses_are_neither_products_nor_streams_and_cannot_be_subscribed_to() -> None:
    ward = Ward()
    async with (
        ward.running() as gateway,
        httpx.AsyncClient(base_url=gateway.http) as http,
        gateway.client() as client,
    ):
        await ward.market()
        await ward.beat("BTC-USD")
        listed = (await http.get("/v1/products")).json()["products"]
        assert listed == [{"product": "BTC-USD", "channels": ["ticker"]}]
        assert [one["channel"] for one in (await http.get("/v1/streams")).json()] == ["ticker"]
        await client.send(type="subscribe", product="line-BTC-USD", channel="pulse")
        (result,) = (await client.of("subscribed"))["results"]
        assert not result["ok"]


async def test_a_pulse_that_cannot_be_read_is_passed_over() -> None:
    ward = Ward()
    async with ward.running() as gateway:
        market = await ward.market()
        async with gateway.client() as client:
            await subscribe(client, "BTC-USD")
            subject = tick_subject(market.shard, pulse_key("coinbase", "line"))
            await gateway.publisher.send(Record(subject, b"no pulse", Position(1, 1)))
            await market.ticks(1)
            await client.reach(market)
