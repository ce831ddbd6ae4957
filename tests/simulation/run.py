"""One run of the platform under a plan of faults, judged by what the exchange knows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.simulation.plan import FeedFault, Kill, Partition, Plan, Slow, WrongClock
from tests.simulation.platform import HTTP_PORT, Platform
from tests.simulation.world import World, world
from tools.stack.truth import Held, Witness
from tools.subscriber import Subscriber, Want

_CHANNELS = ("trades", "ticker", "book")
# How long everything has to be whole again once all faults are over: the longest documented waits
# of the parts, one after the other, in seconds.
_SETTLE_S = 90.0
_NS = 1_000_000_000


@dataclass
class Report:
    """What a run came to; it failed where `wrong` says anything."""

    wrong: list[str] = field(default_factory=list)
    ticks: int = 0
    resets: int = 0
    snapshots: int = 0
    virtual_s: float = 0.0


class _Client:
    """A subscriber, and what it holds."""

    def __init__(self, url: str, products: tuple[str, ...]) -> None:
        self.held = Held()
        wants = [Want(channel, products) for channel in _CHANNELS]
        self.subscriber = Subscriber(url, wants, on_message=self.held.take)


class _Run:
    def __init__(self, it: World, plan: Plan) -> None:
        self._it = it
        self._plan = plan
        self._platform = Platform(it, plan.products)
        self._clients = {
            f"client-{number}": _Client(f"ws://gateway-{number}:{HTTP_PORT}/ws", plan.products)
            for number in (1, 2)
        }

    async def script(self) -> Report:
        loop, platform = self._it.loop, self._platform
        for part in platform.parts:
            platform.start(part)
            await asyncio.sleep(0.5)
        exchange_url = f"http://exchange:{HTTP_PORT}"
        witness = Witness(exchange_url, self._plan.products)
        await self._as_checker(witness.begin)
        for name, client in self._clients.items():
            loop.start(self._it.network.machine(name), client.subscriber.run)
        for fault in self._plan.faults:
            loop.call_at(fault.at_s, partial(self._happen, fault))
        await asyncio.sleep(self._plan.seconds - loop.time())
        report = Report()
        for name, client in self._clients.items():
            compare = partial(witness.compare, client.held, patience_s=_SETTLE_S)
            comparison = await self._as_checker(compare)
            report.wrong += [f"{name}: {text}" for text in comparison.differences]
            counts = client.subscriber.counts()
            if counts.unexplained:
                report.wrong.append(f"{name}: {counts.unexplained} unannounced breaks")
            report.ticks += counts.applied
            report.resets += counts.resets
            report.snapshots += counts.snapshots
        report.wrong += [
            f"not running: {part}" for part in platform.parts if not platform.running(part)
        ]
        report.wrong += [f"unhandled: {told}" for told in self._it.unhandled]
        report.virtual_s = loop.time()
        return report

    async def _as_checker(self, ask: Any) -> Any:
        result: asyncio.Future[Any] = self._it.loop.create_future()

        async def main() -> None:
            try:
                result.set_result(await ask())
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                result.set_exception(error)

        self._it.loop.start(self._it.network.machine("checker"), main)
        return await result

    # -- faults

    def _happen(self, fault: Any) -> None:
        loop, network, platform = self._it.loop, self._it.network, self._platform
        match fault:
            case Kill():
                if platform.running(fault.part):
                    platform.kill(fault.part, unplugged=fault.unplugged)
                    loop.call_later(fault.for_s, platform.start, fault.part)
            case Partition():
                one, other = map(network.machine, fault.ends)
                ways = [network.way(one, other)]
                ways += [] if fault.one_way else [network.way(other, one)]
                for way in ways:
                    way.blocked = True
                    loop.call_later(fault.for_s, setattr, way, "blocked", False)
            case Slow():
                one, other = map(network.machine, fault.ends)
                for way in (network.way(one, other), network.way(other, one)):
                    before = way.jitter_ns
                    way.jitter_ns = max(before, round(fault.by_s * _NS))
                    loop.call_later(fault.for_s, setattr, way, "jitter_ns", before)
            case FeedFault():
                if platform.exchange is not None:
                    platform.exchange.control(**{fault.kind: {"count": fault.count}})
            case WrongClock():
                network.machine(fault.part).clock_ahead_ns += round(fault.by_s * _NS)


def simulate(plan: Plan) -> Report:
    """Run a plan; the same plan gives the same report."""
    with world(plan.seed) as it:
        try:
            return it.run(_Run(it, plan).script())
        except TimeoutError:
            return Report([f"not over after {it.clock.monotonic():.0f} s"])
