"""The servers of the comparison, each on its core; the C programs among them are compiled."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

from services.common.settings import child_environment
from tools.bench.fanout.ticks import FIRST, message, on_credits, record
from tools.bench.registry import NotHere
from tools.bench.servers import SHARDS, child, gateway_process, publisher_on
from tools.embedded import NatsServer

_SOURCES = Path(__file__).parent.parent / "native"
# Ignored by git and removed by `make clean`.
_BUILT = Path(__file__).parents[3] / ".mdf" / "native"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


class NoCompiler(NotHere):
    """There is no C compiler on this machine, or it cannot compile this."""


def program(name: str) -> Path:
    """The executable of `native/<name>.c`, compiled unless that was done before.

    Raises:
        NoCompiler: it cannot be made here.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("no C compiler was found; on Debian: apt-get install gcc libc6-dev")
    source = _SOURCES / f"{name}.c"
    mark = hashlib.sha256(repr((compiler, _FLAGS)).encode() + source.read_bytes()).hexdigest()
    built = _BUILT / f"{name}-{mark[:16]}"
    if not built.exists():
        _BUILT.mkdir(parents=True, exist_ok=True)
        # Several processes may compile at once; each moves a whole file into place.
        handle, made = tempfile.mkstemp(dir=_BUILT)
        os.close(handle)
        done = subprocess.run(
            [compiler, *_FLAGS, "-o", made, str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            Path(made).unlink()
            raise NoCompiler(f"{compiler} cannot compile {source.name}:\n{done.stderr}")
        Path(made).replace(built)
    return built


class Kind(NamedTuple):
    """A server of the comparison.

    Attributes:
        title: in tables.
        program: the module here that is one, and its arguments; none where it is started otherwise.
        subscribe: what a client sends first; empty where nothing has to be said.
    """

    title: str
    program: tuple[str, ...] = ()
    subscribe: str = ""


_TRADES = '{"type":"subscribe","products":["BTC-USD"],"channel":"trades"%s}'
_PLAIN, _BATCH = _TRADES % "", _TRADES % ',"batch":true'
SERVERS = {
    "limit": Kind("C, one `send()` for each client and flush: the limit"),
    "gateway": Kind("gateway, fed in its process", ("gateway_server",), _PLAIN),
    "gateway-batch": Kind(
        "the same, to clients that take arrays (`batch`)", ("gateway_server",), _BATCH
    ),
    "gateway-nats": Kind("gateway as deployed, on NATS JetStream", (), _PLAIN),
    "websockets": Kind("`websockets.broadcast`", ("websockets_server",)),
    "fastapi": Kind("FastAPI, `send_text` to one after the other", ("fastapi_server", "turns")),
    "fastapi-queues": Kind(
        "FastAPI, `send_text` from a queue and task for each client", ("fastapi_server", "queues")
    ),
}
_SNAPSHOT = '"type":"snapshot"'
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that serves.

    Attributes:
        credits: where the sink writes a byte for each flush it wants.
        subscribe: what a client sends first; empty where nothing has to be said.
        ready: part of the message that says that it is subscribed.
    """

    name: str
    pid: int
    port: int
    credits: int
    subscribe: str = ""
    ready: str = ""


@cache
def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def server_core() -> set[int]:
    """The core all servers run on: the first this process may use."""
    return {_cores()[0]}


def other_core() -> set[int]:
    """The core of the sink, brokers and publishers; the same one where there is no other."""
    return {_cores()[-1]}


@contextmanager
def _out_of_the_way() -> Iterator[None]:
    """Keep this process off the server's core while the block runs."""
    cores = _cores()
    os.sched_setaffinity(0, other_core())
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@asynccontextmanager
async def running(name: str, ticks: int, **variables: str) -> AsyncIterator[Running]:
    """The server `name` of `SERVERS`, which sends `ticks` messages a flush.

    `variables` of the environment are settings of a gateway.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(_out_of_the_way())
        reads, writes = os.pipe()
        stack.callback(os.close, writes)
        if name == "gateway-nats":
            stack.callback(os.close, reads)
            pid, port = await stack.enter_async_context(_gateway_on_nats(reads, ticks, variables))
        else:
            arguments = _command(name, reads, ticks, stack)
            pid, port = await stack.enter_async_context(_child(arguments, reads, variables))
        subscribe = SERVERS[name].subscribe
        yield Running(name, pid, port, writes, subscribe, _SNAPSHOT if subscribe else "")


def _command(name: str, pipe: int, ticks: int, stack: AsyncExitStack) -> list[str]:
    if SERVERS[name].program:
        module, *more = SERVERS[name].program
        return [sys.executable, "-m", f"tools.bench.fanout.{module}", str(pipe), str(ticks), *more]
    template = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "tick.json"
    template.write_bytes(message(FIRST))
    return [str(program("limit")), str(pipe), str(ticks), str(template)]


@asynccontextmanager
async def _child(
    arguments: list[str], pipe: int, variables: dict[str, str]
) -> AsyncIterator[tuple[int, int]]:
    """A server that prints its port; its pid and that port."""
    settings = {
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        "BROKER_KIND": "memory",
        "LOG_LEVEL": "ERROR",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }
    async with child(
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=child_environment({**settings, **variables}),
        pass_fds=(pipe,),
    ) as process:
        os.close(pipe)
        os.sched_setaffinity(process.pid, server_core())
        assert process.stdout is not None
        async with asyncio.timeout(_START_S):
            line = await process.stdout.readline()
        yield process.pid, int(line)


@asynccontextmanager
async def _gateway_on_nats(
    pipe: int, ticks: int, variables: dict[str, str]
) -> AsyncIterator[tuple[int, int]]:
    """`python -m services.gateway` as deployed, on a nats-server; published to from here."""
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer())
        if nats.pid is not None:
            os.sched_setaffinity(nats.pid, other_core())
        publisher = await stack.enter_async_context(publisher_on(nats, shards=SHARDS))
        await publisher.send(record(FIRST - 1, SHARDS))
        await publisher.flush()
        starting = gateway_process(nats.url, SHARD_COUNT=str(SHARDS), **variables)
        pid, port = await stack.enter_async_context(starting)
        os.sched_setaffinity(pid, server_core())
        seqs = count(FIRST)

        def flush() -> None:
            for _ in range(ticks):
                publisher.offer(record(next(seqs), SHARDS))

        on_credits(pipe, flush, lambda: None)
        try:
            yield pid, port
        finally:
            asyncio.get_running_loop().remove_reader(pipe)
