"""Who waits for what: the model and the real Valkey wake the same readers by the same things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.stream.redis.client import RedisClient, Refused
from services.common.stream.redis.store_script import _STORE
from services.common.testing.conformance import until
from services.common.testing.redis_backend import Server
from tests.simulation.redis_model.server import ModelServer
from tools.embedded import ValkeyServer


@pytest.fixture(params=["model", "real"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    if request.param == "real":
        async with ValkeyServer() as real:
            yield real
        return
    model = ModelServer()
    await model.start()
    yield model
    model.kill()


class _Readers:
    """Readers that wait at a server, and one who writes."""

    def __init__(self, server: Server, tasks: asyncio.TaskGroup) -> None:
        self._url = server.url
        self._tasks = tasks
        self._writer = RedisClient(server.url)
        self.call = self._writer.call
        # One that keeps its connection.
        self.first = RedisClient(server.url)
        self._waiting = 0

    async def wait(self, *command: Any, client: RedisClient | None = None) -> asyncio.Task[Any]:
        """Begin to wait for the answer to a command, and be sure that the server has it."""
        self._waiting += 1
        own = client or RedisClient(self._url)

        async def told() -> Any:
            try:
                return await own.call(*command)
            except Refused as refused:
                return refused.reason
            finally:
                if client is None:
                    await own.aclose()

        waiter = self._tasks.create_task(told())
        await self.until_waiting(self._waiting)
        return waiter

    async def until_waiting(self, count: int) -> None:
        self._waiting = count

        async def all_wait() -> bool:
            return int((await self.call("INFO", "clients"))["blocked_clients"]) == count

        await until(all_wait)

    async def aclose(self) -> None:
        await self.first.aclose()
        await self._writer.aclose()


@pytest.fixture
async def readers(server: Server) -> AsyncIterator[_Readers]:
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        made = _Readers(server, tasks)
        await made.call("XGROUP", "CREATE", "one", "group", "0", "MKSTREAM")
        await made.call("XGROUP", "CREATE", "two", "group", "0", "MKSTREAM")
        yield made
        await made.aclose()


def _read(*more: str) -> tuple[str, ...]:
    return ("XREAD", "BLOCK", "0", "STREAMS", *more)


def _read_group(*keys: str) -> tuple[str, ...]:
    places = [">" for _ in keys]
    return ("XREADGROUP", "GROUP", "group", "me", "BLOCK", "0", "STREAMS", *keys, *places)


async def test_one_script_that_writes_to_two_streams_wakes_a_reader_once(
    readers: _Readers,
) -> None:
    live = await readers.wait(*_read("one", "two", "$", "0-0"))
    member = await readers.wait(*_read_group("one", "two"))
    await readers.call("SET", "epoch", "7")
    await readers.call("XADD", "registry", "*", "s", "x")
    keys = ("epoch", "registry", "trimmed", "one", "two")
    records = ("4", "1-0", "a", "", "5", "1-0", "b", "", "4", "2-0", "c", "")
    assert await readers.call("EVAL", _STORE, 5, *keys, "7", "1", "0", "0", *records) == 0
    one = [(b"1-0", {b"p": b"a"}), (b"2-0", {b"p": b"c"})]
    two = [(b"1-0", {b"p": b"b"})]
    assert await live == [[b"one", one], [b"two", two]]
    assert await member == await live


async def test_members_of_a_group_are_served_in_the_order_in_which_they_came(
    readers: _Readers,
) -> None:
    first = await readers.wait(*_read_group("one"), client=readers.first)
    second = await readers.wait(*_read_group("one"))
    await readers.call("XADD", "one", "1-0", "p", "a")
    assert await first == [[b"one", [(b"1-0", {b"p": b"a"})]]]
    await readers.until_waiting(1)
    # Who comes back waits behind those who wait already, whoever connected first.
    again = await readers.wait(*_read_group("one"), client=readers.first)
    await readers.call("XADD", "one", "2-0", "p", "b")
    assert await second == [[b"one", [(b"2-0", {b"p": b"b"})]]]
    await readers.until_waiting(1)
    await readers.call("XADD", "one", "3-0", "p", "c")
    assert await again == [[b"one", [(b"3-0", {b"p": b"c"})]]]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("DEL", "one"), "NOGROUP"),
        (("XGROUP", "DESTROY", "one", "group"), "NOGROUP"),
        (("SET", "one", "odd"), "WRONGTYPE"),
        (("FLUSHALL",), "NOGROUP"),
    ],
)
async def test_a_member_whose_stream_or_group_is_gone_is_told_and_a_reader_waits_on(
    readers: _Readers, change: tuple[str, ...], code: str
) -> None:
    live = await readers.wait(*_read("one", "two", "0-0", "0-0"))
    member = await readers.wait(*_read_group("one", "two"))
    await readers.call(*change)
    assert str(await member).startswith(code)
    await readers.until_waiting(1)
    await readers.call("XADD", "two", "5-0", "p", "x")
    # It reads all of its streams then, and one of them may be none by now.
    told = [[b"two", [(b"5-0", {b"p": b"x"})]]]
    assert await live == told if code == "NOGROUP" else str(await live).startswith(code)


async def test_a_group_that_is_set_back_wakes_nobody_before_something_comes(
    readers: _Readers,
) -> None:
    await readers.call("XADD", "one", "1-0", "p", "a")
    await readers.call(*_read_group("one"))
    member = await readers.wait(*_read_group("one"))
    await readers.call("XGROUP", "SETID", "one", "group", "0")
    await readers.until_waiting(1)
    await readers.call("XADD", "one", "2-0", "p", "b")
    assert await member == [[b"one", [(b"1-0", {b"p": b"a"}), (b"2-0", {b"p": b"b"})]]]


async def test_who_waited_for_nothing_is_told_so(readers: _Readers) -> None:
    assert not await readers.call("XREAD", "BLOCK", "20", "STREAMS", "one", "$")
    assert await readers.call("WAIT", "0", "100") == 0
    assert await readers.call("WAIT", "1", "20") == 0


async def test_who_waits_at_a_primary_that_becomes_a_replica_is_told(
    readers: _Readers, server: Server
) -> None:
    member = await readers.wait(*_read_group("one"))
    live = await readers.wait(*_read("one", "$"))
    if isinstance(server, ModelServer):
        server.become(read_only=True)
    else:
        await readers.call("REPLICAOF", "127.0.0.1", "1")
    for waiter in (member, live):
        assert str(await waiter).startswith("UNBLOCKED")
    with pytest.raises(Refused, match="read only replica"):
        await readers.call("XADD", "one", "1-0", "p", "a")
    with pytest.raises(Refused, match="read only replica"):
        await readers.call(*_read_group("one"))
    assert await readers.call("XLEN", "one") == 0
