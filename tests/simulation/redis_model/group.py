"""A consumer group of a stream: where it is, and who holds what of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.redis_model.stream import Id


@dataclass(slots=True)
class Held:
    """An entry that was given out and not acknowledged; times in milliseconds since 1970."""

    consumer: bytes
    at_ms: int
    times: int = 1


@dataclass(slots=True)
class Group:
    """`last` is the newest id it was given; `read` how many entries those were, where known."""

    last: Id
    read: int | None
    pending: dict[Id, Held] = field(default_factory=dict)
    consumers: dict[bytes, None] = field(default_factory=dict)

    def hold(self, identity: Id, consumer: bytes, now_ms: int) -> None:
        """It is given to a consumer, and taken from whoever held it."""
        held = self.pending.get(identity)
        if held is None:
            self.pending[identity] = Held(consumer, now_ms)
        else:
            # Given out anew after the group was set back.
            held.consumer, held.at_ms, held.times = consumer, now_ms, 1

    def ack(self, identity: Id) -> bool:
        return self.pending.pop(identity, None) is not None

    def pending_from(self, first: Id) -> list[Id]:
        """What is pending from an id on, in order."""
        return sorted(identity for identity in self.pending if identity >= first)
