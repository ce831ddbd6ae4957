"""Libraries run unchanged in the simulated world; what happens there happens outside as well."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services.common.runtime import serve_http
from tests.simulation.clocks import NAMES, make_replaceable
from tests.simulation.loop import EverybodyWaits
from tests.simulation.machine import AddressInUse
from tests.simulation.world import World, world


async def serve_echo(port: int = 80) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", port)
    await asyncio.get_running_loop().create_future()
    server.close()


async def done(it: World, machine: str, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run `main` as a process of that machine to its end; what it returns or raises."""
    result: asyncio.Future[Any] = it.loop.create_future()

    async def process() -> None:
        try:
            answer = await main()
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            result.set_exception(error)
        else:
            result.set_result(answer)

    it.loop.start(it.network.machine(machine), process)
    return await result


def test_time_passes_only_while_all_wait() -> None:
    with world(1) as it:

        async def script() -> tuple[float, float]:
            began, wall = time.monotonic(), time.time()
            await asyncio.sleep(86_400)
            return time.monotonic() - began, time.time() - wall

        monotonic, wall = it.run(script(), within_s=100_000)
    assert monotonic == pytest.approx(86_400)
    assert wall == pytest.approx(86_400)


def test_a_clock_that_was_kept_before_shows_the_worlds_time_inside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in NAMES:
        monkeypatch.setattr(time, name, getattr(time, name))
    make_replaceable()
    kept = time.monotonic
    outside = kept()
    with world(1) as it:
        it.run(asyncio.sleep(1000), within_s=2000)
        assert kept() == pytest.approx(1000)
    assert outside <= kept() < outside + 600


def test_a_generator_of_somebodys_own_follows_from_the_seed() -> None:
    def drawn(seed: int) -> float:
        with world(seed):
            return random.Random().random()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_what_can_never_happen_is_told_at_once() -> None:
    with world(1) as it:

        async def forever() -> None:
            await asyncio.sleep(1000)
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            it.run(forever(), within_s=100)
        with pytest.raises(EverybodyWaits):
            it.loop.run_until_complete(asyncio.Event().wait())


def test_each_machine_has_its_own_wall_clock() -> None:
    with world(1) as it:

        async def script() -> list[int]:
            right, wrong = it.network.machine("right"), it.network.machine("wrong")
            wrong.clock_ahead_ns, wrong.clock_drift = 5_000_000_000, 0.1
            await asyncio.sleep(10)
            told: list[int] = []

            async def look() -> None:
                told.append(time.time_ns())

            it.loop.start(right, look)
            it.loop.start(wrong, look)
            await asyncio.sleep(0)
            return told

        right, wrong = it.run(script())
    assert wrong - right == 6_000_000_000


def test_one_seed_gives_one_run_and_another_gives_another() -> None:
    def run(seed: int) -> list[object]:
        with world(seed) as it:

            async def talk() -> list[object]:
                reader, writer = await asyncio.open_connection("server", 80)
                told: list[object] = [uuid.uuid4()]
                for number in range(5):
                    writer.write(b"%d" % number)
                    told += [await reader.read(100), time.time_ns()]
                writer.close()
                return told

            async def script() -> list[object]:
                it.loop.start(it.network.machine("server"), serve_echo)
                return list(await done(it, "client", talk))

            return it.run(script())

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_websockets_httpx_and_uvicorn_run_as_they_are() -> None:
    with world(3) as it:

        async def hello(request: Request) -> JSONResponse:
            return JSONResponse({"from": request.client.host if request.client else ""})

        async def http() -> None:
            async with serve_http(Starlette(routes=[Route("/", hello)]), "0.0.0.0", 8080):
                await asyncio.get_running_loop().create_future()

        async def socket_server() -> None:
            async def echo(connection: websockets.ServerConnection) -> None:
                async for message in connection:
                    await connection.send(message)

            async with websockets.serve(echo, "0.0.0.0", 8081):
                await asyncio.get_running_loop().create_future()

        async def ask() -> tuple[Any, Any]:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get("http://server:8080/")
            async with websockets.connect("ws://sockets:8081", proxy=None) as connection:
                await connection.send("x" * 1_000_000)
                return answer.json(), await connection.recv()

        async def script() -> tuple[Any, Any]:
            it.loop.start(it.network.machine("server"), http)
            it.loop.start(it.network.machine("sockets"), socket_server)
            await asyncio.sleep(1)
            return tuple(await done(it, "client", ask))

        told, echoed = it.run(script())
        assert told == {"from": it.network.machine("client").address}
    assert echoed == "x" * 1_000_000
    assert it.unhandled == []


def test_a_killed_process_runs_nothing_more_and_its_peers_are_told() -> None:
    with world(4) as it:
        ran: list[str] = []

        async def victim() -> None:
            try:
                async with asyncio.timeout(30):
                    await serve_echo()
            finally:
                ran.append("finally")

        async def client() -> bytes:
            reader, writer = await asyncio.open_connection("server", 80)
            writer.write(b"once")
            with closing(writer):
                first = await reader.read(100)
                return first + await reader.read(100)

        async def script() -> bytes:
            process = it.loop.start(it.network.machine("server"), victim)
            it.loop.call_later(1, it.loop.kill, process)
            answer = await done(it, "client", client)
            assert time.monotonic() == pytest.approx(1, abs=0.01)
            with pytest.raises(ConnectionRefusedError):
                await done(it, "client", client)
            await asyncio.sleep(60)
            return bytes(answer)

        assert it.run(script()) == b"once"
        assert ran == []


def test_who_is_unplugged_is_missed_only_by_silence_until_it_is_back() -> None:
    with world(5) as it:

        async def client() -> float:
            reader, writer = await asyncio.open_connection("server", 80)
            await asyncio.sleep(2)
            writer.write(b"anybody?")
            with pytest.raises(ConnectionResetError):
                await reader.read(100)
            return time.monotonic()

        async def script() -> float:
            machine = it.network.machine("server")
            process = it.loop.start(machine, serve_echo)
            it.loop.call_later(1, lambda: it.loop.kill(process, unplugged=True))
            it.loop.call_later(20, it.loop.start, machine, serve_echo)
            return float(await done(it, "client", client))

        assert 20 <= it.run(script()) < 21


def test_what_was_sent_into_a_partition_arrives_when_it_heals() -> None:
    with world(6) as it:

        async def client() -> tuple[bytes, float]:
            reader, writer = await asyncio.open_connection("server", 80)
            way = it.network.way(it.network.machine("client"), it.network.machine("server"))
            way.blocked = True
            it.loop.call_later(10, setattr, way, "blocked", False)
            with closing(writer):
                writer.write(b"one")
                writer.write(b"two")
                return await reader.readexactly(6), time.monotonic()

        async def script() -> tuple[bytes, float]:
            it.loop.start(it.network.machine("server"), serve_echo)
            return tuple(await done(it, "client", client))

        answer, when = it.run(script())
        assert answer == b"onetwo"
        assert 10 <= when < 11


def test_a_reader_that_does_not_read_makes_the_writer_wait() -> None:
    with world(7) as it:

        async def client() -> tuple[int, int]:
            reader, writer = await asyncio.open_connection("server", 80, limit=1024)
            writer.write(b"x" * 10_000_000)
            await asyncio.sleep(10)
            stuck = writer.transport.get_write_buffer_size()
            read = 0
            while read < 10_000_000:
                read += len(await reader.read(65536))
            await writer.drain()
            writer.close()
            return stuck, writer.transport.get_write_buffer_size()

        async def script() -> tuple[int, int]:
            it.loop.start(it.network.machine("server"), serve_echo)
            return tuple(await done(it, "client", client))

        stuck, after = it.run(script())
        assert 8_000_000 < stuck < 10_000_000
        assert after == 0


def test_a_port_has_one_listener() -> None:
    with world(8) as it:

        async def script() -> None:
            it.loop.start(it.network.machine("server"), serve_echo)
            await asyncio.sleep(0)
            with pytest.raises(AddressInUse):
                await done(it, "server", serve_echo)

        it.run(script())


def test_sets_of_tasks_and_futures_have_the_same_order_in_every_run_of_a_seed() -> None:
    """A task group ends its tasks in the order of a set."""

    async def script() -> list[int]:
        loop = asyncio.get_running_loop()
        made = [
            one
            for _ in range(100)
            for one in (loop.create_task(asyncio.sleep(0)), loop.create_future())
        ]
        return [hash(one) for one in made]

    with world(1) as it:
        numbers = it.run(script())
    assert numbers == list(range(numbers[0], numbers[0] + 200))
