"""The clients of one process: they come at a ramp, some are slow, some break off and resume.

`python -m tools.loadtest.load` is such a process: its share as JSON in, its counts as lines out.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from dataclasses import dataclass, replace

import msgspec
import uvloop
from market_data_fanout_client import Refused
from market_data_fanout_client.chain import Verdict

from tools.latency import LatencyHistogram
from tools.loadtest.counts import LoadCounts, Told
from tools.subscriber import Message, Subscriber, Want

# How long slow clients may take to catch up once they read as fast as they can.
_CATCH_UP_S = 60.0
_PROGRESS_S = 1.0


@dataclass(frozen=True)
class Load:
    """What to put on a gateway.

    Attributes:
        ramp: new connections a second.
        duration: seconds of measuring, from when the last client is subscribed.
        churn: connections cut on purpose each second, over all clients; each is resumed.
        slow: share of clients (0 to 1) that read only `slow_rate` messages a second. After the
            measuring they read as fast as they can, and should catch up with the others.
        resumers: share of clients that begin with `from_seq` 0: everything retained, then live.
    """

    url: str
    products: tuple[str, ...]
    channel: str
    clients: int
    duration: float
    ramp: float
    churn: float = 0.0
    slow: float = 0.0
    slow_rate: float = 5.0
    resumers: float = 0.0
    mode: str | None = None
    max_rate: float | None = None
    api_key: str | None = None

    def share(self, index: int, of: int) -> Load:
        """What the process `index` of `of` takes over."""
        clients = self.clients // of + (index < self.clients % of)
        return replace(self, clients=clients, ramp=self.ramp / of, churn=self.churn / of)


class LoadClient:
    """One verifying subscriber and what it measures beside the chain."""

    def __init__(self, load: Load, *, slow: bool, resumes: bool) -> None:
        want = Want(
            load.channel,
            load.products,
            from_seq=0 if resumes else None,
            mode=load.mode,
            max_rate=load.max_rate,
        )
        self.subscriber = Subscriber(
            load.url,
            [want],
            api_key=load.api_key,
            on_message=self._take,
            on_connection=self._connection,
            pause_s=1 / load.slow_rate if slow else 0.0,
        )
        self.slow = slow
        self.counts = LoadCounts(clients=1, slow=int(slow))
        self._asked = 0.0
        self._awaited: set[str] = set()
        self._behind: set[str] = set()
        self._heard = asyncio.Event()

    def reached(self, heads: dict[str, tuple[int, int]]) -> bool:
        """Whether every stream is at least there, and live."""
        chains = self.subscriber.chains
        return not self._behind and all(
            (chains[stream].epoch or 0, chains[stream].seq or 0) >= head
            for stream, head in heads.items()
        )

    async def reach(self, heads: dict[str, tuple[int, int]]) -> None:
        while not self.reached(heads):
            self._heard.clear()
            await self._heard.wait()

    def sum(self) -> LoadCounts:
        subscriber, counts = self.subscriber, self.counts
        counts.connected = int(subscriber.connected.is_set())
        counts.chains = subscriber.counts()
        counts.idle = int(not counts.chains.applied)
        counts.delta = LatencyHistogram() if self.slow else subscriber.latency
        counts.resumed, counts.drains = subscriber.resumes, subscriber.drains
        counts.errors = len(subscriber.errors)
        return counts

    def _connection(self, state: str) -> None:
        if state == "connected":
            self._asked = time.monotonic()
            self._awaited = set(self.subscriber.chains)
            self._behind.clear()

    def _take(self, message: Message, verdict: Verdict | None) -> None:
        self._heard.set()
        kind = message["type"]
        if kind == "snapshot" and verdict is Verdict.APPLY:
            record = message["snapshot"]
            stream = f"{record['venue']}:{record['channel']}:{record['product']}"
            if message.get("reason") == "subscribe" and stream in self._awaited:
                self.counts.snapshot.add((time.monotonic() - self._asked) * 1e6)
            self._awaited.discard(stream)
        elif kind == "incr":
            self.counts.conflated += message.get("merged", 1) - 1
        elif kind == "mode" and message["to"] == "catch_up":
            self.counts.catch_ups += 1
            self._behind.add(message["stream"])
        elif kind == "mode" and message["from"] == "catch_up":
            self.counts.recovered += 1
            self._behind.discard(message["stream"])


class LoadRun:
    """Run `run`; `sum` may be asked at any time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        slow, resumers = round(load.clients * load.slow), round(load.clients * load.resumers)
        # The slow ones first, the resumers last: a client is both only where they overlap.
        self.clients = [
            LoadClient(load, slow=n < slow, resumes=n >= load.clients - resumers)
            for n in range(load.clients)
        ]
        self.churned = 0
        self.began: float | None = None

    def sum(self) -> LoadCounts:
        total = LoadCounts(churned=self.churned)
        for client in self.clients:
            total.add(client.sum())
        return total

    async def run(self) -> float:
        """Ramp up, measure for the duration, let slow clients catch up; seconds but of the last.

        Raises:
            Refused: the gateway lets no such client in.
        """
        self.began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = []
                for client in self.clients:
                    tasks.append(group.create_task(client.subscriber.run()))
                    await asyncio.sleep(1 / self.load.ramp)
                for client in self.clients:
                    await client.subscriber.connected.wait()
                churning = group.create_task(self._churn())
                await asyncio.sleep(self.load.duration)
                churning.cancel()
                seconds = time.monotonic() - self.began
                await self._catch_up([client for client in self.clients if client.slow])
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return seconds

    async def _catch_up(self, slow: list[LoadClient]) -> None:
        """Let the slow ones read until they hold what anybody holds now, or for too long."""
        heads: dict[str, tuple[int, int]] = {}
        for client in self.clients:
            for stream, chain in client.subscriber.chains.items():
                held = chain.epoch or 0, chain.seq or 0
                heads[stream] = max(heads.get(stream, held), held)
        for client in slow:
            client.subscriber.hurry()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_S):
                for client in slow:
                    await client.reach(heads)
        for client in slow:
            client.counts.behind = int(not client.reached(heads))

    async def _churn(self) -> None:
        while self.load.churn:
            await asyncio.sleep(1 / self.load.churn)
            random.choice(self.clients).subscriber.cut()
            self.churned += 1


async def work(load: Load) -> None:
    run = LoadRun(load)

    async def progress() -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            tell(Told(run.sum()))

    async with asyncio.TaskGroup() as group:
        telling = group.create_task(progress())
        seconds = await run.run()
        telling.cancel()
    tell(Told(run.sum(), seconds))


def tell(told: Told) -> None:
    print(msgspec.json.encode(told).decode(), flush=True)


def main() -> None:
    load = msgspec.json.decode(sys.stdin.readline(), type=Load)
    try:
        uvloop.run(work(load))
    except ExceptionGroup as failed:
        refused, _ = failed.split(Refused)
        if refused is None:
            raise
        tell(Told(refused=str(refused.exceptions[0])))


if __name__ == "__main__":
    main()
