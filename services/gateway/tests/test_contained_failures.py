"""What goes wrong for one client, or one stream of a client, in a way nobody foresaw: it costs that
client its connection at most, and nobody else anything."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from services.common.errors import BrokerUnavailable
from services.common.stream import Position
from services.common.stream.memory.broker import MemoryBroker
from services.gateway.backfill import Start
from services.gateway.chain.replica import Phase, Replica
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Budget, Window
from services.gateway.clients.catch_up import CatchUp
from services.gateway.clients.client_subscriptions import ClientSubscriptions
from services.gateway.clients.session import Session
from services.gateway.fanout.subscription import State
from services.gateway.protocol import TOO_OLD, Problem
from services.gateway.streams.feed import StreamFeed
from services.gateway.testing import EPOCH, Market, bench, eventually


@pytest.mark.parametrize("where", ["flush", "unsent", "fell_behind", "heartbeat", "over_quota"])
async def test_a_fault_while_one_client_is_served_ends_that_client_only(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = 5.0 if where == "over_quota" else 0.0
    async with bench(
        MemoryBroker(), ws_queue_bytes=4096, product_max_msgs_per_sec=quota
    ) as gateway:
        market = gateway.market(padding=800)
        await market.ticks(3)
        async with gateway.client() as good, gateway.client() as bad:
            for client in (good, bad):
                await client.send(type="subscribe", products=["BTC-USD"])
                await client.reach(market)
            _, session = gateway.gateway.sessions
            told = where in ("fell_behind", "over_quota")
            kind, one = (ClientSubscriptions, session.subscriptions) if told else (Session, session)
            real = getattr(kind, where)

            def fails(self: Any, *args: Any) -> Any:
                if self is one:
                    raise KeyError("nobody foresaw this")
                return real(self, *args)

            monkeypatch.setattr(kind, where, fails)
            if where == "unsent":
                # The kernel takes nothing of what is written for it.
                session.fd = -1
            if where == "fell_behind":
                session.outbox.limit = 100
            for _ in range(20):
                if where in ("flush", "fell_behind"):
                    # Something waits for it, so that it gets its own part of the turn.
                    session.quick = False
                await market.ticks(3)
                await good.reach(market)
            await eventually(lambda: len(gateway.gateway.sessions) == 1)
            assert session not in gateway.gateway.sessions
            await market.ticks(3)
            await good.reach(market)
        assert good.breaks == []


async def test_a_client_that_cannot_even_be_told_why_it_ends_leaves_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.ticks(3)
        async with gateway.client() as good, gateway.client() as bad:
            for client in (good, bad):
                await client.send(type="subscribe", products=["BTC-USD"])
                await client.reach(market)
            _, session = gateway.gateway.sessions

            def break_for_it(name: str) -> None:
                real = getattr(Session, name)

                def fails(self: Session, *args: Any, **more: Any) -> Any:
                    if self is session:
                        raise KeyError("nobody foresaw this")
                    return real(self, *args, **more)

                monkeypatch.setattr(Session, name, fails)

            break_for_it("flush")
            break_for_it("tell_problem")
            session.quick = False
            await market.ticks(3)
            await good.reach(market)
            await eventually(lambda: session not in gateway.gateway.sessions)
            feed = gateway.gateway.parts.streams.feeds[market.key]
            assert len(feed.live_stream.subscriptions()) == 1
            await market.ticks(3)
            await good.reach(market)
        assert good.breaks == []


async def test_one_stream_that_cannot_catch_up_holds_up_no_other_of_its_client() -> None:
    async with bench(MemoryBroker(), window_bytes=2048) as gateway:
        stuck, other = gateway.market(), gateway.market("ETH-USD")
        await stuck.ticks(300)
        await other.ticks(300)
        backfill = gateway.gateway.parts.backfill
        read = backfill.read
        comes = False

        async def does_not_come(
            feed: StreamFeed, position: Position, cursor: str
        ) -> tuple[deque[StreamRecord], str]:
            if feed.key == stuck.key and not comes:
                raise BrokerUnavailable("memory", "this stream's pages do not come")
            return await read(feed, position, cursor)

        backfill.read = does_not_come  # type: ignore[method-assign]  # the fault
        async with gateway.client() as client:
            await client.send(
                type="subscribe", products=["BTC-USD", "ETH-USD"], from_seq=stuck.chain[0]
            )
            await client.reach(other)
            assert str(stuck.key) not in client.seen
            await other.ticks(3)
            await client.reach(other)
            comes = True
            await client.reach(stuck)
        assert client.breaks == []
        assert client.seen[str(stuck.key)] == stuck.chain[1:]


async def test_a_stream_that_waits_for_its_feed_holds_up_no_other_of_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench(MemoryBroker()) as gateway:
        waits, other = gateway.market(), gateway.market("ETH-USD")
        await waits.ticks(30)
        await other.ticks(30)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD", "ETH-USD"])
            await client.reach(waits)
            await client.reach(other)
            feed = gateway.gateway.parts.streams.feeds[waits.key]
            begin = CatchUp.begin

            def not_ready_any_more(self: CatchUp, subscription: Any, *args: Any) -> None:
                if subscription.live_stream is feed.live_stream:
                    feed.ready.clear()
                begin(self, subscription, *args)

            monkeypatch.setattr(CatchUp, "begin", not_ready_any_more)
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=waits.chain[-1])
            await client.of("backfill")
            await client.send(type="subscribe", products=["ETH-USD"], from_seq=other.chain[5])
            end = await client.until(lambda m: m["type"] == "backfill" and m["state"] == "end")
            assert end["product"] == "ETH-USD"
            feed.ready.set()
            await client.until(lambda m: m["type"] == "backfill" and m["state"] == "end")
            await waits.ticks(2)
            await client.reach(waits)
        assert client.breaks == []


async def test_a_stream_that_was_refused_while_others_were_planned_is_said_to_have_ended() -> None:
    async with bench(MemoryBroker()) as gateway:
        ended, planned = gateway.market(), gateway.market("ETH-USD")
        await ended.ticks(3)
        await planned.ticks(3)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.reach(ended)
            (session,) = gateway.gateway.sessions
            subscription, _ = session.subscriptions.by_stream[ended.key]
            backfill = gateway.gateway.parts.backfill
            start = backfill.start

            async def ends_the_other(
                feed: StreamFeed,
                from_seq: int,
                epoch: int | None,
                now_us: int,
                *,
                late: bool = False,
            ) -> Start:
                if feed.key == planned.key:
                    session.subscriptions.end_with(
                        Problem(TOO_OLD, "it expired meanwhile"), subscription
                    )
                return await start(feed, from_seq, epoch, now_us, late=late)

            backfill.start = ends_the_other  # type: ignore[method-assign]  # the moment
            await client.send(
                type="subscribe",
                id=2,
                products=["BTC-USD", "ETH-USD"],
                from_seq={"ETH-USD": planned.chain[0]},
            )
            answer = await client.until(lambda m: m["type"] == "subscribed" and m.get("id") == 2)
            first, second = answer["results"]
            assert (first["ok"], first["error"]["code"]) == (False, 6001)
            assert second["ok"]
            await client.reach(planned)
            assert subscription.state is State.ENDED
            # It can be had again.
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            await ended.ticks(2)
            await client.reach(ended)
        assert client.breaks == []


def _phase(replica: Replica) -> Phase:
    return replica.phase


def test_a_seq_of_another_epoch_proves_nothing() -> None:
    # What came first in the new epoch was lost on the way, and its last seq is one held before.
    market = Market(None)
    replica = Replica(market.key, Window(Budget(10**6), 10**6))
    replica.on_base(None)
    first = StreamRecord(market.tick().payload)
    replica.on_page([first], "1", at_head=True)
    assert _phase(replica) is Phase.LIVE
    market.epoch = EPOCH + 1
    after = StreamRecord(market.tick().payload)
    assert after.prev == first.position.seq
    replica.drain()
    replica.on_live([after])
    assert _phase(replica) is Phase.FILLING
    assert replica.drain() == []
    # The log says that nothing stands between.
    replica.on_page([after], "2", at_head=True)
    assert replica.drain() == [after]


@pytest.mark.parametrize("channel", ["ticker", "trades", "book"])
async def test_a_stream_that_began_while_others_were_planned_begins_with_its_state(
    channel: str,
) -> None:
    async with bench(MemoryBroker()) as gateway:
        empty, planned = gateway.market("BTC-USD", channel), gateway.market("ETH-USD", channel)
        await empty.publish(empty.status())
        await planned.ticks(3)
        async with gateway.client() as client:
            backfill = gateway.gateway.parts.backfill
            start = backfill.start

            async def begins_the_other(feed: StreamFeed, *args: Any, **options: Any) -> Start:
                (session,) = gateway.gateway.sessions
                _, lease = session.subscriptions.by_stream[empty.key]
                await lease.feed.ready.wait()
                await empty.ticks(1)
                await eventually(lambda: lease.feed.replica.head is not None)
                return await start(feed, *args, **options)

            backfill.start = begins_the_other  # type: ignore[method-assign]  # the moment
            await client.send(
                type="subscribe",
                products=["BTC-USD", "ETH-USD"],
                channel=channel,
                from_seq={"ETH-USD": planned.chain[0]},
            )
            answer = await client.of("subscribed")
            assert [result["start"] for result in answer["results"]] == ["snapshot", "backfill"]
            snapshot = (await client.of("snapshot"))["snapshot"]
            assert snapshot["product"] == "BTC-USD"
            assert snapshot["seq"] == empty.chain[0]
            await empty.ticks(2)
            await client.reach(empty)
        assert client.breaks == []
