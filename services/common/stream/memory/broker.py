"""MemoryBroker: the whole contract inside one process, for tests and for single-process use."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.stream.broker_base import BrokerBase, GroupOptions, PublisherOptions
from services.common.stream.memory.client import MemoryClient, MemoryServer
from services.common.stream.memory.group import MemoryGroup
from services.common.stream.memory.live import MemoryLive
from services.common.stream.memory.log import MemoryLog
from services.common.stream.memory.publisher import MemoryPublisher
from services.common.stream.records import LogSpec, Message, Page, Position
from services.common.subjects import log_of

__all__ = ["MemoryBroker", "MemoryServer"]


class MemoryBroker(BrokerBase):
    """See `Broker`. Reads and writes the logs of `server`; without one, of a server of its own."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        super().__init__()
        self.server = server or MemoryServer()
        self._client = MemoryClient(self.server)

    # ------------------------------------------------------------------ life

    async def open(self) -> None:
        while not self.server.running:
            await self.server.bell.wait()

    async def _disconnect(self) -> None:
        self.server.bell.ring()

    async def ping(self) -> None:
        self._calls().check_answers()
        self.check_storing()

    def _calls(self) -> MemoryClient:
        self.check_open()
        return self._client

    # ------------------------------------------------------------------ logs

    def log(self, name: str) -> MemoryLog:
        """The log itself; beyond what a `Broker` is, for tests.

        Raises:
            BrokerUnavailable: the server is stopped, or nobody made this log.
        """
        return self._calls().log(name)

    async def ensure(self, specs: Sequence[LogSpec]) -> None:
        client = self._calls()
        client.check_answers()
        for spec in specs:
            client.ensure(spec)

    async def held(self, _log: str) -> None:
        """Logs are kept by age alone."""

    async def log_epoch(self, log: str) -> int:
        return self.log(log).epoch

    async def subjects(self, log: str) -> Sequence[str]:
        return self.log(log).subjects()

    # ------------------------------------------------------------------ publish and follow

    def _publisher(self, options: PublisherOptions) -> MemoryPublisher:
        return MemoryPublisher(self._calls(), options)

    def _group(self, options: GroupOptions) -> MemoryGroup:
        return MemoryGroup(self._calls(), options)

    def _live(self, log: str) -> MemoryLive:
        return MemoryLive(self._calls(), log)

    # ------------------------------------------------------------------ read

    async def read(self, subject: str, cursor: str = "", *, limit: int = 1000) -> Page:
        found, end, at_head = self.log(log_of(subject)).read(subject, cursor, limit)
        return Page(found, end, at_head)

    async def first(self, subject: str) -> Message | None:
        records = self.log(log_of(subject)).of(subject)
        return records[0] if records else None

    async def last(self, subject: str) -> Message | None:
        records = self.log(log_of(subject)).of(subject)
        return records[-1] if records else None

    async def seek(self, subject: str, after: Position) -> str:
        return self.log(log_of(subject)).seek(subject, after)
