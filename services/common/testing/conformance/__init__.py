"""One suite for every broker: a test for each clause of the contract in `stream/broker.py`.

Here is what it asks of a server under test, and how its tests read and write; `suite.py` is the
whole of it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from services.common.errors import BrokerUnavailable
from services.common.stream import (
    Broker,
    GroupSubscription,
    LiveSubscription,
    Message,
    Position,
    Publisher,
    Record,
)
from services.common.testing.broken import Unforeseen
from services.common.testing.waiting import eventually

LOG = "raw"
BTC = "market.raw.coinbase.ticker.BTC-USD"
ETH = "market.raw.coinbase.ticker.ETH-USD"
SOL = "market.raw.coinbase.trades.SOL-USD"
PATIENCE_S = 30.0


Part = Publisher | GroupSubscription | LiveSubscription


class Backend(ABC):
    """A server under test."""

    # Bytes of a record that is refused, or None where the limit is out of reach.
    too_large: int | None = None
    replaces: bool = True  # after `refuse` smaller ETH records are stored

    @abstractmethod
    def broker(self) -> Broker:
        """A new broker on this server, not open yet."""

    @abstractmethod
    async def kill(self) -> None:
        """Take the server away as a crash would."""

    @abstractmethod
    async def start(self) -> None:
        """Bring it back with what it had stored."""

    @abstractmethod
    async def wipe(self) -> None:
        """Make the stopped server forget every log."""

    async def restart(self, *, wiped: bool = False) -> None:
        """Kill it and bring it back, `wiped` without any log."""
        await self.kill()
        if wiped:
            await self.wipe()
        await self.start()

    @abstractmethod
    async def expire(self, broker: Broker) -> None:
        """Do what makes records of a log with 1 s of retention go away a little later."""

    @abstractmethod
    async def break_part(self, part: Part) -> None:
        """Let its work end by `Unforeseen`, at the latest when it has something to do."""

    @abstractmethod
    async def delete_group(self, broker: Broker, group: str) -> None:
        """Delete what the server itself keeps of a group on LOG, as an operator would."""

    @abstractmethod
    async def kept(self, broker: Broker, group: str) -> int:
        """Up to which BTC record the group's acked place is kept, of a LOG with BTC 1, 2, 3, ..."""

    @abstractmethod
    async def refuse(self, broker: Broker) -> None:
        """Let the server refuse from now on what publishers take: ETH records of 3,000 bytes."""

    @abstractmethod
    async def add_foreign(self, broker: Broker) -> int:
        """Put into the log what nothing of this platform writes; how many records were added."""


def let_raise(part: object, step: str) -> None:
    """Make a step of an object's work raise `Unforeseen`."""

    async def broken(*_arguments: object) -> None:
        raise Unforeseen("nobody thought of this")

    setattr(part, step, broken)


def record(seq: int, subject: str = BTC, *, epoch: int = 1, sub: int = 0) -> Record:
    return Record(subject, f"{subject}/{epoch}/{seq}/{sub}".encode(), Position(epoch, seq, sub))


def seqs(messages: Sequence[Message], subject: str = BTC) -> list[int]:
    return [message.position.seq for message in messages if message.subject == subject]


async def read_all(
    broker: Broker, subject: str = BTC, cursor: str = "", *, limit: int = 1000
) -> list[Message]:
    found: list[Message] = []
    while True:
        page = await broker.read(subject, cursor, limit=limit)
        found += page.messages
        cursor = page.cursor
        if page.at_head:
            return found


async def ended_by[E: Exception](kind: type[E], call: Awaitable[object]) -> E:
    """The error by which a call ends, as it should."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"it did not end by {kind.__name__}")


async def take(member: GroupSubscription, count: int, *, ack: bool = True) -> list[Message]:
    """The group's next records until `count` came."""
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            batch = await member.next_batch()
            found += batch
            if ack:
                await member.ack(batch)
    return found


async def follow(live: LiveSubscription, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found += (await live.next_batch()).messages
    return found


async def until(condition: Callable[[], Awaitable[bool]], patience_s: float = PATIENCE_S) -> None:
    """Wait until the condition holds; an unavailable broker counts as no."""
    await eventually(condition, seconds=patience_s, despite=BrokerUnavailable)


async def until_is[T](ask: Callable[[], Awaitable[T]], wanted: T) -> None:
    """`until` the answer is the one wanted."""

    async def holds() -> bool:
        return await ask() == wanted

    await until(holds)


async def answers(broker: Broker) -> bool:
    await broker.ping()
    return True


async def trips(broker: Broker, count: int = 20) -> None:
    """Give the server time by asking it things, in place of a clock."""
    for _ in range(count):
        await broker.log_epoch(LOG)
