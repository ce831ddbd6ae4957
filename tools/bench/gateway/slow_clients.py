"""Slow readers beside many others: what they cost the others, and whether they lose anything."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from services.gateway.testing import Market
from tools.bench.registry import Run, bench, quantile
from tools.bench.servers import gateway_process, publisher_on, trading
from tools.bench.websocket import Follower, command, handshake
from tools.embedded import NatsServer

_SLOW = 10
_NAMES = {True: f"with {_SLOW} slow readers", False: "without slow readers"}
_TICKS_PER_S = 20
# Reached after some seconds at this rate; with the default of 1 MiB it would take minutes.
_QUEUE_BYTES = 65_536
SUBSCRIBE = command(type="subscribe", product="BTC-USD")
_SEQ = re.compile(rb'"seq":(\d+),')


@bench("gateway-slow")
async def slow_readers(run: Run) -> None:
    """Others' latency (p99) with and without ten clients that read 1 KB/s, measured in turn."""
    clients, seconds = (500, 10.0) if run.full else (100, 4.0)
    found: dict[bool, list[int]] = {True: [], False: []}
    resets = stepped_down = caught_up = 0
    async with Place(clients) as place:
        for _ in range(run.rounds):
            for with_slow in (False, True):
                slow = [await _SlowReader.connect(place.port) for _ in range(_SLOW * with_slow)]
                async with asyncio.TaskGroup() as group:
                    reading = [group.create_task(one.read_slowly()) for one in slow]
                    # Until the slow ones are slow, the two cases are the same.
                    await asyncio.sleep(3.0)
                    place.forget()
                    with run.measure(_NAMES[with_slow], place.pid, unit="frame") as sample:
                        await asyncio.sleep(seconds)
                    latencies = place.latencies()
                    sample.count = len(latencies)
                    found[with_slow] += latencies
                    for task in reading:
                        task.cancel()
                for one in slow:
                    counts = await one.catch_up(place.market)
                    resets += counts["reset"]
                    stepped_down += counts["mode"] > 0
                    caught_up += 1
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


class _SlowReader:
    """Reads 1 KB/s, and in the end everything, to see whether anything is missing."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = bytearray()

    @classmethod
    async def connect(cls, port: int) -> _SlowReader:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, handshake())
        reader = cls(sock)
        reader._data += await loop.sock_recv(sock, 256)
        await loop.sock_sendall(sock, SUBSCRIBE)
        return reader

    async def read_slowly(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._data += await loop.sock_recv(self._sock, 256)
            await asyncio.sleep(0.25)

    async def catch_up(self, market: Market) -> Counter[str]:
        """Read on to the market's newest tick; how many messages of each type came in all.

        Raises:
            RuntimeError: something is missing that was not announced.
        """
        loop = asyncio.get_running_loop()
        wanted, newest = market.seq or 0, 0
        # From now on the window is no longer what makes it slow.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
        async with asyncio.timeout(60):
            while newest < wanted:
                if not (data := await loop.sock_recv(self._sock, 65_536)):
                    raise RuntimeError("the gateway closed the connection")
                self._data += data
                newest = max([newest, *map(int, _SEQ.findall(data))])
        self._sock.close()
        held: int | None = None
        counts: Counter[str] = Counter()
        for message in _messages(bytes(self._data)):
            counts[message["type"]] += 1
            if message["type"] == "snapshot":
                held = message["snapshot"]["seq"]
            elif message["type"] in ("incr", "reset"):
                record = message.get("tick", message)
                if record["prev"] != held:
                    raise RuntimeError(f"{record['seq']} came after {held}, not {record['prev']}")
                held = record["seq"]
        return counts


def _messages(data: bytes) -> Iterator[dict[str, Any]]:
    """The JSON of every whole text frame behind the handshake's answer."""
    at = data.index(b"\r\n\r\n") + 4
    while at + 2 <= len(data):
        kind, size, at = data[at] & 15, data[at + 1], at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + width]), at + width
        if kind == 1 and at + size <= len(data):
            yield msgspec.json.decode(data[at : at + size])
        at += size
