"""One run of the platform under a plan of faults, judged by what the exchange knows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.simulation.client import CHANNELS, Client, allowed_age_s
from tests.simulation.happening import Happening
from tests.simulation.judge import Judge
from tests.simulation.leftovers import held_by
from tests.simulation.plan import FIRST_S, Plan
from tests.simulation.platform import HTTP_PORT, Platform
from tests.simulation.redis_part import RedisLogs
from tests.simulation.stored import Logs
from tests.simulation.world import World, world
from tools.stack.truth import Witness
from tools.subscriber import Want

# How long everything has to be whole again once all faults are over: the longest documented waits
# of the parts, one after the other, in seconds.
SETTLE_S = 90.0
# How often the logs are looked at: much more often than they let go of a record.
_LOOK_S = 5.0


@dataclass
class Report:
    """What a run came to; it failed where `wrong` says anything."""

    wrong: list[str] = field(default_factory=list)
    ticks: int = 0
    resets: int = 0
    snapshots: int = 0
    archived: int = 0
    virtual_s: float = 0.0
    # Of all that chance decided, down to each delay: the same in each run of a seed.
    mark: str = ""
    # Faults that met something, and how often each store's met a request.
    happened: Counter[str] = field(default_factory=Counter)


class _Run:
    def __init__(self, it: World, plan: Plan) -> None:
        self._it = it
        self._plan = plan
        self._platform = Platform(
            it, plan.products, plan.broker, plan.servers, plan.lines, overlap=plan.overlap
        )
        self._logs: Logs | RedisLogs = (
            Logs(self._platform.nats.disk)
            if plan.broker == "nats"
            else RedisLogs(self._platform.redis)
        )
        self._happening = Happening(it, self._platform)
        self._before: dict[str, Counter[str]] = {}
        wants = [Want(channel, plan.products) for channel in CHANNELS]
        self._clients = {
            f"client-{number}": Client(
                f"ws://gateway-{number}:{HTTP_PORT}/ws",
                wants,
                lambda: it.clock.true_time_ns() // 1000,
                allowed_age_s(plan),
            )
            for number in (1, 2)
        }

    async def script(self) -> Report:
        loop, platform = self._it.loop, self._platform
        for part in platform.parts:
            platform.start(part)
            await asyncio.sleep(0.5)
        witness = Witness(f"http://exchange:{HTTP_PORT}", self._plan.products)
        await self._as_checker(witness.begin)
        for name, client in self._clients.items():
            loop.start(self._it.network.machine(name), client.subscriber.run)
        self._look()
        loop.call_at(FIRST_S - 0.5, self._remember)
        for fault in self._plan.faults:
            loop.call_at(fault.at_s, partial(self._happening.begin, fault))
        await asyncio.sleep(self._plan.seconds - loop.time())
        for client in self._clients.values():
            client.judging = False
        judge = Judge(self._it, platform, self._logs, witness, self._clients, self._plan)
        wrong = await self._as_checker(partial(judge.wrong, self._before, SETTLE_S))
        report = Report(wrong, archived=judge.archived, happened=self._happening.told())
        for client in self._clients.values():
            counts = client.subscriber.counts()
            report.ticks += counts.applied
            report.resets += counts.resets
            report.snapshots += counts.snapshots
        report.virtual_s = loop.time()
        report.mark = f"{self._it.network.random.getrandbits(64):016x}"
        return report

    def _look(self) -> None:
        self._logs.look()
        self._it.loop.call_later(_LOOK_S, self._look)

    def _remember(self) -> None:
        for part in self._platform.parts:
            self._before[part] = held_by(self._it.loop, self._platform.process(part))

    async def _as_checker(self, ask: Callable[[], Any]) -> Any:
        result: asyncio.Future[Any] = self._it.loop.create_future()

        async def main() -> None:
            try:
                result.set_result(await ask())
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                result.set_exception(error)

        self._it.loop.start(self._it.network.machine("checker"), main)
        return await result


def simulate(plan: Plan) -> Report:
    """Run a plan; the same plan gives the same report."""
    with world(plan.seed) as it:
        try:
            return it.run(_Run(it, plan).script())
        except TimeoutError:
            return Report([f"not over after {it.clock.monotonic():.0f} s"])
