"""Slow readers beside many others: what they cost the others, and whether they lose anything."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import AsyncExitStack

from services.common.testing.waiting import eventually
from services.gateway.testing import Market
from tools.bench.registry import Run, bench, quantile
from tools.bench.servers import gateway_process, publisher_on, trading
from tools.bench.websocket import Follower, command
from tools.embedded import NatsServer
from tools.subscriber import Subscriber, Want

_SLOW = 10
_NAMES = {True: f"with {_SLOW} slow readers", False: "without slow readers"}
_TICKS_PER_S = 20
# Reached after some seconds at this rate; with the default of 1 MiB it would take minutes.
_QUEUE_BYTES = 65_536
SUBSCRIBE = command(type="subscribe", product="BTC-USD")


@bench("gateway-slow")
async def slow_readers(run: Run) -> None:
    """Others' latency (p99) with and without ten clients that read 1 KB/s, measured in turn."""
    clients, seconds = (500, 10.0) if run.full else (100, 4.0)
    found: dict[bool, list[int]] = {True: [], False: []}
    resets = stepped_down = caught_up = 0
    async with Place(clients) as place:
        for _ in range(run.rounds):
            for with_slow in (False, True):
                slow = [_SlowReader(place.port) for _ in range(_SLOW * with_slow)]
                async with asyncio.TaskGroup() as group:
                    reading = [group.create_task(one.run()) for one in slow]
                    # Until the slow ones are slow, the two cases are the same.
                    await asyncio.sleep(3.0)
                    place.forget()
                    with run.measure(_NAMES[with_slow], place.pid, unit="frame") as sample:
                        await asyncio.sleep(seconds)
                    latencies = place.latencies()
                    sample.count = len(latencies)
                    found[with_slow] += latencies
                    for one in slow:
                        await one.catch_up(place.market)
                        resets += one.seen["reset"]
                        stepped_down += one.seen["mode"] > 0
                        caught_up += 1
                    for task in reading:
                        task.cancel()
    beside, alone = (quantile(found[with_slow], 0.99) / 1000 for with_slow in (True, False))
    run.note(_NAMES[False], f"{clients} clients, p99 {alone:.1f} ms")
    run.note(
        _NAMES[True],
        f"{clients} clients, p99 {beside:.1f} ms; ratio {beside / alone:.2f}; "
        f"{caught_up} slow ones ({stepped_down} taken off live) verified to the head, "
        f"{resets} resets",
    )


class Place:
    """A gateway in its own process, quick clients, and a market that goes on all the time."""

    def __init__(self, clients: int) -> None:
        self._clients = clients
        self._stack = AsyncExitStack()
        self._quick: list[QuickReader] = []
        self.port = self.pid = 0
        self.market: Market

    async def __aenter__(self) -> Place:
        enter = self._stack.enter_async_context
        nats = await enter(NatsServer())
        self.market = Market(await enter(publisher_on(nats, shards=2)), padding=600)
        await self.market.ticks(5)
        starting = gateway_process(
            nats.url,
            SHARD_COUNT="2",
            WS_QUEUE_BYTES=str(_QUEUE_BYTES),
            # The readers here answer no pings.
            WS_PING_INTERVAL_S="3600",
            WS_SLOW_CLOSE_S="3600",
        )
        self.pid, self.port = await enter(starting)
        loop = asyncio.get_running_loop()
        for _ in range(self._clients):
            _, reader = await loop.create_connection(QuickReader, "127.0.0.1", self.port)
            self._quick.append(reader)
        await enter(trading(self.market, _TICKS_PER_S))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for reader in self._quick:
            reader.transport.abort()
        await self._stack.aclose()

    def forget(self) -> None:
        for reader in self._quick:
            reader.latencies.clear()

    def latencies(self) -> list[int]:
        return [value for reader in self._quick for value in reader.latencies]


class QuickReader(Follower):
    """Notes how old each tick was, microseconds."""

    pattern = re.compile(rb'"ts_ingest":(\d{16})')

    def __init__(self, subscribe: bytes = SUBSCRIBE) -> None:
        super().__init__(subscribe)
        self.latencies: list[int] = []

    def found(self, match: re.Match[bytes], now: int) -> None:
        self.latencies.append(now - int(match[1]))


class _SlowReader(Subscriber):
    """Takes a message a second, about 1 KB, and in the end all, to see whether one is missing."""

    def __init__(self, port: int) -> None:
        self.seen: Counter[str] = Counter()
        super().__init__(
            f"ws://127.0.0.1:{port}/ws",
            [Want("ticker", ("BTC-USD",))],
            on_message=lambda message, _verdict: self.seen.update([message["type"]]),
            pause_s=1.0,
        )

    async def catch_up(self, market: Market) -> None:
        """Read on to the market's newest tick.

        Raises:
            RuntimeError: something is missing that was not announced, or the connection was lost.
        """
        self.hurry()
        (chain,) = self.chains.values()
        wanted = market.seq or 0
        await eventually(lambda: (chain.seq or 0) >= wanted, "the market's head")
        if chain.counts.breaks or self.resumes or self.errors:
            raise RuntimeError(f"{chain.counts}, {self.resumes} lost connections, {self.errors}")
