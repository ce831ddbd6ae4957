"""Several writers on one subject, on every broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from services.common.stream import Broker, LogSpec
from services.common.stream.dead_letters import InvalidLog
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.redis.broker import RedisBroker
from services.common.subjects import INVALID_LOG, INVALID_SUBJECT
from services.common.testing.broken import PartsBroker, break_part, refuse_once
from services.common.wire import Parked
from tools.embedded import NatsServer, ValkeyServer

Connect = Callable[[], Broker]
NOW = 1_790_000_000_000_000


@pytest.fixture(params=["memory", "nats", "redis"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    if request.param == "memory":
        memory = MemoryServer()
        yield lambda: MemoryBroker(memory)
    elif request.param == "nats":
        async with NatsServer() as nats:
            yield lambda: NatsBroker([nats.url], prefix="MARKET")
    else:
        async with ValkeyServer() as valkey:
            yield lambda: RedisBroker(valkey.url, prefix="market")


def parked(reason: str, ts: int = NOW) -> Parked:
    return Parked(1, reason, "", "", ts, "{")


async def reasons(broker: Broker) -> list[str]:
    page = await broker.read(INVALID_SUBJECT)
    return [msgspec.json.decode(message.payload, type=Parked).reason for message in page.messages]


async def test_what_several_services_park_in_the_same_microsecond_is_all_there(
    connect: Connect,
) -> None:
    writers = 4
    async with connect() as first, connect() as second:
        await first.ensure([LogSpec(INVALID_LOG, 600)])
        logs = [InvalidLog(broker) for broker in (first, second) for _ in range(writers // 2)]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number, one in enumerate(logs):
                group.create_task(_park(one, number))
        found = await reasons(first)
        expected = {
            f"{number}/{turn}/{n}"
            for number in range(writers)
            for turn in range(5)
            for n in range(3)
        }
        assert set(found) == expected
        for one in logs:
            await one.aclose()


async def _park(one: InvalidLog, number: int) -> None:
    for turn in range(5):
        await one.write([parked(f"{number}/{turn}/{n}") for n in range(3)])


async def test_a_writer_whose_clock_is_behind_is_not_refused(connect: Connect) -> None:
    async with connect() as broker:
        await broker.ensure([LogSpec(INVALID_LOG, 600)])
        ahead, behind = InvalidLog(broker), InvalidLog(broker)
        await ahead.write([parked("ahead", NOW + 60_000_000)])
        await behind.write([parked("behind")])
        assert await reasons(broker) == ["ahead", "behind"]
        await ahead.aclose()
        await behind.aclose()


async def test_a_corrupt_receive_time_does_not_use_up_the_positions(connect: Connect) -> None:
    async with connect() as broker:
        await broker.ensure([LogSpec(INVALID_LOG, 600)])
        log = InvalidLog(broker)
        await log.write([parked("before")])
        hostile = [
            parked("first", 2**63 - 1),
            parked("second", 2**63 - 2),
            parked("past", -(2**63)),
        ]
        await log.write(hostile)
        await log.write([parked("after")])
        assert await reasons(broker) == ["before", "first", "second", "past", "after"]
        newest = await broker.last(INVALID_SUBJECT)
        assert newest is not None
        assert newest.position.seq <= time.time_ns() // 1000 + 5
        await log.aclose()


async def test_a_publisher_that_broke_is_replaced() -> None:
    async with PartsBroker() as broker:
        await broker.ensure([LogSpec(INVALID_LOG, 600)])
        invalid = InvalidLog(broker)
        await invalid.write([parked("before")])
        break_part(broker.publishers[0])
        await invalid.write([parked("after")])
        assert await reasons(broker) == ["before", "after"]
        await invalid.aclose()


async def test_what_the_log_refuses_once_it_was_taken_costs_itself_only() -> None:
    async with PartsBroker() as broker:
        await broker.ensure([LogSpec(INVALID_LOG, 600)])
        log = InvalidLog(broker)
        await log.write([parked("first")])
        (publisher,) = broker.publishers
        refuse_once(publisher, 200)
        await log.write([parked("second"), parked("x" * 300), parked("third")])
        await log.write([parked("fourth")])
        assert await reasons(broker) == ["first", "second", "third", "fourth"]
        # The same one: it did not break.
        assert broker.publishers == [publisher]
        await log.aclose()


async def test_what_is_too_large_for_the_broker_is_parked_as_far_as_it_takes_it() -> None:
    server = MemoryServer(max_payload=1500)
    async with MemoryBroker(server) as broker:
        await broker.ensure([LogSpec(INVALID_LOG, 600)])
        invalid = InvalidLog(broker)
        large = msgspec.structs.replace(parked("large"), original="x" * 500_000)
        hopeless = parked("y" * 5000)
        await invalid.write([parked("first"), large, hopeless, parked("last")])
        assert await reasons(broker) == ["first", "large", "last"]
        await invalid.aclose()
