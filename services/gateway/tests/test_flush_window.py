"""The flush window: pushes of busy streams share writes, and nothing waits longer than it is."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.common.stream import Position
from services.common.stream.memory.broker import MemoryBroker
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.fanout.hub import Hub
from services.gateway.fanout.live_streams import LiveStream, Subscriber, SubscriptionListener
from services.gateway.fanout.outbox import Outbox, encoding_of
from services.gateway.fanout.push_batch import Turns
from services.gateway.fanout.subscription import Subscription
from services.gateway.metrics import Metrics
from services.gateway.testing import Market, bench, small_settings
from services.gateway.testing.links import Clock


def _waits(window: float, gaps: list[float]) -> tuple[list[float], int]:
    """How long each push waited, ticks coming after these gaps; and how often was written."""
    clock = Clock()
    written: list[float] = []

    def write(_fd: int, frames: bytes) -> int:
        written.extend([clock.now] * frames.count(b'"incr"'))
        return len(frames)

    hub = Hub(
        Turns(clock.soon.append, clock.at, lambda: clock.now),
        lambda: 0,
        window=window,
        write=write,
    )
    market = Market(None)
    live_stream = LiveStream(market.key, Metrics().of_stream(market.key))
    client = Reader()
    hub.attach(Subscription(client, live_stream), None)
    pushed: list[float] = []
    head: Position | None = None
    for gap in gaps:
        clock.until(clock.now + gap)
        entry = StreamRecord(market.tick().payload)
        pushed.append(clock.now)
        hub.publish(live_stream, [entry], head)
        head = entry.position
        clock.turn()
    clock.until(clock.now + 1)
    return [w - p for w, p in zip(written, pushed, strict=True)], len(set(written))


class Reader(Subscriber, SubscriptionListener):
    """Always quick."""

    def __init__(self) -> None:
        super().__init__(Outbox(1 << 30), encoding_of(arrays=False, deflated=False), 1)
        self.subscriptions = self
        self.quick = True

    @property
    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self.quick = True

    def unsent(self, frames: bytes, sent: int) -> None:
        raise AssertionError((frames, sent))

    def fell_behind(self, subscription: Subscription, records: int) -> None:
        raise AssertionError(subscription, records)

    def rebased(self, subscription: Subscription) -> None:
        raise AssertionError(subscription)

    def over_quota(self, subscription: Subscription) -> None:
        raise AssertionError(subscription)

    def within_quota(self, subscription: Subscription) -> None:
        raise AssertionError(subscription)

    def failed(self) -> None:
        raise AssertionError


@given(st.lists(st.floats(0, 0.02), min_size=1, max_size=60), st.floats(0.001, 0.005))
def test_nothing_waits_longer_than_the_window_and_a_quiet_stream_does_not_wait(
    gaps: list[float], window: float
) -> None:
    waits, writes = _waits(window, gaps)
    assert max(waits) <= window + 1e-9
    for gap, wait in zip(gaps, waits, strict=True):
        if gap > 2 * window:
            assert wait == 0, "it was quiet before, and still this one waited"
    assert writes <= 1 + sum(gaps) / window + 1
    assert _waits(0, gaps)[0] == [0.0] * len(gaps)


async def test_with_a_window_a_client_gets_every_tick_in_order_and_its_answers_at_once() -> None:
    async with (
        bench(MemoryBroker(), flush_window_ms=5) as gateway,
        gateway.client() as client,
    ):
        market = gateway.market()
        await market.ticks(3)
        await client.send(type="subscribe", products=["BTC-USD"])
        await client.of("snapshot")
        for number in range(200):
            await market.ticks(1)
            await asyncio.sleep(0)
            if number % 50 == 0:
                await client.send(type="ping", id=number)
        await client.reach(market)
        assert client.seen[str(market.key)] == market.chain[3:]
        assert client.breaks == []
        assert client.types().count("pong") == 4


async def test_a_heartbeat_names_no_head_that_was_not_written_before_it() -> None:
    # Breaks when a heartbeat, which goes before data, tells of what the turn still holds.
    async with (
        bench(MemoryBroker(), ws_heartbeat_ms=3_600_000) as gateway,
        gateway.client() as client,
    ):
        market = gateway.market()
        await market.ticks(3)
        await client.send(type="subscribe", products=["BTC-USD"])
        await client.of("snapshot")
        (session,) = gateway.gateway.sessions
        feed = gateway.gateway.parts.streams.feeds[market.key]
        feed.on_live([StreamRecord(market.tick().payload), StreamRecord(market.tick().payload)])
        session.heartbeat(1)
        beat = await client.of("hb")
        assert beat["heads"] == {str(market.key): market.seq}
        assert client.held == beat["heads"]


def test_a_window_is_at_most_5_ms() -> None:
    with pytest.raises(ValidationError, match="flush_window_ms"):
        small_settings(flush_window_ms=6)
