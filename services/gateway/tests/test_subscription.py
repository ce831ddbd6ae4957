"""Subscriptions in a gateway whose queues are so small that everybody falls behind: whatever comes
in whatever order, each chain is whole in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.observability.health import Health
from services.common.stream import Publisher
from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.specs import log_specs
from services.gateway.admission.auth import EVERYONE, Seat
from services.gateway.backfill import Backfill
from services.gateway.clients.dependencies import GatewayParts
from services.gateway.clients.session import Session, SessionHost
from services.gateway.fanout.hub import Hub
from services.gateway.fanout.push_batch import Turns
from services.gateway.fanout.subscription import (
    State,
)
from services.gateway.history.archive import Archive
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import Metrics
from services.gateway.streams.catalog import Catalog
from services.gateway.streams.feed import FeedSources
from services.gateway.streams.record_reader import RecordReader
from services.gateway.streams.registry import StreamRegistry
from services.gateway.streams.state_store import StateStore
from services.gateway.testing import Market, small_settings
from services.gateway.testing.links import Clock, MemoryTransport, payloads_read

_QUEUE = 2048


class _Link(MemoryTransport):
    def __init__(self) -> None:
        super().__init__(-1, deflated=False)
        self.closed = False

    def write(self, frames: bytes | memoryview) -> bool:
        return not self.closed and super().write(frames)

    def close(self, code: int, reason: str) -> None:
        self.closed = True
        self.listener.on_closed()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class _Home(SessionHost):
    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._group.create_task(work, name=name)

    def left(self, session: Session) -> None: ...


class _World:
    """Real feeds, hub, catching up and a session; the clock and the client's socket are ours."""

    def __init__(
        self,
        parts: GatewayParts,
        home: SessionHost,
        clock: Clock,
        publisher: Publisher | None,
        hub: Hub,
    ) -> None:
        self.parts = parts
        self.clock = clock
        self.hub = hub
        self.markets = [
            Market(publisher, product, channel, padding=100)
            for product, channel in (("BTC-USD", "ticker"), ("BTC-USD", "trades"))
        ]
        self._home = home
        self.connect()

    @staticmethod
    @asynccontextmanager
    async def running(product_rate: float = 0.0) -> AsyncIterator[_World]:
        chosen = small_settings(
            ws_queue_bytes=_QUEUE,
            ws_burst=1000,
            product_max_msgs_per_sec=product_rate,
            window_bytes=6000,
            window_total_bytes=1 << 20,
            stream_linger_s=60,
        )
        broker, metrics = MemoryBroker(), Metrics()
        records = RecordReader(metrics)
        await broker.open()
        await broker.ensure(log_specs(chosen))
        clock, loop, health = Clock(), asyncio.get_running_loop(), Health("gateway")
        hub = Hub(Turns(loop.call_soon, clock.at, lambda: clock.now), lambda: 0, product_rate)
        stores = StateStore(None, None, health, metrics)
        sources = FeedSources(broker, chosen, stores, records, metrics)
        streams = StreamRegistry(sources, hub, health)
        parts = replace(
            Gateway(chosen, broker, log_specs(chosen), metrics).parts,
            hub=hub,
            streams=streams,
            catalog=Catalog(sources),
            backfill=Backfill(broker, records, Archive(None, health), 10**15),
        )
        publisher = await broker.publisher()
        async with asyncio.TaskGroup() as group:
            streams.start(group)
            world = _World(parts, _Home(group), clock, publisher, hub)
            try:
                yield world
            finally:
                world.session.leave()
                streams.stop()

    def connect(self) -> None:
        seat = Seat(self.parts.places)
        seat.acquire(EVERYONE)
        self.link = _Link()
        self.session = Session(self.parts, self.link, seat, self._home)
        self.link.listener = self.session
        self.session.begin(key_refused=False)

    def command(self, kind: str, market: Market, **more: Any) -> None:
        body = {"type": kind, "product": market.key.product, "channel": market.key.channel, **more}
        self.session.on_text(msgspec.json.encode(body).decode())

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)
            self.check()

    def check(self) -> None:
        """Each subscription is where its state says, and nowhere else."""
        feeds = self.parts.streams.feeds.values()
        full = {
            one
            for feed in feeds
            for group in feed.live_stream.full.values()
            for one in group.members.values()
        }
        merged = {one for feed in feeds for one in feed.live_stream.conflated}
        mine = {one for one, _ in self.session.subscriptions.by_stream.values()}
        assert full == {one for one in mine if one.state is State.LIVE}
        assert merged == {one for one in mine if one.state is State.MERGED}
        for one in mine:
            assert one.state is not State.ENDED
            assert (one.conflation is not None) == (one.state is State.MERGED)
            assert (one.catching is not None) == (one.state is State.CATCHING_UP)

    def held(self) -> dict[str, int]:
        """What a client holds by its rule, which is broken by whatever does not follow."""
        held: dict[str, int] = {}
        claimed: set[str] = set()
        for message in map(msgspec.json.decode, payloads_read(self.link.wire, deflated=False)):
            kind = message["type"]
            if kind == "backfill" and message["state"] == "begin":
                held[message["stream"]] = message["from"]
                claimed.add(message["stream"])
            elif kind == "snapshot":
                held[_stream(message["snapshot"])] = message["snapshot"]["seq"]
            elif kind in ("incr", "reset"):
                record = message["tick"] if kind == "incr" else message
                stream, prev = _stream(record), message.get("prev", record.get("prev"))
                if stream in held and not (stream in claimed and (prev or 0) <= held[stream]):
                    assert prev == held[stream], (message, held)
                claimed.discard(stream)
                held[stream] = record["seq"]
            elif kind == "hb":
                for stream, head in message["heads"].items():
                    assert head == held.get(stream), (message, held)
            elif kind == "error":
                # Only of what was unsubscribed by then.
                assert message["code"] == 3003, message
        return held

    async def settle(self) -> None:
        """Everything is read, and all time passes that anybody waits for."""
        self.link.unstick()
        wanted: dict[str, int] = {}
        for _ in range(400):
            await self.turns(5)
            self.clock.until(self.clock.now + 1)
            found = self.session.subscriptions.by_stream
            wanted = {str(market.key): market.seq or 0 for market in self.markets}
            wanted = {stream: seq for stream, seq in wanted.items() if stream in map(str, found)}
            idle = (commands := self.session._commands) is None or commands._working is None
            if idle and all(one.live for one, _ in found.values()):
                held = self.held()
                if all(held.get(stream) == seq for stream, seq in wanted.items()):
                    return
        raise AssertionError((self.held(), wanted, found))


def _stream(record: dict[str, Any]) -> str:
    return f"{record['venue']}:{record['channel']}:{record['product']}"


_market = st.integers(0, 1)
_steps = st.lists(
    st.one_of(
        # Half of all, since the others matter only between them.
        st.tuples(st.just("publish"), _market, st.sampled_from([1, 1, 2, 5, 30])),
        st.tuples(st.just("publish"), _market, st.sampled_from([1, 1, 2, 5, 30])),
        st.tuples(st.just("publish"), _market, st.sampled_from([1, 1, 2, 5, 30])),
        st.tuples(st.sampled_from(["status", "reset", "late"]), _market, st.just(1)),
        st.tuples(st.sampled_from(["full", "latest", "slow", "anew"]), _market, st.just(1)),
        st.tuples(st.just("from"), _market, st.integers(0, 40)),
        st.tuples(st.sampled_from(["resync", "unsubscribe"]), _market, st.just(1)),
        st.tuples(st.sampled_from(["stick", "unstick", "hb", "rebase"]), _market, st.just(1)),
        st.tuples(st.sampled_from(["turn", "turn", "wait"]), st.just(0), st.integers(1, 6)),
        st.tuples(st.just("close"), st.just(0), st.just(1)),
    ),
    min_size=15,
    max_size=70,
)


async def _do(world: _World, name: str, market: Market, count: int) -> None:
    match name:
        case "publish":
            await market.ticks(count)
        case "status":
            await market.publish(market.status("quiet"))
        case "late":
            await market.publish(market.late())
        case "reset":
            await market.publish(market.reset({"trades": []}))
        case "full" | "latest":
            world.command("subscribe", market, mode=name)
        case "slow":
            world.command("subscribe", market, max_rate=2)
        case "anew":
            world.command("subscribe", market)
        case "from":
            chain = market.chain
            world.command("subscribe", market, from_seq=chain[min(count, len(chain) - 1)])
        case "resync":
            if market.key in world.session.subscriptions.by_stream:
                world.command("resync", market)
        case "unsubscribe":
            if market.key in world.session.subscriptions.by_stream:
                world.command("unsubscribe", market)
        case "stick":
            world.link.stuck = True
        case "unstick":
            world.link.unstick()
        case "hb":
            world.session.heartbeat(1)
        case "rebase":
            if market.key in world.parts.streams.feeds:
                world.hub.rebase(world.parts.streams.feeds[market.key].live_stream)
        case "wait":
            world.clock.until(world.clock.now + count / 4)
        case "close":
            world.held()
            world.link.closed = True
            world.session.on_closed()
            world.connect()
        case _:
            await world.turns(count)


# At night many more of them are tried (`HYPOTHESIS_PROFILE=nightly`).
@settings(max_examples=max(150, settings().max_examples))
@given(steps=_steps, product_rate=st.sampled_from([0.0, 3.0]))
async def test_whatever_comes_in_whatever_order_each_chain_is_whole_in_the_end(
    steps: list[tuple[str, int, int]], product_rate: float
) -> None:
    async with _World.running(product_rate) as world:
        for market in world.markets:
            await market.ticks(20)
            world.command("subscribe", market)
        await world.turns(20)
        for name, number, count in steps:
            await _do(world, name, world.markets[number], count)
            world.check()
        await world.settle()
