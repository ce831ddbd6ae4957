"""A memory broker whose open parts can be made to fail, for tests of those who opened them."""

from __future__ import annotations

from services.common.stream import GroupSubscription, LiveSubscription, Publisher
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
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

    def __init__(self, server: MemoryServer | None = None) -> None:
        super().__init__(server)
        self.publishers: list[Publisher] = []
        self.groups: list[GroupSubscription] = []
        self.lives: list[LiveSubscription] = []

    def _own[W: Worker](self, worker: W) -> W:
        part: object = worker
        match part:
            case Publisher():
                self.publishers.append(part)
            case GroupSubscription():
                self.groups.append(part)
            case LiveSubscription():
                self.lives.append(part)
        return super()._own(worker)
