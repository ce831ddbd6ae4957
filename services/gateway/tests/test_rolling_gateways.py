"""Two gateways behind a TCP balancer are replaced under load, as an orchestrator does it.

The same restart with the drain switched off (`DRAIN_SECONDS=0`) shows that the test can see what
the drain is for.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from services.common.settings import child_environment
from services.common.stream import Publisher
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.specs import log_specs
from services.gateway.testing import WAIT_S, Market, eventually, small_settings
from tools.embedded import NatsServer, free_port

CLIENTS = 200
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD", "ADA-USD")
# Eight processes' worth of work at times; how long the machine takes for it is its own business.
pytestmark = pytest.mark.timeout(600)
START_S = 300
# Ticks a second, all products together.
RATE = 60
DRAIN_S = 4.0
# Between two probes of the balancer. A node goes away right after one, so this is how long new
# connections are still sent to it: less than the first moment of a drain, when nobody is closed.
PROBE_S = 0.5


class Node:
    """One gateway, in its own process."""

    def __init__(self, nats_url: str, drain_s: float) -> None:
        self.port = free_port()
        self._nats_url = nats_url
        self._drain_s = drain_s
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return when it is ready."""
        variables = {
            "NATS_URLS": self._nats_url,
            "SHARD_COUNT": "2",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(self.port),
            "LOG_LEVEL": "ERROR",
            "DRAIN_SECONDS": str(self._drain_s),
            "WS_HEARTBEAT_MS": "1000",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
        }
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.gateway"), env=child_environment(variables)
        )
        await eventually(self.ready, "a gateway that is ready", START_S, every=0.05)

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
        async with asyncio.timeout(self._drain_s + WAIT_S):
            return await self._process.wait()


class Balancer:
    """Spreads new connections over the nodes that are ready, like a Kubernetes service does."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._up: list[Node] = []
        self._next = 0
        self._probed = asyncio.Condition()
        # When the probe began by which new connections are sent, this process's clock.
        self._begun = 0.0
        self._blind = False
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
            self.port = server.sockets[0].getsockname()[1]
            # They have just been ready.
            self._up, self._begun = list(self._nodes), time.monotonic()
            probing = group.create_task(self._probe_on())
            try:
                yield
            finally:
                probing.cancel()
                server.close()

    async def _probe(self) -> None:
        begun = time.monotonic()
        ready = await asyncio.gather(*(node.ready() for node in self._nodes))
        self._begun = begun
        self._up = [node for node, up in zip(self._nodes, ready, strict=True) if up]

    async def _probe_on(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            if self._blind:
                continue
            await self._probe()
            async with self._probed:
                self._probed.notify_all()

    async def has_probed(self) -> None:
        """Wait for the next probe: what happens from now on is noticed as late as possible."""
        async with self._probed:
            await self._probed.wait()

    @contextmanager
    def blind(self) -> Iterator[None]:
        """Notice nothing while the block runs, however long that is."""
        self._blind = True
        try:
            yield
        finally:
            self._blind = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came = time.monotonic()
        with suppress(OSError, IndexError):
            async with self._probed:
                # However late this busy process probes, nobody is sent by an older one.
                await self._probed.wait_for(lambda: self._blind or self._begun >= came - PROBE_S)
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
    refused: int = 0
    recoveries: list[float] = field(default_factory=list)
    subscribed: asyncio.Event = field(default_factory=asyncio.Event)
    held: int | None = None
    connected: bool = False
    _epoch: int = 0
    _wait: Sequence[int] = (100, 1000)
    _lost_at: float | None = None

    async def run(self, port: int) -> None:
        while True:
            try:
                async with connect(f"ws://127.0.0.1:{port}/ws", compression=None) as socket:
                    self.connected = True
                    await self._follow(socket)
            except ConnectionClosed as closed:
                self.connected = False
                self.closes[closed.rcvd.code if closed.rcvd is not None else None] += 1
                self._lost_at = time.monotonic()
                low, high = self._wait
                await asyncio.sleep(random.uniform(low, high) / 1000)
            except (InvalidHandshake, InvalidMessage, OSError, EOFError, TimeoutError):
                self.refused += 1
                await asyncio.sleep(0.1)  # a client's pause before it tries again

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
    balancer: Balancer
    markets: list[Market]
    followers: list[Follower]

    def caught_up(self) -> bool:
        newest = {market.key.product: market.seq for market in self.markets}
        return all(one.held == newest[one.product] for one in self.followers)

    async def restart(self, node: Node) -> None:
        await self.balancer.has_probed()
        assert await node.end(signal.SIGTERM) == 0
        await self.bring_back(node)

    async def restart_unnoticed(self, node: Node) -> None:
        """The balancer looks again only when it has sent somebody to the node that is gone."""
        with self.balancer.blind():
            assert await node.end(signal.SIGTERM) == 0
            await eventually(lambda: self.harm()["refused"] > 0, "a refused client")
        await self.bring_back(node)

    async def bring_back(self, node: Node) -> None:
        await node.start()
        # Its turn is over when it is given clients again, and when those it sent away are back: a
        # rollout goes on after readiness, `minReadySeconds` and the next pod's preStop.
        await self.balancer.has_probed()
        await eventually(self.all_connected, "everybody back", START_S)

    def all_connected(self) -> bool:
        return all(one.connected for one in self.followers)

    def closes(self) -> Counter[int | None]:
        return sum((one.closes for one in self.followers), Counter[int | None]())

    def harm(self) -> dict[str, int]:
        """What clients noticed beyond an announced close; a restart has to keep all at 0."""
        chains = {market.key.product: market.chain for market in self.markets}
        missed = 0
        for one in self.followers:
            chain = chains[one.product]
            missed += one.seen != chain[len(chain) - len(one.seen) :]
        return {
            "abnormal closes": sum(n for code, n in self.closes().items() if code not in {1012}),
            "refused": sum(one.refused for one in self.followers),
            "missed": missed + sum(one.breaks for one in self.followers),
            "duplicates": sum(one.duplicates for one in self.followers),
            "second snapshots": sum(one.snapshots - 1 for one in self.followers),
        }


@asynccontextmanager
async def fleet(nats_url: str, drain_s: float = DRAIN_S) -> AsyncIterator[Fleet]:
    """Two ready gateways behind the balancer, and everybody subscribed."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(NatsBroker((nats_url,), prefix="MARKET"))
        await broker.ensure(log_specs(small_settings()))
        publisher: Publisher = await broker.publisher()
        stack.push_async_callback(publisher.aclose)
        markets = [Market(publisher, product) for product in PRODUCTS]
        for market in markets:
            await market.ticks(20)
        nodes = [Node(nats_url, drain_s), Node(nats_url, drain_s)]
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
            # Each node gets its half, whatever one says of itself while a busy machine starts all.
            with balancer.blind():
                async with asyncio.timeout(START_S):
                    await asyncio.gather(*(one.subscribed.wait() for one in followers))
            found = Fleet(nodes, balancer, markets, followers)
            yield found
            stop.set()
            await trading
            await eventually(found.caught_up, "everybody at the head", START_S, every=0.02)
            for task in tasks:
                task.cancel()


async def _trade(markets: list[Market], stop: asyncio.Event) -> None:
    while not stop.is_set():
        await random.choice(markets).ticks(2)
        await asyncio.sleep(2 / RATE)


def report(found: Fleet) -> str:
    times = sorted(second for one in found.followers for second in one.recoveries)
    at = {name: times[int(len(times) * share)] for name, share in (("p50", 0.5), ("p99", 0.99))}
    return (
        f"{len(times)} recoveries of {CLIENTS} clients: p50 {at['p50']:.2f} s, "
        f"p99 {at['p99']:.2f} s, most {times[-1]:.2f} s; closes {dict(found.closes())}; "
        + ", ".join(f"{what} {count}" for what, count in found.harm().items())
    )


def tell(capsys: pytest.CaptureFixture[str], what: str, found: Fleet) -> None:
    with capsys.disabled():
        sys.stderr.write(f"\n  {what}: {report(found)}\n")


async def test_both_gateways_are_replaced_under_load_and_nobody_misses_anything(
    nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fleet(nats_server.url) as found:
        for node in found.nodes:
            await found.restart(node)
    tell(capsys, "rolling restart", found)
    assert found.closes().total() >= CLIENTS
    assert set(found.harm().values()) == {0}, found.harm()


async def test_without_the_drain_clients_are_refused_or_cut_and_still_miss_nothing(
    nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fleet(nats_server.url, drain_s=0) as found:
        restarted, killed = found.nodes
        # The drain is the time that a balancer has to notice: here it has none.
        await found.restart_unnoticed(restarted)
        await killed.end(signal.SIGKILL)
        await eventually(lambda: found.harm()["abnormal closes"] > 0, "a client that was cut")
    tell(capsys, "one restarted without a drain, one killed", found)
    # The check of the test above would not hold: that is what it is able to see.
    harm = found.harm()
    assert harm["refused"] > 0
    assert harm["missed"] == harm["duplicates"] == harm["second snapshots"] == 0
