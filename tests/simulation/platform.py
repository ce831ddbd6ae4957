"""The platform in a simulated world: each part is a process on a machine of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from prometheus_client import CollectorRegistry

from services.common.runtime import Stop
from services.common.stores.s3_archive import S3ArchiveReader
from services.common.stream.factory import open_broker
from services.common.stream.specs import log_specs
from services.gateway.app import serve as serve_gateway
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import Metrics as GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.ingestor.__main__ import serve as serve_ingestor
from services.ingestor.settings import Settings as IngestorSettings
from services.normalizer.app import App as Normalizer
from services.normalizer.metrics import Metrics as NormalizerMetrics
from services.normalizer.settings import NormalizerSettings
from services.snapshotter.app import Snapshotter
from services.snapshotter.settings import SnapshotterSettings
from tests.simulation.machine import Process, running_process
from tests.simulation.nats_part import NatsPart
from tests.simulation.plan import BrokerKind
from tests.simulation.redis_part import RedisPart
from tests.simulation.stores.opened import Stores
from tests.simulation.world import World
from tools.simulator.exchange import SimulatedExchange

HTTP_PORT = 8080
SHARDS = 2


class Platform:
    """Starts the parts, each by its name, as often as it is told to.

    What a part keeps when it is killed is here: the exchange's market, the server's disk, the
    stores.
    """

    def __init__(
        self,
        world: World,
        products: tuple[str, ...],
        broker: BrokerKind = "nats",
        servers: int = 1,
        lines: int = 1,
        *,
        overlap: bool,
    ) -> None:
        self.world = world
        self.products = products
        self.broker = broker
        self._overlap = overlap
        # The ingestors' parts.
        self.lines = [f"ingestor-{number + 1}" for number in range(lines)]
        if lines == 1:
            self.lines = ["ingestor"]
        self.redis = RedisPart()
        self.stores = Stores(world.loop, Random(world.random.getrandbits(64)))
        self.nats = NatsPart(Random(world.random.getrandbits(64) if servers > 1 else 0), servers)
        self.exchange: SimulatedExchange | None = None
        # Each snapshotter that runs, by its part.
        self.snapshotters: dict[str, Snapshotter] = {}
        self._processes: dict[str, Process] = {}
        self._mains: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "exchange": self._exchange,
            **(self.nats.mains if broker == "nats" else {"redis": self.redis.main}),
            **dict.fromkeys(self.lines, self._ingestor),
            "normalizer-1": self._normalizer,
            "normalizer-2": self._normalizer,
            "snapshotter-1": self._snapshotter,
            "snapshotter-2": self._snapshotter,
            "gateway-1": self._gateway,
            "gateway-2": self._gateway,
        }

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self._mains)

    def start(self, part: str) -> None:
        """Start a part that does not run."""
        machine = self.world.network.machine(part)
        self._processes[part] = self.world.loop.start(machine, self._mains[part])

    def kill(self, part: str, *, unplugged: bool = False) -> None:
        """End a part as SIGKILL does, or (`unplugged`) as the loss of its machine does."""
        process = self._processes[part]
        if process.alive:
            self.world.loop.kill(process, unplugged=unplugged)
            if part in self.nats.servers:
                self.nats.killed(part, self.world.clock.true_time_ns(), unplugged=unplugged)
            elif part == "redis":
                self.redis.killed(unplugged=unplugged)

    def down(self, part: str, for_s: float, *, unplugged: bool = False) -> bool:
        """Kill a part and start it again after `for_s`; whether it ran."""
        if not self.running(part):
            return False
        self.kill(part, unplugged=unplugged)
        self.world.loop.call_later(for_s, self.start, part)
        return True

    @property
    def together(self) -> list[list[str]]:
        """Parts that take each other's place, or whose clients go from one to another."""
        groups = [list(self.nats.servers), self.lines]
        if len(self.lines) > 1:
            groups.append(["normalizer-1", "normalizer-2"])
        return [group for group in groups if len(group) > 1]

    def part_of(self, name: str, at_s: float) -> str:
        """The part that a fault at a time means: of several with one name the time says which."""
        if name == "ingestor":
            return self.lines[int(at_s * 1e6) % len(self.lines)]
        return self.nats.part_of(name, at_s)

    def running(self, part: str) -> bool:
        return self._processes[part].alive

    def process(self, part: str) -> Process:
        """The part's newest process."""
        return self._processes[part]

    def drop_older_ticks(self) -> None:
        """Let the tick logs go of their older half, as at their bound of bytes."""
        for name, stream in self.nats.disk.jetstream.streams.items():
            if "_TICK_" in name:
                before = (stream.first + stream.last) // 2
                for server in self.nats.servers.values():
                    server.jetstream.streams[name].purge(before)

    # -- the parts

    async def _exchange(self) -> None:
        async with SimulatedExchange(
            seed=self.world.random.getrandbits(32),
            products=self.products,
            host="0.0.0.0",
            port=HTTP_PORT,
            credentials=None,
            rate=20.0,
        ) as self.exchange:
            await asyncio.get_running_loop().create_future()

    async def _ingestor(self) -> None:
        settings = IngestorSettings(
            **self._common(),
            coinbase_products=self.products,
            coinbase_ws_primary=f"ws://exchange:{HTTP_PORT}",
            coinbase_ws_fallback=None,
            coinbase_rest_url=f"http://exchange:{HTTP_PORT}",
            ingestor_line=running_process().machine.name,
            ingestor_pair="main" if len(self.lines) > 1 else None,
        )
        await serve_ingestor(settings, Stop())

    async def _normalizer(self) -> None:
        settings = NormalizerSettings(**self._common(), normalizer_standby=len(self.lines) > 1)
        metrics = NormalizerMetrics(CollectorRegistry())
        await Normalizer(settings, open_broker(settings), metrics).serve(Stop())

    async def _snapshotter(self) -> None:
        part = running_process().machine.name
        shard = part.removeprefix("snapshotter-")
        own: dict[str, Any] = {
            "snapshotter_shards": str(int(shard) - 1),
            "archive_raw": shard == "1",
        }
        settings = SnapshotterSettings(
            **self._common(),
            **({} if self._overlap else own),
            snapshot_period_ms=500,
            archive_period_s=3,
            checkpoint_period_s=4,
        )
        stores = self.stores
        service = Snapshotter(
            settings,
            open_broker(settings),
            log_specs(settings),
            stores.rows(),
            stores.bucket(),
            stores.latest(consistent=True),
        )
        self.snapshotters[part] = service
        await service.run(Stop())

    async def _gateway(self) -> None:
        settings = GatewaySettings(**self._common())
        async with self.stores.latest() as latest, self.stores.objects() as objects:
            gateway = Gateway(
                settings,
                open_broker(settings),
                log_specs(settings),
                GatewayMetrics(CollectorRegistry()),
                latest,
                objects,
                S3ArchiveReader(objects),
            )
            async with serve_gateway(gateway):
                await asyncio.get_running_loop().create_future()

    def _common(self) -> dict[str, Any]:
        return {
            "broker_kind": self.broker,
            "redis_url": self.redis.url,
            "nats_urls": self.nats.urls,
            "js_replicas": len(self.nats.servers),
            "shard_count": SHARDS,
            "http_host": "0.0.0.0",
            "http_port": HTTP_PORT,
            "admin_port": None,
        }
