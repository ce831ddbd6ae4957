"""Backfills of 10,000 ticks, beside a bare read and a bare write of the same bytes."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import msgspec

from services.common.stream import Broker, Position
from services.gateway.testing import Market
from tools.bench.registry import Run, Sample, bench, process_cpu_s
from tools.bench.servers import broker, gateway_process
from tools.bench.websocket import command, handshake
from tools.embedded import NatsServer

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
        log = await stack.enter_async_context(broker("nats", nats, shards=1))
        market = await _filled(log)
        sources: dict[str, _Source] = {}
        for case, window_bytes in ((_LOG, 0), (_WINDOW, _BUFFER_BYTES)):
            starting = gateway_process(
                nats.url,
                SHARD_COUNT="1",
                WINDOW_BYTES=str(window_bytes),
                # Nothing but what is measured is to be sent.
                WS_HEARTBEAT_MS="3600000",
                WS_PING_INTERVAL_S="3600",
                STALE_AFTER_MS="3600000",
            )
            pid, port = await stack.enter_async_context(starting)
            # Somebody else follows the stream already, and goes on.
            await asyncio.to_thread(stack.enter_context, closing(_follower(port)))
            connect = partial(_subscriber, port)
            sources[case] = _Source(connect, partial(_ask, market), pid)
        _, same = await _collected(sources[_WINDOW], _BEFORE)
        _verify(same, market, _BEFORE)
        sources[_WINDOW_BARE] = stack.enter_context(_bare_writer(same))
        repeats = 1 if run.quick else _REPEATS
        for held in range(_BEFORE - run.rounds * repeats, _BEFORE):
            with run.measure(_LOG_BARE, nats, unit="tick") as sample:
                sample.count = await _read(log, market, held)
            for case, source, position in (
                (_LOG, sources[_LOG], held),
                (_LOG_AGAIN, sources[_LOG], held),
                (_WINDOW_BARE, sources[_WINDOW_BARE], _BEFORE),
                (_WINDOW, sources[_WINDOW], _BEFORE),
            ):
                before = process_cpu_s(source.pid)
                sample, received = await _collected(source, position)
                sample.count = _verify(received, market, position)
                sample.server_s = process_cpu_s(source.pid) - before
                run.case(case, unit="tick").samples.append(sample)
    _compare(run, _LOG, _LOG_BARE, 3.0)
    run.note(_LOG_AGAIN, "its pages are held")
    _compare(run, _WINDOW, _WINDOW_BARE, 1.5)
    run.note(_WINDOW_BARE, f"{len(same) / 1e6:.1f} MB")


def _compare(run: Run, case: str, bare: str, most: float) -> None:
    took, least = run.case(case).wall_ms(), run.case(bare).wall_ms()
    to_bare, best = took.median / least.median, took.least / least.least
    run.note(case, f"x {to_bare:.2f}, best to best {best:.2f}; the aim is {most:g}")


# ---------------------------------------------------------------------- what is read


async def _filled(log: Broker) -> Market:
    publisher = await log.publisher()
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


async def _read(log: Broker, market: Market, held: int) -> int:
    """Find the place and read to the head."""
    cursor = await log.seek(market.subject, Position(market.epoch, _seq(market, held)))
    count = 0
    while True:
        page = await log.read(market.subject, cursor, limit=_PAGE)
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


# ---------------------------------------------------------------------- the client


async def _collected(source: _Source, held: int) -> tuple[Sample, bytes]:
    return await asyncio.to_thread(_collect, source, held)


def _collect(source: _Source, held: int) -> tuple[Sample, bytes]:
    """Read as fast as a client can, and look at it afterwards."""
    buffer = bytearray(_BUFFER_BYTES)
    view = memoryview(buffer)
    at = seen = 0
    with closing(source.connect()) as sock:
        ask = source.ask(held)
        wall, cpu = time.perf_counter(), time.thread_time()
        sock.sendall(ask)
        # It may be cut in two, and more may have come behind it.
        while buffer.find(_END, max(0, seen - len(_END)), at) < 0:
            seen = at
            if not (size := sock.recv_into(view[at:])):
                raise RuntimeError("the connection was closed")
            at += size
        sample = Sample(_TICKS, time.perf_counter() - wall, time.thread_time() - cpu)
    return sample, bytes(view[:at])


def _subscriber(port: int) -> socket.socket:
    """Connected and welcomed."""
    sock = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
    return _told(sock, handshake(), b'"type":"welcome"')


def _follower(port: int) -> socket.socket:
    """Subscribed, and has its snapshot."""
    return _told(_subscriber(port), _subscribe(None), b'"type":"snapshot"')


def _told(sock: socket.socket, words: bytes, answer: bytes) -> socket.socket:
    sock.sendall(words)
    received = b""
    while answer not in received:
        received += sock.recv(4096)
    return sock


def _subscribe(from_seq: int | None) -> bytes:
    place = {} if from_seq is None else {"from_seq": from_seq}
    return command(type="subscribe", product="BTC-USD", **place)
