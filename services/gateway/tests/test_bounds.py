"""Bounds that operators set: what is served at the value itself, and what happens one beyond it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import httpx
import msgspec
import pytest
from pydantic import ValidationError

from services.common.stream import Message
from services.common.stream.memory.broker import MemoryBroker
from services.gateway.http.ticks import TickPage, TickPages
from services.gateway.testing import bench, eventually
from services.gateway.testing.serving import small_settings


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("ws_max_fragments", 1, 65_536),
        ("snapshots_kept", 1, 1024),
        ("http_log_readers", 1, 256),
        ("http_page_bytes", 1024, 64 * 1024 * 1024),
    ],
)
def test_a_bound_beyond_its_own_bounds_is_named(name: str, least: int, most: int) -> None:
    for good in (least, most):
        assert getattr(small_settings(**{name: good}), name) == good
    for bad in (least - 1, most + 1):
        with pytest.raises(ValidationError, match=name):
            small_settings(**{name: bad})


@pytest.mark.parametrize("deflate", [None, "deflate"])
async def test_a_message_of_so_many_frames_is_read_and_of_one_more_ends_it(
    deflate: str | None,
) -> None:
    def in_frames(count: int) -> list[str]:
        text = msgspec.json.encode({"type": "ping"}).decode()
        at = [len(text) * part // count for part in range(count + 1)]
        return [text[begin:end] for begin, end in pairwise(at)]

    async with (
        bench(MemoryBroker(), ws_max_fragments=4, gateway_compression=True) as gateway,
        gateway.client(compression=deflate) as client,
    ):
        # The library ends what it sends in pieces with an empty frame of its own.
        await client.socket.send(in_frames(3))
        await client.of("pong")
        await client.socket.send(in_frames(4))
        assert await client.closed() == 1008
        assert "at most 4 frames in a message" in str(client.socket.close_reason)


async def test_so_many_snapshots_are_kept_and_one_more_lets_go_of_the_oldest() -> None:
    async with bench(MemoryBroker(), snapshots_kept=3) as gateway:
        market = gateway.market(channel="book")
        await market.publish(market.reset({"bids": [["100", "1"]], "asks": []}))
        async with gateway.client() as client:
            await client.send(type="subscribe", product="BTC-USD", channel="book")
            await client.of("snapshot")
            feed = gateway.gateway.parts.streams.feeds[market.key]
            feed._cache.clear()
            before = gateway.gateway.metrics.snapshots_let_go._value.get()
            kept = [feed.snapshot_parts("subscribe", depth) for depth in (1, 2, 3)]
            again = [feed.snapshot_parts("subscribe", depth) for depth in (1, 2, 3)]
            assert [one is other for one, other in zip(kept, again, strict=True)] == [True] * 3
            assert gateway.gateway.metrics.snapshots_let_go._value.get() == before
            feed.snapshot_parts("subscribe", 4)
            assert gateway.gateway.metrics.snapshots_let_go._value.get() == before + 1
            assert feed.snapshot_parts("subscribe", 2) is kept[1]
            assert feed.snapshot_parts("subscribe", 1) is not kept[0]


class Held(MemoryBroker):
    """Counts who looks for a stream's end, and answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.may.set()
        self.looking = 0

    async def last(self, subject: str) -> Message | None:
        self.looking += 1
        await self.may.wait()
        return await super().last(subject)


async def test_so_many_requests_read_logs_and_one_more_waits() -> None:
    broker = Held()
    async with (
        bench(broker, http_log_readers=2) as gateway,
        httpx.AsyncClient(base_url=gateway.http, timeout=60) as http,
    ):
        market = gateway.market()
        await market.ticks(1)
        assert (await http.get("/v1/ticks/BTC-USD")).status_code == 200
        broker.may.clear()
        broker.looking = 0
        before = gateway.gateway.metrics.log_reads._value.get()
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(http.get("/v1/ticks/BTC-USD")) for _ in range(3)]
            await eventually(lambda: gateway.gateway.metrics.log_reads._value.get() == before + 3)
            assert broker.looking == 2
            broker.may.set()
        assert [task.result().status_code for task in asked] == [200] * 3
        assert gateway.gateway.metrics.log_reads._value.get() == before


async def test_a_page_ends_behind_the_record_that_goes_beyond_its_bytes() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.ticks(6)
        sizes = [len(record) for record in market.records]

        parts = gateway.gateway.parts
        pages = TickPages(gateway.gateway.broker, parts.records, parts.metrics)

        async def page(max_bytes: int) -> TickPage:
            return await pages.after(market.subject, 0, None, 100, max_bytes)

        before = gateway.gateway.metrics.pages_cut._value.get()
        whole = await page(sum(sizes))
        assert (len(whole.records), whole.at_head) == (6, True)
        assert gateway.gateway.metrics.pages_cut._value.get() == before
        cut = await page(sum(sizes[:3]))
        assert (len(cut.records), cut.at_head) == (4, False)
        assert len((await page(sum(sizes[:3]) - 1)).records) == 3
        assert gateway.gateway.metrics.pages_cut._value.get() == before + 2


async def test_the_answer_over_http_ends_at_the_bytes_that_are_set() -> None:
    async with bench(MemoryBroker(), http_page_bytes=1024) as gateway:
        market = gateway.market(padding=1100)
        await market.ticks(2)
        async with httpx.AsyncClient(base_url=gateway.http) as http:
            answer = (await http.get("/v1/ticks/BTC-USD")).json()
        assert (len(answer["ticks"]), answer["at_head"]) == (1, False)
