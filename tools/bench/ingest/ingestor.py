"""Socket to durable raw record, all checks on, and what each step of it costs."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import httpx
from websockets.asyncio.client import connect

from services.common.stream import Broker
from services.ingestor.settings import Settings
from services.ingestor.streams import BookStream
from services.ingestor.testing import eventually, running
from services.ingestor.venues.coinbase import CoinbaseFeed
from tools.bench.ingest.venue_feed import PRODUCTS
from tools.bench.registry import Run, bench
from tools.bench.servers import broker, child, server
from tools.embedded.process import EmbeddedServer

_GREETINGS = 2 * len(PRODUCTS)
# What a deployed ingestor has; those for tests wait for ever.
DEPLOYED = {
    name: Settings.model_fields[name].default
    for name in ("heartbeat_suspect_ms", "heartbeat_dead_ms")
}


@bench("ingest")
async def ingest(run: Run) -> None:
    """Ticker, matches and level2_batch of 20 products: socket to durable raw record."""
    wanted = 200_000 if run.full else 60_000
    async with _feed(wanted) as (port, count):
        for _ in range(run.rounds):
            for compression in (False, True):
                name = "deflate" if compression else "plain"
                await _received(run, f"{name}: received, nothing else", port, count, compression)
                for kind in ("memory", "nats", "redis"):
                    async with contextlib.AsyncExitStack() as stack:
                        enter = stack.enter_async_context
                        on = None if kind == "memory" else await enter(server(kind))
                        found = await enter(broker(kind, on, shards=1))
                        case = f"{name}: socket to durable record, {kind}"
                        await _ingested(run, case, port, count, compression, found, on)
    for title, done in run.cases.items():
        run.note(title, f"{1e6 / done.client_us()[0]:,.0f} a second per core {done.note}".rstrip())


async def _received(run: Run, case: str, port: int, count: int, compression: bool) -> None:
    """What receiving alone costs, with the client library as it comes."""
    async with connect(
        f"ws://127.0.0.1:{port}/",
        compression="deflate" if compression else None,
        max_size=None,
        max_queue=1024,
    ) as socket:
        await socket.send(CoinbaseFeed().subscribe(PRODUCTS, ["heartbeat"], 0.0), text=True)
        for _ in range(_GREETINGS):
            await socket.recv(decode=False)
        with run.measure(case, unit="message") as sample:
            sample.count = count
            await _go(port)
            for _ in range(count):
                await socket.recv(decode=False)


async def _ingested(
    run: Run,
    case: str,
    port: int,
    count: int,
    compression: bool,
    found: Broker,
    on: EmbeddedServer | None,
) -> None:
    """The whole service but its HTTP side."""
    urls = f"ws://127.0.0.1:{port}/", f"http://127.0.0.1:{port}"
    settings = {"ws_compression": compression, "shard_count": 1, **DEPLOYED}
    async with running(found, *urls, *PRODUCTS, **settings) as ingestor:
        await eventually(
            lambda: bool(ingestor.feeds) and ingestor.feeds[0].messages >= _GREETINGS, "a feed"
        )
        (feed,) = ingestor.feeds
        with run.measure(case, on, unit="message") as sample:
            sample.count = count
            await _go(port)
            await eventually(lambda: feed.messages >= _GREETINGS + count, "all received", 300)
            await ingestor.flushed()
            # The run may be shorter than the auditor's period: its work belongs to the figure.
            for streams in feed.products.values():
                if isinstance(streams.book, BookStream) and streams.book.replica is not None:
                    streams.book.replica.fold(streams.book.replica.pop_updates())
    gaps = sum(stream.gaps for streams in feed.products.values() for stream in streams.all)
    if gaps or ingestor.refused:
        run.note(case, f"{gaps} gaps, {ingestor.refused} refused: not a clean run")


@contextlib.asynccontextmanager
async def _feed(wanted: int) -> AsyncIterator[tuple[int, int]]:
    """A venue in a process of its own; its port and how many messages it sends."""
    program = (sys.executable, "-m", "tools.bench.ingest.venue_feed", str(wanted))
    async with child(*program, stdout=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        port, count = map(int, (await process.stdout.readline()).split())
        yield port, count


async def _go(port: int) -> None:
    async with httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{port}/go")
