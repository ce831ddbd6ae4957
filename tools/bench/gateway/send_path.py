"""The gateway's send path by itself: many streams, arrays, compression, beside a bare loop."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from services.common.runtime import tune_collector
from services.common.stream import Record
from services.common.stream.memory.broker import MemoryBroker
from services.common.wire import Fields, Trade
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.clients.session import Session
from services.gateway.fanout.subscription import View
from services.gateway.streams.feed import StreamFeed
from services.gateway.testing import Bench, Market, eventually
from services.gateway.testing import bench as gateway_bench
from services.gateway.websocket.rfc6455.frames import text_frames
from tools.bench.registry import Run, bench
from tools.bench.servers import child

_DEFLATE = "permessage-deflate; client_max_window_bits"
_TURNS = 40
_LIMIT = "bare os.write of the same bytes"
# Between two turns, for the readers.
_PAUSE_S = 0.01


class _Case:
    """Clients that have something in common, on streams of their own."""

    def __init__(
        self, name: str, streams: int, of_each: int, *, batch: bool = False, deflate: bool = False
    ) -> None:
        self.name = name
        mark = name.upper().replace(" ", "")
        self.products = [f"{mark}{number}-USD" for number in range(streams)]
        self.markets: list[Market] = []
        self.of_each = of_each
        self._batch = batch
        self._deflate = deflate
        self.sessions: list[Session] = []
        self.feeds: list[tuple[Market, StreamFeed]] = []

    def clients(self, count: int) -> list[tuple[str, str]]:
        """What each says and offers."""
        chance = random.Random(7)
        found: list[tuple[str, str]] = []
        for _ in range(count):
            products = chance.sample(self.products, self.of_each)
            command = {"type": "subscribe", "products": products, "batch": self._batch}
            extension = _DEFLATE if self._deflate else ""
            found.append((msgspec.json.encode(command).decode(), extension))
        return found

    def turns(self, ticks: int) -> list[list[tuple[StreamFeed, StreamRecord]]]:
        """Records as they come, over all streams in turn."""
        found: list[list[tuple[StreamFeed, StreamRecord]]] = []
        at = 0
        for _ in range(_TURNS):
            turn: list[tuple[StreamFeed, StreamRecord]] = []
            for _ in range(ticks):
                market, feed = self.feeds[at % len(self.feeds)]
                at += 1
                turn.append((feed, StreamRecord(_tick(market, at).payload)))
            found.append(turn)
        return found


def _tick(market: Market, number: int) -> Record:
    trade = Trade("67123.45", "0.01250000", "buy", 1_000_000 + number, 1_763_600_000_000_000)
    return market.tick(Fields(last_trade=trade), step=1)


@bench("gateway-send-path", on_request=True)
async def send_path(run: Run) -> None:
    """CPU for each delivery with many streams, arrays and compression; cases in turn."""
    tune_collector()
    clients = 50 if run.quick else 1000
    cases = [
        _Case("one stream", 1, 1),
        _Case("the same 16 streams", 16, 16),
        _Case("16 of 40 at random", 40, 16),
        _Case("arrays", 1, 1, batch=True),
        _Case("deflate", 1, 1, deflate=True),
        _Case("arrays and deflate", 1, 1, batch=True, deflate=True),
    ]
    async with _served(cases, clients):
        for _ in range(run.rounds):
            for ticks in (1, 10):
                for case in cases:
                    await _measure(run, case, ticks)
                await _measure_limit(run, cases[0], ticks)


async def _measure(run: Run, case: _Case, ticks: int) -> None:
    turns = case.turns(ticks)
    sample = run.sample(f"{case.name}, {ticks} a turn", "frame")
    for turn in turns:
        began = time.thread_time()
        for feed, entry in turn:
            feed.on_live([entry])
        # What was pushed in this turn is written at its end.
        await asyncio.sleep(0)
        sample.client_s += time.thread_time() - began
        groups = [feed.live_stream.full[View()].members for feed, _ in turn]
        sample.count += sum(map(len, groups))
        await asyncio.sleep(_PAUSE_S)
    for market, feed in case.feeds:
        if feed.replica.head is None or feed.replica.head.seq != market.seq:
            raise RuntimeError(f"{market.key} was not pushed to its end")
    behind = [one for one in case.sessions if one.outbox]
    run.note(f"{case.name}, {ticks} a turn", f"{len(case.sessions)} clients, {len(behind)} behind")


async def _measure_limit(run: Run, case: _Case, ticks: int) -> None:
    # Nobody reads what they say.
    market = Market(None, case.products[0])
    entries = [StreamRecord(_tick(market, number).payload) for number in range(ticks)]
    buffer = text_frames(message for entry in entries for message in entry.messages())
    fds = [session.fd for session in case.sessions]
    sample = run.sample(f"{_LIMIT}, {ticks} a turn", "frame")
    for _ in range(_TURNS):
        began = time.thread_time()
        for fd in fds:
            os.write(fd, buffer)
        sample.client_s += time.thread_time() - began
        sample.count += len(fds) * ticks
        await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def _served(cases: Sequence[_Case], clients: int) -> AsyncIterator[None]:
    """A gateway in this process; its clients are in another one."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(
            gateway_bench(
                MemoryBroker(),
                gateway_compression=True,
                ws_max_connections=100_000,
                # Nothing but ticks is to be written.
                ws_heartbeat_ms=3_600_000,
                ws_ping_interval_s=3600,
            )
        )
        for case in cases:
            case.markets = [gateway.market(product) for product in case.products]
            for market in case.markets:
                await market.ticks(1)
        for case in cases:
            await stack.enter_async_context(_connected(gateway, case, clients))
        yield


@asynccontextmanager
async def _connected(gateway: Bench, case: _Case, clients: int) -> AsyncIterator[None]:
    before = set(gateway.gateway.sessions)
    program = (sys.executable, "-m", "tools.bench.gateway.reads_all", str(gateway.port))
    pipe = asyncio.subprocess.PIPE
    async with child(*program, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(case.clients(clients)) + b"\n")
        await process.stdout.readline()
        live = clients * case.of_each
        await eventually(lambda: _live(gateway, case.markets) == live)
        case.sessions = [one for one in gateway.gateway.sessions if one not in before]
        await eventually(lambda: all(one.quick for one in case.sessions))
        feeds = gateway.gateway.parts.streams.feeds
        case.feeds = [(market, feeds[market.key]) for market in case.markets]
        yield


def _live(gateway: Bench, markets: Sequence[Market]) -> int:
    feeds = gateway.gateway.parts.streams.feeds
    return sum(
        len(feeds[one.key].live_stream.subscriptions()) for one in markets if one.key in feeds
    )
