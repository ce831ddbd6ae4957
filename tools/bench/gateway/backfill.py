"""Backfills of 10,000 ticks, beside a bare read and a bare write of the same bytes."""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import msgspec

from services.common.settings import child_environment
from services.common.stream import Broker, Position
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.specs import log_specs
from services.gateway.testing import Market, small_settings
from tools.bench.registry import Run, Sample, bench
from tools.embedded import NatsServer, free_port
from tools.stack.process import Process

_TICKS = 10_000
# Ticks before those, so that no two backfills from the log need the same pages.
_BEFORE = 1000
# A log holds many streams: as many records of each of these stand between those that are read.
_OTHERS = ("ETH-USD", "SOL-USD", "ADA-USD")
# Makes a tick about as long as one of Coinbase's `ticker` is.
_PADDING = 40
_PAGE = 1000
# In each round, one case after the other.
_REPEATS = 7
_END = b'"state":"end"'
_BUFFER_BYTES = 32 * 1024 * 1024
_TIMEOUT_S = 60.0

_LOG_BARE = "log: bare read by the broker's client"
_LOG = "log: through the gateway"
_LOG_AGAIN = "log: another client with the same position"
_WINDOW_BARE = "window: bare socket write of the same bytes"
_WINDOW = "window: through the gateway"


@bench("backfill")
async def backfill(run: Run) -> None:
    """10,000 ticks by `from_seq`, until the client has the last byte, beside bare ones in turn."""
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer())
        broker = await stack.enter_async_context(NatsBroker((nats.url,)))
        market = await _filled(broker)
        sources: dict[str, _Source] = {}
        for case, window_bytes in ((_LOG, 0), (_WINDOW, _BUFFER_BYTES)):
            gateway = await stack.enter_async_context(_gateway(nats.url, window_bytes))
            # Somebody else follows the stream already, and goes on.
            await asyncio.to_thread(stack.enter_context, closing(_follower(gateway.port)))
            connect = partial(_subscriber, gateway.port)
            sources[case] = _Source(connect, partial(_ask, market), gateway.pid or 0)
        _, same = await _collected(sources[_WINDOW], _BEFORE)
        _verify(same, market, _BEFORE)
        sources[_WINDOW_BARE] = stack.enter_context(_bare_writer(same))
        repeats = 1 if run.quick else _REPEATS
        for held in range(_BEFORE - run.rounds * repeats, _BEFORE):
            with run.measure(_LOG_BARE, nats, unit="tick") as sample:
                sample.count = await _read(broker, market, held)
            for case, source, position in (
                (_LOG, sources[_LOG], held),
                (_LOG_AGAIN, sources[_LOG], held),
                (_WINDOW_BARE, sources[_WINDOW_BARE], _BEFORE),
                (_WINDOW, sources[_WINDOW], _BEFORE),
            ):
                before = _cpu_s(source.pid)
                sample, received = await _collected(source, position)
                sample.count = _verify(received, market, position)
                sample.server_s = _cpu_s(source.pid) - before
                run.case(case, unit="tick").samples.append(sample)
    _compare(run, _LOG, _LOG_BARE, 3.0)
    run.note(_LOG_AGAIN, "its pages are held")
    _compare(run, _WINDOW, _WINDOW_BARE, 1.5)
    run.note(_WINDOW_BARE, f"{len(same) / 1e6:.1f} MB")


def _compare(run: Run, case: str, bare: str, most: float) -> None:
    ratios = [of(_walls(run, case)) / of(_walls(run, bare)) for of in (median, min)]
    run.note(case, "x {:.2f}, best to best {:.2f}; the aim is {:g}".format(*ratios, most))


def _walls(run: Run, case: str) -> list[float]:
    return [sample.wall_s for sample in run.case(case).samples]


# ---------------------------------------------------------------------- what is read


async def _filled(broker: Broker) -> Market:
    await broker.ensure(log_specs(small_settings(shard_count=1)))
    publisher = await broker.publisher()
    market = Market(publisher, shards=1, padding=_PADDING)
    others = [Market(publisher, product, shards=1, padding=_PADDING) for product in _OTHERS]
    await market.ticks(_BEFORE + 1)
    for _ in range(_TICKS // 100):
        for each in (market, *others):
            await each.ticks(100)
    await publisher.aclose()
    return market


def _seq(market: Market, held: int) -> int:
    """Of the record that a client holds."""
    return int(msgspec.json.decode(market.records[held])["seq"])


def _ask(market: Market, held: int) -> bytes:
    return _subscribe(_seq(market, held))


async def _read(broker: Broker, market: Market, held: int) -> int:
    """Find the place and read to the head."""
    cursor = await broker.seek(market.subject, Position(market.epoch, _seq(market, held)))
    count = 0
    while True:
        page = await broker.read(market.subject, cursor, limit=_PAGE)
        count += len(page.messages)
        cursor = page.cursor
        if page.at_head:
            return count


def _verify(received: bytes, market: Market, held: int) -> int:
    """How many ticks came.

    Raises:
        RuntimeError: not every tick came, byte for byte, in order, or one too many.
    """
    wanted = market.records[held + 1 :]
    at = 0
    for record in wanted:
        if (found := received.find(record, at)) < 0:
            raise RuntimeError(f"{record.decode()} is missing")
        at = found + len(record)
    if received.count(b'"type":"incr"') != len(wanted):
        raise RuntimeError("more ticks came than there are")
    return len(wanted)


# ---------------------------------------------------------------------- who sends it


@dataclass(frozen=True)
class _Source:
    """Sends what follows record `held`, and `_END`, when `ask(held)` is written to its socket."""

    connect: Callable[[], socket.socket]
    ask: Callable[[int], bytes]
    pid: int


@asynccontextmanager
async def _gateway(nats_url: str, window_bytes: int) -> AsyncIterator[Process]:
    variables = {
        "NATS_URLS": nats_url,
        "SHARD_COUNT": "1",
        "HTTP_HOST": "127.0.0.1",
        "LOG_LEVEL": "ERROR",
        "WINDOW_BYTES": str(window_bytes),
        # Nothing but what is measured is to be sent.
        "WS_HEARTBEAT_MS": "3600000",
        "WS_PING_INTERVAL_S": "3600",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }
    with tempfile.TemporaryDirectory(prefix="mdf-bench-") as folder:
        process = Process(
            "gateway",
            "services.gateway",
            port=free_port(),
            log_dir=Path(folder),
            ready_path="/readyz",
            environment=lambda port: child_environment({**variables, "HTTP_PORT": str(port)}),
        )
        try:
            await process.start()
            yield process
        finally:
            await process.stop()


@contextmanager
def _bare_writer(same: bytes) -> Iterator[_Source]:
    """A process that answers any byte with `same`, in one write."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_write_when_asked, args=(listener, same), daemon=True)
        process.start()
        try:
            yield _Source(
                partial(socket.create_connection, ("127.0.0.1", port), _TIMEOUT_S),
                lambda _held: _subscribe(0),
                process.pid or 0,
            )
        finally:
            process.kill()
            process.join()


def _write_when_asked(listener: socket.socket, same: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(4096)
            connection.sendall(same)
            # Until the other end has it all and closes.
            with suppress(ConnectionError):
                connection.recv(1)


def _cpu_s(pid: int) -> float:
    """On-CPU time of a process's threads, to the nanosecond (Linux): a backfill takes few ms."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


# ---------------------------------------------------------------------- the client


async def _collected(source: _Source, held: int) -> tuple[Sample, bytes]:
    return await asyncio.to_thread(_collect, source, held)


def _collect(source: _Source, held: int) -> tuple[Sample, bytes]:
    """Read as fast as a client can, and look at it afterwards."""
    buffer = bytearray(_BUFFER_BYTES)
    view = memoryview(buffer)
    at = 0
    with closing(source.connect()) as sock:
        ask = source.ask(held)
        wall, cpu = time.perf_counter(), time.thread_time()
        sock.sendall(ask)
        while buffer.find(_END, max(0, at - 300), at) < 0:
            if not (size := sock.recv_into(view[at:])):
                raise RuntimeError("the connection was closed")
            at += size
        sample = Sample(_TICKS, time.perf_counter() - wall, time.thread_time() - cpu)
    return sample, bytes(view[:at])


def _subscriber(port: int) -> socket.socket:
    """Connected and welcomed."""
    sock = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    received = b""
    while b'"type":"welcome"' not in received:
        received += sock.recv(4096)
    return sock


def _follower(port: int) -> socket.socket:
    """Subscribed, and has its snapshot."""
    sock = _subscriber(port)
    sock.sendall(_subscribe(None))
    received = b""
    while b'"type":"snapshot"' not in received:
        received += sock.recv(4096)
    return sock


def _subscribe(from_seq: int | None) -> bytes:
    """The command in a frame, masked with zeros, which leaves it as it is."""
    command = {"type": "subscribe", "product": "BTC-USD"}
    text = msgspec.json.encode(command | ({} if from_seq is None else {"from_seq": from_seq}))
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text
