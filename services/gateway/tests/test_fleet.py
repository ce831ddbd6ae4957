"""`WEB_CONCURRENCY`: several processes on one port, as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from services.common.settings import child_environment
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.specs import log_specs
from services.gateway.metrics import FleetMetrics
from services.gateway.testing import WAIT_S, Client, Market, eventually, small_settings
from services.gateway.workers import supervisor
from services.gateway.workers.supervisor import WorkerProcess, reserved_port
from tools.embedded import NatsServer, free_port

CLIENTS = 16
# How long three processes take to start is the machine's business.
pytestmark = pytest.mark.timeout(600)
START_S = 250


class Place:
    """A fleet of two on an embedded log."""

    def __init__(self, process: asyncio.subprocess.Process, market: Market) -> None:
        self.process = process
        self.market = market
        self.port = 0
        self.events: list[dict[str, Any]] = []

    async def note(self) -> None:
        """Keep what is logged."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            if line.startswith(b"{"):
                self.events.append(json.loads(line))

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=WAIT_S) as http:
            return await http.get(f"http://127.0.0.1:{self.port}{path}")

    async def until(
        self, path: str, fits: Callable[[httpx.Response], bool] = lambda one: one.is_success
    ) -> httpx.Response:
        """The first answer that fits; `port` is looked up if it is not set.

        On a busy machine a worker may be too late with its part of one.
        """
        if not self.port:
            await eventually(lambda: bool(self.logged("http_listening")), "a port", START_S)
            self.port = self.logged("http_listening")[0]["port"]
        answers: list[httpx.Response] = []

        async def answered() -> bool:
            answers.append(await self.get(path))
            return fits(answers[-1])

        despite = httpx.TransportError
        await eventually(answered, f"an answer of {path}", START_S, every=0.05, despite=despite)
        return answers[-1]

    async def ready(self) -> dict[str, Any]:
        """What `/readyz` says once it is ready."""
        body: dict[str, Any] = (await self.until("/readyz")).json()
        return body

    async def connections(self, wanted: int) -> list[int]:
        """How many each worker has, once they have so many together."""
        found: list[int] = []

        def whole(answer: httpx.Response) -> bool:
            samples = _samples(answer.text)
            known = [samples.get(("md_ws_connections", worker)) for worker in ("0", "1")]
            found[:] = [int(one) for one in known if one is not None]
            return len(found) == 2 and sum(found) == wanted

        await self.until("/metrics", whole)
        return found

    def client(self) -> Client:
        return Client(f"ws://127.0.0.1:{self.port}/ws")


def _samples(text: str) -> dict[tuple[str, str | None], float]:
    return {
        (one.name, one.labels.get("worker")): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


@asynccontextmanager
async def fleet(nats: NatsServer, **variables: str) -> AsyncIterator[Place]:
    async with NatsBroker((nats.url,), prefix="MARKET") as broker:
        await broker.ensure(log_specs(small_settings()))
        publisher = await broker.publisher()
        market = Market(publisher)
        await market.ticks(5)
        settings = {
            "NATS_URLS": nats.url,
            "SHARD_COUNT": "2",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
            "WEB_CONCURRENCY": "2",
            "LOG_FORMAT": "json",
            "DRAIN_SECONDS": "1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.gateway"),
            stderr=asyncio.subprocess.PIPE,
            env=child_environment({**settings, **variables}),
        )
        place = Place(process, market)
        async with asyncio.TaskGroup() as group:
            # It ends with standard error, which ends with the workers, and those with the process
            # that keeps them.
            group.create_task(place.note())
            try:
                yield place
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
        await publisher.aclose()


async def test_with_an_admin_port_the_keeper_tells_there_what_the_public_port_does_not(
    nats_server: NatsServer,
) -> None:
    public, admin = free_port(), free_port()
    async with fleet(nats_server, HTTP_PORT=str(public), ADMIN_PORT=str(admin)) as place:
        place.port = public
        assert await place.ready() == {"ready": True}
        for path in ("/metrics", "/info", "/docs", "/startupz"):
            assert (await place.get(path)).status_code == 404, path
        place.port = admin
        for path in ("/metrics", "/info", "/docs", "/docs.css", "/openapi.json", "/startupz"):
            await place.until(path)
        assert "worker-1" in (await place.ready())["checks"]


async def subscribed(place: Place, stack: AsyncExitStack) -> tuple[list[Client], list[int]]:
    """Clients that follow a stream, and how many of them each worker has: some."""
    clients: list[Client] = []
    shares: list[int] = []
    while not (shares and all(shares)):
        # The kernel deals connections out by their ports: all of sixteen may go to one.
        more = [await stack.enter_async_context(place.client()) for _ in range(CLIENTS)]
        for client in more:
            await client.send(type="subscribe", product="BTC-USD")
        for client in more:
            await client.of("snapshot")
        clients += more
        shares = await place.connections(len(clients))
    return clients, shares


@asynccontextmanager
async def reconnected(place: Place) -> AsyncIterator[Client]:
    """As clients do: while a worker ends, and while it starts, it refuses some."""
    async with AsyncExitStack() as stack:
        client: Client | None = None
        async with asyncio.timeout(START_S):
            while client is None:
                with suppress(OSError, InvalidHandshake):
                    client = await stack.enter_async_context(place.client())
        yield client


async def test_two_workers_share_the_clients_speak_as_one_and_drain_together(
    nats_server: NatsServer,
) -> None:
    async with fleet(nats_server) as place, AsyncExitStack() as stack:
        ready = await place.ready()
        assert set(ready["checks"]) == {"worker-0", "worker-1"}
        assert all(ready["workers"].values())
        clients, _ = await subscribed(place, stack)
        found = _samples((await place.until("/metrics")).text)
        assert found["md_worker_restarts_total", None] == 0
        assert (await place.until("/startupz")).json()["started"]
        assert (await place.get("/info")).json()["protocol"] == "md.v1.json"
        await place.market.ticks(3)
        for client in clients:
            await client.reach(place.market)
        place.process.send_signal(signal.SIGTERM)
        for client in clients:
            assert (await client.of("drain"))["resume"]
            assert await client.closed() == 1012
        async with asyncio.timeout(WAIT_S):
            assert await place.process.wait() == 0
        assert all(client.breaks == [] for client in clients)


async def test_a_killed_worker_is_started_again_and_costs_its_own_clients_a_reconnect_only(
    nats_server: NatsServer,
) -> None:
    async with fleet(nats_server) as place, AsyncExitStack() as stack:
        killed = (await place.ready())["workers"]["0"]
        clients, shares = await subscribed(place, stack)
        os.kill(killed, signal.SIGKILL)

        def one_is_down(answer: httpx.Response) -> bool:
            checks = answer.json()["checks"]
            ok = {name: checks.get(name, {}).get("ok") for name in ("worker-0", "worker-1")}
            return answer.status_code == 503 and ok == {"worker-0": False, "worker-1": True}

        # Ready is what all of them are, and whoever is asked says so.
        await place.until("/readyz", one_is_down)
        await place.market.ticks(20)
        lost = 0
        for client in clients:
            stream = str(place.market.key)
            try:
                await client.reach(place.market)
            except ConnectionClosed:
                lost += 1
                async with reconnected(place) as again:
                    await again.send(
                        type="subscribe", product="BTC-USD", from_seq=client.held[stream]
                    )
                    await again.reach(place.market)
                    seen = client.seen.get(stream, []) + again.seen[stream]
                    assert again.breaks == []
            else:
                seen = client.seen[stream]
            assert seen == place.market.chain[-len(seen) :]
            assert client.breaks == []
        assert lost == shares[0]
        ready = await place.ready()
        assert ready["workers"]["0"] not in (None, killed)
        (ended,) = place.logged("worker_ended")
        assert (ended["worker"], ended["how"]) == (0, "SIGKILL")
        assert ended["again_in_s"] <= 1
        # Workers end with the process that keeps them, and drain even then.
        async with place.client() as client:
            await client.of("welcome")
            place.process.kill()
            assert await client.closed() == 1012
        pids = ready["workers"].values()
        await eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


async def test_a_port_that_somebody_has_is_not_shared_with_him() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"), reserved_port("127.0.0.1", port):
            pass
    with reserved_port("127.0.0.1", 0) as port, socket.socket() as worker:
        # Held, but free for the workers, and nothing is taken from them.
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port), timeout=10):
                worker.accept()[0].close()


def test_a_broker_in_memory_cannot_be_shared() -> None:
    with pytest.raises(ValidationError, match="WEB_CONCURRENCY=2: expected 1 with BROKER_KIND"):
        small_settings(web_concurrency=2, broker_kind="memory")


async def test_a_worker_that_cannot_be_started_is_tried_again_and_ends_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = asyncio.Event()

    async def no_process(*_: Any, **__: Any) -> None:
        if worker.starts:
            tried.set()
        worker.starts += 1
        raise BlockingIOError(11, "Resource temporarily unavailable")

    class Counted(WorkerProcess):
        starts = 0

    metrics = FleetMetrics()
    worker = Counted(0, 1, lambda _asked: None, metrics)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_process)
    monkeypatch.setattr(supervisor, "_FIRST_S", 0.001)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(worker.run())
        async with asyncio.timeout(WAIT_S):
            await tried.wait()
        assert not running.done()
        worker.stop()
