"""A memory broker whose open parts can be made to fail, for tests of those who opened them."""

from __future__ import annotations

from services.common.stream import GroupSubscription, LiveSubscription, OnRefused, Publisher
from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.memory.publisher import MemoryPublisher
from services.common.stream.worker import Worker


class Unforeseen(Exception):
    """Stands for what nobody thought of."""


def break_part(part: Publisher | GroupSubscription | LiveSubscription) -> None:
    """Let a memory broker's part end as by an error in its work.

    A publisher ends when it has something to store, and what it took is not stored.
    """
    assert isinstance(part, Worker)
    unforeseen = Unforeseen("nobody thought of this")
    if not isinstance(part, Publisher):
        part.fail(unforeseen)
        return

    def broken(_now: float) -> None:
        raise unforeseen

    vars(part)["append"] = broken


def refuse_once(publisher: Publisher, larger_than: int) -> None:
    """Let what a memory broker's publisher stores next be refused where it is larger, in bytes."""
    assert isinstance(publisher, MemoryPublisher)
    server, append = publisher.server, publisher.append

    def refusing(now: float) -> None:
        del vars(publisher)["append"]
        limit, server.max_payload = server.max_payload, larger_than
        try:
            append(now)
        finally:
            server.max_payload = limit

    vars(publisher)["append"] = refusing


class PartsBroker(MemoryBroker):
    """Remembers what was opened on it, oldest first."""

    publishers: list[Publisher]
    groups: list[GroupSubscription]
    lives: list[LiveSubscription]

    async def open(self) -> None:
        self.publishers, self.groups, self.lives = [], [], []
        await super().open()

    async def publisher(
        self,
        *,
        max_records: int = 4096,
        max_bytes: int = 32 * 1024 * 1024,
        on_refused: OnRefused | None = None,
    ) -> Publisher:
        made = await super().publisher(
            max_records=max_records, max_bytes=max_bytes, on_refused=on_refused
        )
        self.publishers.append(made)
        return made

    async def group(
        self, log: str, group: str, *, max_pending: int = 8192, ack_wait_s: float = 30.0
    ) -> GroupSubscription:
        made = await super().group(log, group, max_pending=max_pending, ack_wait_s=ack_wait_s)
        self.groups.append(made)
        return made

    async def live(self, log: str) -> LiveSubscription:
        made = await super().live(log)
        self.lives.append(made)
        return made
