"""Two gateways behind a TCP balancer are replaced under load, as an orchestrator does it."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from services.common.settings import child_environment
from services.common.stream import Publisher
from services.common.stream.nats import NatsBroker
from services.common.stream.specs import log_specs
from services.gateway.testing import Market, small_settings
from tools.embedded import NatsServer, free_port

CLIENTS = 200
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD", "ADA-USD")
# Ticks a second, all products together.
RATE = 60
DRAIN_S = 3.0


class Node:
    """One gateway, in its own process."""

    def __init__(self, nats_url: str) -> None:
        self.port = free_port()
        self._nats_url = nats_url
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return when it is ready."""
        variables = {
            "NATS_URLS": self._nats_url,
            "SHARD_COUNT": "2",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(self.port),
            "LOG_LEVEL": "ERROR",
            "DRAIN_SECONDS": str(DRAIN_S),
            "WS_HEARTBEAT_MS": "1000",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
        }
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.gateway"), env=child_environment(variables)
        )
        async with asyncio.timeout(30):
            while not await self.ready():  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.05)

    async def ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        try:
            return b" 200 " in await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()

    async def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(DRAIN_S + 20):
            return await self._process.wait()


class Balancer:
    """Spreads new connections over the nodes that are ready, like a Kubernetes service does."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._up: list[Node] = []
        self._next = 0
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
            self.port = server.sockets[0].getsockname()[1]
            await self._probe()
            probing = group.create_task(self._probe_on())
            try:
                yield
            finally:
                probing.cancel()
                server.close()

    async def _probe(self) -> None:
        ready = await asyncio.gather(*(node.ready() for node in self._nodes))
        self._up = [node for node, up in zip(self._nodes, ready, strict=True) if up]

    async def _probe_on(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            await self._probe()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, IndexError):
            self._next += 1
            node = self._up[self._next % len(self._up)] if self._up else self._nodes[0]
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", node.port)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        writer.transport.abort()
    finally:
        writer.close()


@dataclass
class Follower:
    """A client that obeys the protocol's rule and comes back with what it holds."""

    product: str
    seen: list[int] = field(default_factory=list)
    duplicates: int = 0
    breaks: int = 0
    snapshots: int = 0
    closes: Counter[int | None] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)
    held: int | None = None
    _epoch: int = 0
    _wait: Sequence[int] = (100, 1000)
    _lost_at: float | None = None

    async def run(self, port: int) -> None:
        while True:
            try:
                async with connect(f"ws://127.0.0.1:{port}/ws", compression=None) as socket:
                    await self._follow(socket)
            except ConnectionClosed as closed:
                self.closes[closed.rcvd.code if closed.rcvd is not None else None] += 1
                self._lost_at = time.monotonic()
                low, high = self._wait
                await asyncio.sleep(random.uniform(low, high) / 1000)
            except (InvalidHandshake, InvalidMessage, OSError, EOFError, TimeoutError):
                # Refused while no gateway is ready: not a connection that was lost.
                await asyncio.sleep(0.1)

    async def _follow(self, socket: ClientConnection) -> None:
        command: dict[str, Any] = {"type": "subscribe", "product": self.product}
        if self.held is not None:
            command |= {"from_seq": self.held, "epoch": self._epoch}
        await socket.send(msgspec.json.encode(command).decode())
        while True:
            self.take(msgspec.json.decode(await socket.recv()))

    def take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "snapshot":
            self.snapshots += 1
            record = message["snapshot"]
            self.held, self._epoch = record["seq"], record["epoch"]
            self.subscribed.set()
        elif kind == "incr":
            tick = message["tick"]
            if self.held is not None and tick["seq"] <= self.held:
                self.duplicates += 1
                return
            self.breaks += tick["prev"] != self.held
            self.held = tick["seq"]
            self.seen.append(tick["seq"])
        elif kind == "drain":
            self._wait = message["reconnect_after_ms"]
        elif kind == "backfill" and message["state"] == "end" and self._lost_at is not None:
            self.recoveries.append(time.monotonic() - self._lost_at)
            self._lost_at = None


@dataclass
class Fleet:
    """Everything that runs."""

    nodes: list[Node]
    markets: list[Market]
    followers: list[Follower]

    def caught_up(self) -> bool:
        newest = {market.key.product: market.seq for market in self.markets}
        return all(one.held == newest[one.product] for one in self.followers)


@asynccontextmanager
async def fleet(nats_url: str) -> AsyncIterator[Fleet]:
    """Two ready gateways behind the balancer, and everybody subscribed."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(NatsBroker((nats_url,), prefix="MARKET"))
        await broker.ensure(log_specs(small_settings()))
        publisher: Publisher = await broker.publisher()
        stack.push_async_callback(publisher.aclose)
        markets = [Market(publisher, product) for product in PRODUCTS]
        for market in markets:
            await market.ticks(20)
        nodes = [Node(nats_url), Node(nats_url)]
        for node in nodes:
            stack.push_async_callback(node.end, signal.SIGKILL)
        await asyncio.gather(*(node.start() for node in nodes))
        balancer = Balancer(nodes)
        await stack.enter_async_context(balancer.running())
        followers = [Follower(PRODUCTS[number % len(PRODUCTS)]) for number in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.run(balancer.port)) for one in followers]
            stop = asyncio.Event()
            trading = group.create_task(_trade(markets, stop))
            async with asyncio.timeout(30):
                await asyncio.gather(*(one.subscribed.wait() for one in followers))
            found = Fleet(nodes, markets, followers)
            yield found
            stop.set()
            await trading
            async with asyncio.timeout(30):
                while not found.caught_up():  # noqa: ASYNC110 - two hundred clients' own state
                    await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()


async def _trade(markets: list[Market], stop: asyncio.Event) -> None:
    while not stop.is_set():
        await random.choice(markets).ticks(2)
        await asyncio.sleep(2 / RATE)


def check(found: Fleet) -> None:
    """Nothing missing, nothing twice, no second snapshot: for each client the log's own tail."""
    chains = {market.key.product: market.chain for market in found.markets}
    for one in found.followers:
        chain = chains[one.product]
        assert one.seen == chain[len(chain) - len(one.seen) :]
        assert (one.breaks, one.duplicates, one.snapshots) == (0, 0, 1)


def closes(found: Fleet) -> Counter[int | None]:
    return sum((one.closes for one in found.followers), Counter[int | None]())


def report(found: Fleet) -> str:
    times = sorted(second for one in found.followers for second in one.recoveries)
    at = {name: times[int(len(times) * share)] for name, share in (("p50", 0.5), ("p99", 0.99))}
    return (
        f"{len(times)} recoveries of {CLIENTS} clients: p50 {at['p50']:.2f} s, "
        f"p99 {at['p99']:.2f} s, most {times[-1]:.2f} s; closes {dict(closes(found))}"
    )


async def test_both_gateways_are_replaced_under_load_and_nobody_misses_anything(
    nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fleet(nats_server.url) as found:
        for node in found.nodes:
            assert await node.end(signal.SIGTERM) == 0
            await node.start()
    check(found)
    assert set(closes(found)) <= {1012, 1001}
    assert closes(found).total() >= CLIENTS
    with capsys.disabled():
        sys.stderr.write(f"\n  rolling restart: {report(found)}\n")


async def test_without_the_drain_the_closes_are_abnormal_and_still_nothing_is_missed(
    nats_server: NatsServer,
) -> None:
    async with fleet(nats_server.url) as found:
        await found.nodes[0].end(signal.SIGKILL)
        lost = closes(found)
        while not lost[None] and not lost[1006]:
            await asyncio.sleep(0.05)
            lost = closes(found)
    check(found)
    assert set(closes(found)) - {1012, 1001}
