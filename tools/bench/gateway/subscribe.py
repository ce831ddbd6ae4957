"""How soon a subscriber has its snapshot while a thousand others subscribe too."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from functools import partial

from tools.bench.gateway.slow_clients import SUBSCRIBE, Place, QuickReader
from tools.bench.registry import Run, bench, quantile

_RAMP_PER_S = 200
_SNAPSHOT = b'{"type":"snapshot"'


@bench("gateway-subscribe")
async def subscribe(run: Run) -> None:
    """From sending `subscribe` to the snapshot's first byte, 1,000 clients.

    With `BENCH_GATEWAY_PORT` it measures the gateway on that port of this machine, for example one
    of `make demo`; else one of its own on which 20 ticks/s are published.
    """
    clients = 1000
    async with AsyncExitStack() as stack:
        given = os.environ.get("BENCH_GATEWAY_PORT")
        pid: int | None = None
        if given is None:
            place = await stack.enter_async_context(Place(0))
            port, pid = place.port, place.pid
        else:
            port = int(given)
        found: dict[str, list[float]] = {"200 a second": [], "all at once": []}
        for _ in range(run.rounds):
            for case, seconds in found.items():
                loop = asyncio.get_running_loop()
                readers: list[_Subscriber] = []
                with run.measure(case, pid, unit="client") as sample:
                    sample.count = clients
                    for number in range(clients):
                        _, reader = await loop.create_connection(
                            partial(_Subscriber, wait=case == "all at once"), "127.0.0.1", port
                        )
                        readers.append(reader)
                        if case == "200 a second" and number % 10 == 0:
                            await asyncio.sleep(10 / _RAMP_PER_S)
                    if case == "all at once":
                        for reader in readers:
                            await reader.welcomed.wait()
                        for reader in readers:
                            reader.subscribe()
                    async with asyncio.timeout(60):
                        for reader in readers:
                            await reader.served.wait()
                seconds += [reader.took for reader in readers]
                for reader in readers:
                    reader.transport.abort()
                await asyncio.sleep(0.5)
        for case, seconds in found.items():
            p50, p99 = (quantile(seconds, share) for share in (0.5, 0.99))
            text = f"snapshot after subscribe: p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms"
            run.note(case, text)


class _Subscriber(QuickReader):
    """Notes when its snapshot came."""

    def __init__(self, *, wait: bool) -> None:
        super().__init__()
        self.welcomed = asyncio.Event()
        self.served = asyncio.Event()
        self.took = 0.0
        self._wait = wait
        self._since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # What is sent is the handshake; the rest is this class's.
        self.upgraded = True

    def subscribe(self) -> None:
        self._since = time.perf_counter()
        self.transport.write(SUBSCRIBE)

    def data_received(self, data: bytes) -> None:
        if not self.welcomed.is_set():
            self.welcomed.set()
            if not self._wait:
                self.subscribe()
        if not self.served.is_set() and _SNAPSHOT in data:
            self.took = time.perf_counter() - self._since
            self.served.set()
