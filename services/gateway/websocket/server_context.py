"""What all connections of one listener have in common: limits, counters, the loop, the server."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from uvicorn.config import Config
from uvicorn.server import ServerState

from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import HttpLimits, Refusals
from services.gateway.websocket.rfc6455.inbound import MAX_FRAGMENTS
from services.gateway.websocket.rfc6455.keepalive import Keepalive

log = structlog.get_logger(__name__)

# Data the kernel holds unsent for one client; by default it would take megabytes for a stuck one.
SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 16 * 1024),)
# For a listener that other processes have on the same port too.
SHARED_PORT = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

# Messages up to this size are read, so that the application can answer those that it refuses;
# larger ones end the connection (1009), since reading them would let strangers fill the memory.
MAX_READ_BYTES = 1024 * 1024
# Sockets whose first bytes are looked at in a turn: each is a tenth of a millisecond's work. And
# requests over HTTP that are begun in one: each is a millisecond's, or more.
_FIRST_BYTES_A_TURN = 20
_REQUESTS_A_TURN = 2


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one WebSocket may send."""

    max_bytes: int = MAX_READ_BYTES  # of a message; a larger one ends the connection with 1009
    max_fragments: int = MAX_FRAGMENTS  # of a message; one more ends the connection with 1008
    # Pings, and pongs that nobody asked for, a second of one connection, on average; ten times as
    # many at once
    control_per_s: float = 20
    message_s: float = 10  # how long a message may take from its first byte to its last
    # The text message that is sent before a close with 1009; empty: none is.
    too_large: bytes = b""


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address at the other end; empty when it is not known."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def run_handshake(
    call: Coroutine[Any, Any, None],
    tasks: set[asyncio.Task[None]],
    on_failure: Callable[[], None],
) -> None:
    """Run the ASGI call that decides on a handshake, and learn how it ended.

    No TaskGroup can be its parent: it begins in a callback of the transport. While it has not
    ended it is in `tasks`, the server's own set; when that stops, it waits for those and cancels
    them in the end. Most endpoints decide at once: such a call has ended when this returns, and was
    never scheduled. `on_failure` is called if it ends by an error, which has then been logged.
    """
    # In 3.12 a task that starts eagerly has to be told its loop.
    task = asyncio.Task(call, loop=asyncio.get_running_loop(), eager_start=True)
    if task.done():
        _ended(on_failure, task)
    else:
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(partial(_ended, on_failure))


def _ended(on_failure: Callable[[], None], task: asyncio.Task[None]) -> None:
    # One that is cancelled ends with the server, which closes all connections.
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("handshake_failed", exc_info=error)
        on_failure()


class TurnQueue:
    """Makes calls in order, a bounded number of them in each turn of the event loop.

    Args:
        most: calls in one turn.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._called = 0
        self._scheduled = False

    def add(self, call: Callable[[], None]) -> None:
        """Make the call now if this turn has room for it; else in a later turn."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        if self._called < self._most and not self._waiting:
            self._called += 1
            call()
        else:
            self._waiting.append(call)

    def _next_turn(self) -> None:
        self._called = 0
        while self._waiting and self._called < self._most:
            self._called += 1
            self._waiting.popleft()()
        self._scheduled = self._called > 0
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next_turn)


@dataclass(slots=True, eq=False)
class ServerContext:
    """Of one listener."""

    config: Config
    state: ServerState
    app_state: dict[str, Any]
    loop: asyncio.AbstractEventLoop
    keepalive: Keepalive
    proxies: Proxies  # whose word on where a client comes from is taken
    limits: HttpLimits  # of the connections that speak HTTP
    refusals: Refusals  # where refused connections and requests are counted
    reading: ReadLimits = field(default_factory=ReadLimits)  # what one WebSocket may send
    deflate: bool = False  # whether clients that ask for permessage-deflate get it
    # Connections at a time that have sent nothing yet; so many are `silent` now.
    max_silent: int = 10_000
    silent: int = 0
    # Sockets whose first bytes have come.
    first_bytes: TurnQueue = field(default_factory=lambda: TurnQueue(_FIRST_BYTES_A_TURN))
    # HTTP connections with a request to begin.
    requests: TurnQueue = field(default_factory=lambda: TurnQueue(_REQUESTS_A_TURN))
