"""The sink must notice everything that a server can do wrong, and nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest

from services.gateway.websocket.rfc6455.frames import text_frame
from tools.bench.fanout.cases import fanout
from tools.bench.fanout.servers import NoCompiler, Running, program, running
from tools.bench.fanout.sink import Found, SinkFault, sink
from tools.bench.fanout.ticks import FIRST, message, on_credits
from tools.bench.registry import NotHere, Run

_CLIENTS, _FLUSHES, _TICKS = 20, 12, 3
_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
# What a client is written for a flush: of the flush's messages, the client's and flush's numbers.
Manner = Callable[[list[bytes], int, int], Sequence[bytes]]


@pytest.fixture(autouse=True)
def compiled() -> None:
    try:
        program("sink"), program("limit")
    except NoCompiler as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@asynccontextmanager
async def _server(manner: Manner, besides: bytes = b"") -> AsyncIterator[Running]:
    """A server of this process that writes what `manner` says, and `besides` all the time."""
    writers: list[asyncio.StreamWriter] = []
    pipe, credits = os.pipe()
    flush_number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_ANSWER)
        writers.append(writer)
        await reader.read()
        writer.close()

    def flush() -> None:
        nonlocal flush_number
        first = FIRST + flush_number * _TICKS
        messages = [message(seq) for seq in range(first, first + _TICKS)]
        for number, writer in enumerate(writers):
            for piece in manner(messages, number, flush_number):
                if piece:
                    writer.write(piece)
                else:
                    writer.close()
        flush_number += 1

    async def talk() -> None:
        while besides:
            for writer in writers:
                writer.write(besides)
            await asyncio.sleep(0.05)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    on_credits(pipe, flush, lambda: None)
    try:
        async with asyncio.TaskGroup() as group:
            talking = group.create_task(talk())
            yield Running("ours", os.getpid(), server.sockets[0].getsockname()[1], credits)
            talking.cancel()
    finally:
        asyncio.get_running_loop().remove_reader(pipe)
        os.close(pipe)
        os.close(credits)
        server.close()


async def _sink(server: Running, *, silence_s: float = 20.0) -> Found:
    """`silence_s` is short only where silence is what has to be found: elsewhere a busy machine's
    pause would be called `missing` before the fault itself is seen."""
    return await sink(server, [_CLIENTS], flushes=_FLUSHES, ticks=_TICKS, silence_s=silence_s)


def _all(messages: list[bytes], _client: int, _flush: int) -> list[bytes]:
    return [b"".join(map(text_frame, messages))]


def _wrong(change: Callable[[list[bytes]], list[bytes]], at_flush: int) -> Manner:
    """Right but for one client in one flush."""

    def manner(messages: list[bytes], client: int, flush: int) -> list[bytes]:
        if client == 7 and flush == at_flush:
            return [b"".join(map(text_frame, change(messages)))]
        return _all(messages, client, flush)

    return manner


def _cut(messages: list[bytes], client: int, flush: int) -> list[bytes]:
    """In pieces whose borders are everywhere in the frames as clients and flushes go by."""
    data = _all(messages, client, flush)[0]
    first = 1 + (client * _FLUSHES + flush) % (len(data) - 2)
    return [data[:first], data[first : first + 1], data[first + 1 :]]


def _array(messages: list[bytes], _client: int, _flush: int) -> list[bytes]:
    return [text_frame(b"[" + b",".join(messages) + b"]")]


@pytest.mark.parametrize("manner", [_all, _cut, _array], ids=["whole", "cut", "arrays"])
async def test_every_frame_is_found_however_it_is_cut_or_joined(manner: Manner) -> None:
    async with _server(manner) as server:
        found = await _sink(server)
    assert found.deliveries == _CLIENTS * _FLUSHES * _TICKS
    assert found.delay_us is not None
    assert 0 < found.delay_us.p50 <= found.delay_us.p99 <= found.delay_us.max
    assert found.delay_us.client_median <= found.delay_us.client_slowest <= found.delay_us.max


def _next(messages: list[bytes]) -> bytes:
    return message(msgspec.json.decode(messages[-1])["tick"]["seq"] + 1)


@pytest.mark.parametrize(
    ("change", "at_flush", "kind"),
    [
        pytest.param(lambda all_: [all_[0], all_[2]], 5, "missing", id="lost"),
        pytest.param(lambda all_: all_[:2], _FLUSHES - 1, "missing", id="lost, the very last"),
        pytest.param(lambda all_: [all_[0], *all_], 5, "repeated", id="doubled"),
        pytest.param(
            lambda all_: [*all_, all_[2]], _FLUSHES - 1, "repeated", id="doubled, the very last"
        ),
        pytest.param(lambda all_: [all_[1], all_[0], all_[2]], 5, "missing", id="swapped"),
        pytest.param(
            lambda all_: [all_[0].replace(b'"prev":1', b'"prev":2'), *all_[1:]],
            *(5, "unchained"),
            id="linked to another",
        ),
        pytest.param(lambda all_: [*all_, _next(all_)], 5, "unasked", id="before it was asked for"),
    ],
)
async def test_one_wrong_frame_at_one_of_twenty_clients_is_found(
    change: Callable[[list[bytes]], list[bytes]], at_flush: int, kind: str
) -> None:
    async with _server(_wrong(change, at_flush)) as server:
        with pytest.raises(SinkFault) as found:
            await _sink(server, silence_s=1.0 if kind == "missing" else 20.0)
    assert found.value.kind == kind


async def test_a_server_that_only_says_other_things_is_found() -> None:
    chatter = text_frame(b'{"type":"hb"}')

    def manner(messages: list[bytes], client: int, flush: int) -> list[bytes]:
        return [] if flush == 5 else _all(messages, client, flush)

    async with _server(manner, besides=chatter) as server:
        with pytest.raises(SinkFault) as found:
            await _sink(server, silence_s=1.0)
    assert found.value.kind == "missing"


async def test_a_connection_that_ends_is_found() -> None:
    def manner(messages: list[bytes], client: int, flush: int) -> list[bytes]:
        return [b""] if client == 3 and flush == 2 else _all(messages, client, flush)

    async with _server(manner) as server:
        with pytest.raises(SinkFault, match="client") as found:
            await _sink(server)
    assert found.value.kind == "closed"


@pytest.mark.parametrize(
    "name", ["limit", "gateway", "gateway-batch", "websockets", "fastapi", "fastapi-queues"]
)
async def test_each_server_delivers_every_tick_in_frames_of_one_size(name: str) -> None:
    size = len(text_frame(message(FIRST)))
    async with running(name, _TICKS) as server:
        run = partial(sink, server, [5, _CLIENTS], warmup=2, ticks=_TICKS)
        found = await run(flushes=40)
    assert found.deliveries == _CLIENTS * 38 * _TICKS
    if name == "gateway-batch":
        # One header for all of a flush.
        assert found.bytes / found.deliveries < size
    else:
        # Heartbeats are all that comes besides.
        assert size <= found.bytes / found.deliveries < size * 1.05
    if name in ("limit", "gateway", "gateway-batch"):
        # One write for a flush: with one for each tick the sink would read three times as often.
        assert found.reads < 1.5 * found.deliveries / _TICKS
    assert found.cpu_s > 0
    assert [stage.clients for stage in found.stages] == [5, _CLIENTS]
    assert found.stages[0].rss_kib > 1000


async def test_a_paced_sink_asks_at_its_own_rate() -> None:
    async with running("limit", 1) as server:
        found = await sink(server, [_CLIENTS], flushes=60, ticks=1, warmup=10, rate=200)
    assert found.deliveries == _CLIENTS * 50
    # Never sooner; how much later is the machine's business.
    assert found.wall_s > 0.2


async def test_without_a_compiler_the_benchmark_says_so_and_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    run = Run("fanout", full=False, rounds=1, quick=True)
    with pytest.raises(NotHere, match="apt-get install gcc"):
        await fanout(run)
    assert not run.results
