"""What is wrong once all faults are over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

from services.common.wire import decode_head
from tests.simulation.client import Client, Records
from tests.simulation.expected_errors import unexpected
from tests.simulation.leftovers import grown, held_by
from tests.simulation.plan import Plan
from tests.simulation.platform import HTTP_PORT, SHARDS, Platform
from tests.simulation.redis_part import RedisLogs
from tests.simulation.stored import Archive, Logs, archive_differs, held_in, rows_differ
from tests.simulation.world import World
from tools.stack.truth import Witness
from tools.subscriber import Subscriber, Want

_POLL_S = 2.0
# The market stands still in the end.
_WHOLE = ("live", "quiet")


class Judge:
    """Run `wrong` once, as a process of the world.

    Attributes:
        archived: how many tick records the archive has.
    """

    def __init__(
        self,
        it: World,
        platform: Platform,
        logs: Logs | RedisLogs,
        witness: Witness,
        clients: Mapping[str, Client],
        plan: Plan,
    ) -> None:
        self._it = it
        self._platform = platform
        self._logs = logs
        self._witness = witness
        self._clients = clients
        self._plan = plan
        self.archived = 0

    async def wrong(self, before: Mapping[str, Counter[str]], settle_s: float) -> list[str]:
        """Everything; `before` is what each part held before the faults."""
        wrong: list[str] = []
        for name, client in self._clients.items():
            comparison = await self._witness.compare(client.held, patience_s=settle_s)
            wrong += [f"{name}: {text}" for text in comparison.differences]
        wrong += await self._until_none(self._unsettled, settle_s)
        archive = held_in(Archive(self._platform.stores).indexed(SHARDS))
        comparison = await self._witness.compare(archive, patience_s=0)
        wrong += [f"archive: {text}" for text in comparison.differences]
        wrong += await self._until_none(lambda: self._leftovers(before), settle_s)
        wrong += await self._late_comer(settle_s)
        for name, client in self._clients.items():
            counts = client.subscriber.counts()
            if counts.unexplained:
                wrong.append(f"{name}: {counts.unexplained} unannounced breaks")
            wrong += [f"{name}: {text}" for text in client.misled]
            wrong += [f"{name}: {text}" for text in client.subscriber.errors]
        parts = self._platform.parts
        wrong += [f"not running: {part}" for part in parts if not self._platform.running(part)]
        wrong += [f"unhandled: {told}" for told in self._it.unhandled]
        wrong += unexpected(self._it.errors, self._plan.faults)
        return wrong

    async def _until_none(self, ask: Callable[[], list[str]], settle_s: float) -> list[str]:
        """What is wrong still after so long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + settle_s
        # Nobody in the platform knows when it is whole, and virtual time costs little.
        while (wrong := ask()) and loop.time() < deadline:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_POLL_S)
        return wrong

    def _unsettled(self) -> list[str]:
        wrong = [
            f"{name}: {stream} is {client.states.get(stream, 'not told of')}"
            for name, client in self._clients.items()
            for stream in client.subscriber.chains
            if client.states.get(stream) not in _WHOLE
        ]
        logs, stores = self._logs.ticks(), self._platform.stores
        archive = Archive(stores)
        wrong += rows_differ(logs, stores, archive)
        wrong += archive_differs(
            logs,
            archive,
            SHARDS,
            names_in_order=self._plan.names_in_order,
            nothing_left_lying=self._plan.nothing_left_lying,
        )
        self.archived = sum(map(len, logs.values()))
        return wrong

    def _leftovers(self, before: Mapping[str, Counter[str]]) -> list[str]:
        platform, wrong = self._platform, []
        together = [group for group in platform.together if all(part in before for part in group)]
        alone = [[part] for part in before if not any(part in group for group in together)]
        # A client of Redis keeps as many connections as it had calls under way at once.
        connections = 64 if platform.broker == "redis" else 0
        for group in [*together, *alone]:
            had = sum((before[part] for part in group), Counter())
            now = (held_by(self._it.loop, platform.process(part)) for part in group)
            wrong += grown(group[0], had, sum(now, Counter()), connections=connections)
        for name, snapshotter in platform.snapshotters.items():
            for pump in snapshotter.pumps:
                if held_bytes := pump.bound.held:
                    wrong.append(f"{name}: {held_bytes} bytes of {pump.name} held")
        return wrong

    async def _late_comer(self, settle_s: float) -> list[str]:
        """Who comes back with a position of long ago is sent everything behind it, once."""
        due: dict[str, list[tuple[int, int]]] = {}
        for key, payloads in self._logs.ticks().items():
            heads = [decode_head(payload) for payload in payloads]
            chained = [(one.epoch, one.seq) for one in heads if one.type in ("tick", "reset")]
            if chained:
                due[str(key)] = [place for place in chained if place[0] == chained[-1][0]]
        self._platform.drop_older_ticks()
        records = Records()
        wants = [
            Want(channel, (product,), from_seq=places[0][1])
            for name, places in due.items()
            for _venue, channel, product in [name.split(":")]
        ]
        url = f"ws://gateway-1:{HTTP_PORT}/ws"
        subscriber = Subscriber(url, wants, on_message=records.take)
        process = self._it.loop.start(self._it.network.machine("late-comer"), subscriber.run)
        wrong = await self._until_none(lambda: _unsent(due, records), settle_s)
        self._it.loop.kill(process)
        return wrong + [f"late comer: {text}" for text in subscriber.errors]


def _unsent(due: Mapping[str, list[tuple[int, int]]], records: Records) -> list[str]:
    return [
        f"late comer: {stream} has {len(records.chained.get(stream, []))} of {len(places) - 1}, "
        f"ended {stream in records.ended}"
        for stream, places in due.items()
        if records.chained.get(stream, []) != places[1:] or stream not in records.ended
    ]
