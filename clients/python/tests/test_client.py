"""The client on a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal
from typing import Any

import pytest
from market_data_conformance.proxy import BreakingProxy, SlowProxy
from market_data_fanout_client import (
    AnyEvent,
    Backfill,
    Client,
    Connected,
    Disconnected,
    Late,
    NotSubscribed,
    Refused,
    Snapshot,
    Status,
    StreamError,
    Subscribed,
    SyncClient,
    Tick,
    Unreachable,
)

from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.wire import Missed
from services.gateway.testing import Bench, Market, bench, under_load
from services.gateway.websocket.rfc6455.frames import text_frame
from tools.embedded import free_port


def url(gateway: Bench) -> str:
    return f"ws://127.0.0.1:{gateway.port}/ws"


async def until[E](client: Client, kind: type[E]) -> E:
    async for event in client:
        if isinstance(event, kind):
            return event
    raise AssertionError("the client ended")


async def reach(client: Client, market: Market, seen: list[AnyEvent]) -> None:
    """Iterate until the market's newest record is held."""
    async with asyncio.timeout(60):
        while client.position(market.key.product, market.key.channel) != (  # type: ignore[arg-type]  # a channel's name
            market.epoch,
            market.seq,
        ):
            seen.append(await anext(client))


def ticks(seen: list[AnyEvent]) -> list[int]:
    return [event.seq for event in seen if isinstance(event, Tick)]


async def test_what_is_held_is_known_to_be_old_on_a_dead_line_and_fresh_again_after_it() -> None:
    async with bench(MemoryBroker()) as gateway, SlowProxy(gateway.port) as line:
        await gateway.market().ticks(3)
        async with Client(f"ws://127.0.0.1:{line.port}/ws", reconnect_spread_s=0.05) as client:
            with pytest.raises(NotSubscribed):
                client.freshness("BTC-USD")
            await client.subscribe("BTC-USD")
            assert client.freshness("BTC-USD").state == "offline"
            await until(client, Snapshot)
            while not client.freshness("BTC-USD").fresh:
                await anext(client)
            line.dead = True
            lost = await until(client, Disconnected)
            assert lost.reason == "nothing was heard for 3 s"
            held = client.freshness("BTC-USD")
            assert (held.state, held.fresh) == ("offline", False)
            assert held.as_of is not None
            line.dead = False
            await until(client, Subscribed)
            await until(client, Backfill)
            await until(client, Backfill)
            assert client.freshness("BTC-USD").state in ("live", "stale")


async def test_who_is_not_reached_in_so_many_attempts_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Client(
        f"ws://127.0.0.1:{free_port()}/ws", max_attempts=2, max_backoff_s=0.01
    ) as client:
        lost = await until(client, Disconnected)
        assert lost.attempts == 1
        with pytest.raises(Unreachable, match="not reached in 2 attempts") as caught:
            await anext(client)
    assert caught.value.attempts == 2
    assert "no connection to ws://127.0.0.1" in caplog.text


async def test_attempts_are_counted_anew_after_a_connection_of_use() -> None:
    async with bench(MemoryBroker()) as gateway, SlowProxy(gateway.port) as line:
        await gateway.market().ticks(1)
        address = f"ws://127.0.0.1:{line.port}/ws"
        async with Client(
            address, max_attempts=1, max_backoff_s=0.05, reconnect_spread_s=0.01
        ) as client:
            await client.subscribe("BTC-USD")
            for _ in range(3):
                await until(client, Subscribed)
                assert client._socket is not None
                client._socket.transport.abort()
                assert (await until(client, Disconnected)).attempts == 0


async def test_a_path_where_no_gateway_is_is_refused_at_once() -> None:
    async with (
        bench(MemoryBroker()) as gateway,
        Client(f"ws://127.0.0.1:{gateway.port}/nowhere") as client,
    ):
        with pytest.raises(Refused) as caught:
            await anext(client)
    assert caught.value.code == 404


async def test_what_a_backfill_leaves_out_is_handed_over() -> None:
    async with bench(MemoryBroker(), backfill_max_minutes=10) as gateway:
        market = gateway.market()
        now = market.clock()
        market.clock = lambda: now - 3_600_000_000
        await market.ticks(5)
        market.clock = lambda: now
        await market.ticks(5)
        async with Client(url(gateway)) as client:
            await client.subscribe("BTC-USD", from_seq=0)
            subscribed = await until(client, Subscribed)
            begin, end = [await until(client, Backfill) for _ in range(2)]
    assert (end.state, end.first, end.count, end.complete) == ("end", 0, 5, False)
    assert end.warning is not None
    assert (end.warning["cause"], end.warning["oldest_seq"]) == ("age", market.chain[5])
    assert begin.warning == end.warning == subscribed.warning


async def test_a_subscription_gives_snapshot_then_verified_typed_ticks() -> None:
    async with bench(MemoryBroker()) as gateway, Client(url(gateway)) as client:
        market = gateway.market()
        await market.ticks(3)
        await client.subscribe("BTC-USD")
        seen: list[AnyEvent] = []
        await reach(client, market, seen)
        await market.ticks(4)
        await reach(client, market, seen)
        snapshot = next(event for event in seen if isinstance(event, Snapshot))
        assert snapshot.fields.last_trade is not None
        assert ticks(seen) == market.chain[3:]
        tick = seen[-1]
        assert isinstance(tick, Tick)
        assert tick.fields.last_trade is not None
        assert tick.fields.last_trade.price == f"{market.seq}.5"
        assert tick.stream == "coinbase:ticker:BTC-USD"


async def test_compressed_messages_are_read_like_others() -> None:
    async with (
        bench(MemoryBroker(), gateway_compression=True) as gateway,
        Client(url(gateway), compression=True) as client,
    ):
        market = gateway.market()
        await market.ticks(30)
        await client.subscribe("BTC-USD", from_seq=0)
        seen: list[AnyEvent] = []
        await reach(client, market, seen)
        await market.ticks(30)
        await reach(client, market, seen)
        assert ticks(seen) == market.chain
        (session,) = gateway.gateway.sessions
        plain = text_frame(b"the same again and " * 20)
        assert len(session.encoding.encode([plain])) < len(plain), "it was agreed on"


async def test_from_seq_0_gives_everything_retained_and_a_stored_position_goes_on() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.ticks(20)
        seen: list[AnyEvent] = []
        async with Client(url(gateway)) as client:
            await client.subscribe("BTC-USD", from_seq=0)
            await reach(client, market, seen)
            position = client.position("BTC-USD")
        assert ticks(seen) == market.chain
        await market.ticks(5)
        assert position is not None
        async with Client(url(gateway)) as later:
            await later.subscribe("BTC-USD", from_seq=position[1], epoch=position[0])
            await reach(later, market, seen)
        assert ticks(seen) == market.chain


@pytest.mark.parametrize(
    ("mean_s", "mean_bytes"), [(0.02, None), (None, 20_000)], ids=["by-time", "by-bytes"]
)
@pytest.mark.parametrize("channel", ["ticker", "book"])
async def test_100_reconnects_at_random_points_under_load_give_every_tick_once_in_order(
    channel: str, mean_s: float | None, mean_bytes: float | None
) -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(channel=channel)
        await market.publish(market.reset({"bids": [["1", "1"]], "asks": [["500", "1"]]}))
        first = market.seq
        async with BreakingProxy(gateway.port, mean_s=mean_s, mean_bytes=mean_bytes) as proxy:
            seen: list[AnyEvent] = []
            async with Client(f"ws://127.0.0.1:{proxy.port}/ws", max_backoff_s=0.05) as client:
                await client.subscribe("BTC-USD", channel=channel, from_seq=0)  # type: ignore[arg-type]  # a channel's name
                async with under_load(market, every_s=0.002, ticks=5):
                    while client.connections <= 100:
                        seen.append(await anext(client))
                await reach(client, market, seen)
                if channel == "book":
                    book = client.book("BTC-USD")
                    best = max(seq % 100 + 1 for seq in market.chain[1:])
                    assert book.valid
                    assert book.best_bid is not None
                    assert Decimal(book.best_bid.price) == best
                    assert book.best_ask is not None
                    assert book.best_ask.size == str(market.seq)
        assert first == market.chain[0]
        assert ticks(seen) == market.chain[1:]


async def test_a_gateway_that_restarts_is_followed_without_loss() -> None:
    server, port = MemoryServer(), free_port()
    seen: list[AnyEvent] = []
    async with Client(f"ws://127.0.0.1:{port}/ws", max_backoff_s=0.1) as client:
        await client.subscribe("BTC-USD", from_seq=0)
        async with bench(MemoryBroker(server), http_port=port, drain_seconds=0.2) as gateway:
            market = gateway.market()
            await market.ticks(3)
            await reach(client, market, seen)
            async with asyncio.TaskGroup() as group:
                group.create_task(gateway.gateway.drain())
                lost = await until(client, Disconnected)
            assert "1012" in lost.reason
            await market.ticks(3)
        async with bench(MemoryBroker(server), http_port=port) as gateway:
            again = gateway.market()
            again.seq = market.seq
            await again.ticks(3)
            await reach(client, again, seen)
    assert ticks(seen) == market.chain + again.chain


async def test_one_bad_product_is_told_and_the_others_go_on() -> None:
    async with bench(MemoryBroker()) as gateway, Client(url(gateway)) as client:
        await gateway.market().ticks(1)
        await client.subscribe("NO-SUCH", "BTC-USD")
        error = await until(client, StreamError)
        assert (error.product, error.code) == ("NO-SUCH", 3000)
        snapshot = await until(client, Snapshot)
        assert snapshot.product == "BTC-USD"


async def test_a_wrong_key_is_refused_and_not_tried_again() -> None:
    async with bench(MemoryBroker(), auth_api_keys="right") as gateway:
        async with Client(url(gateway), api_key="wrong") as client:
            await client.subscribe("BTC-USD")
            with pytest.raises(Refused):
                await until(client, Snapshot)
        async with Client(url(gateway), api_key="right") as client:
            await gateway.market().ticks(1)
            await client.subscribe("BTC-USD")
            await until(client, Snapshot)


async def test_after_unsubscribe_nothing_of_the_stream_is_handed_out() -> None:
    async with bench(MemoryBroker()) as gateway, Client(url(gateway)) as client:
        bitcoin, ether = gateway.market(), gateway.market("ETH-USD")
        await bitcoin.ticks(1)
        await ether.ticks(1)
        await client.subscribe("BTC-USD", "ETH-USD")
        seen: list[AnyEvent] = []
        await reach(client, bitcoin, seen)
        await reach(client, ether, seen)
        await client.unsubscribe("BTC-USD")
        seen.clear()
        await bitcoin.ticks(5)
        await ether.ticks(5)
        await reach(client, ether, seen)
        assert {event.product for event in seen if isinstance(event, Tick)} == {"ETH-USD"}
        with pytest.raises(NotSubscribed):
            await client.unsubscribe("BTC-USD")


async def test_latest_mode_hands_out_merged_ticks_of_an_unbroken_chain() -> None:
    async with bench(MemoryBroker()) as gateway, Client(url(gateway)) as client:
        market = gateway.market()
        await market.ticks(1)
        await client.subscribe("BTC-USD", mode="latest", max_rate=20)
        await until(client, Snapshot)
        seen: list[AnyEvent] = []
        await market.ticks(200)
        await reach(client, market, seen)
        merged = [event.merged for event in seen if isinstance(event, Tick)]
        assert sum(merged) == 200
        assert len(merged) < 200


async def test_callbacks_get_the_events_of_their_type() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.publish(market.status())
        await market.ticks(1)
        client = Client(url(gateway))
        found: list[Any] = []
        client.on(Connected, found.append)
        client.on(Status, found.append)

        async def close(snapshot: Snapshot) -> None:
            found.append(snapshot)
            await client.aclose()

        client.on(Snapshot, close)
        await client.subscribe("BTC-USD")
        async with asyncio.timeout(20):
            await client.run()
        assert [type(event).__name__ for event in found] == ["Connected", "Status", "Snapshot"]


async def test_cancelling_the_wait_for_an_event_loses_nothing() -> None:
    async with bench(MemoryBroker()) as gateway, Client(url(gateway)) as client:
        market = gateway.market()
        await market.ticks(1)
        await client.subscribe("BTC-USD", from_seq=0)
        seen: list[AnyEvent] = []
        while client.position("BTC-USD") != (market.epoch, market.seq) or len(market.chain) < 200:
            await market.ticks(1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.0005):
                    seen.append(await anext(client))
            if len(market.chain) >= 200:
                await reach(client, market, seen)
        assert ticks(seen) == market.chain


async def test_the_synchronous_client_gives_the_same_events() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.ticks(10)

        def follow() -> list[AnyEvent]:
            seen: list[AnyEvent] = []
            with SyncClient(url(gateway)) as client:
                client.subscribe("BTC-USD", from_seq=0)
                for event in client:
                    seen.append(event)
                    if ticks(seen) == market.chain:
                        break
            return seen

        seen = await asyncio.to_thread(follow)
        assert [type(event) for event in seen[:2]] == [Connected, Subscribed]


async def test_late_trades_are_handed_out_to_who_asks_for_them() -> None:
    async with bench(MemoryBroker()) as gateway, Client(url(gateway)) as client:
        market = gateway.market(channel="trades")
        await market.ticks(2)
        await market.publish(market.reset({"trades": []}, step=6))
        assert market.seq is not None
        missed = Missed(market.seq - 5, market.seq - 1)
        await client.subscribe("BTC-USD", channel="trades", late=True)
        held = None
        found: Late | None = None
        async for event in client:
            if isinstance(event, Snapshot):
                held = client.position("BTC-USD", "trades")
                rest = Missed(missed.from_ + 1, missed.to)
                await market.publish(market.late(missed, trades=[missed.from_], open=[rest]))
            elif isinstance(event, Late):
                found = event
                break
        assert found is not None
        assert found.missed == (missed.from_, missed.to)
        assert found.reason == "found"
        assert [tick.seq for tick in found.ticks] == [missed.from_]
        assert found.open == ((missed.from_ + 1, missed.to),)
        assert client.position("BTC-USD", "trades") == held
