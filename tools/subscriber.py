"""A subscriber that proves what it received: the Python SDK's rule, over a connection of its own.

`market_data_fanout_client`'s `Protocol` judges every message, asks and resumes; here the messages
stay as they came (`on_message`), reading can be slowed down and a connection cut, for tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec
from market_data_fanout_client import AnyEvent, Freshness, Refused, ServerError, StreamError
from market_data_fanout_client.chain import ChainCounts, Verdict
from market_data_fanout_client.freshness import lost_after_us
from market_data_fanout_client.protocol import SUBPROTOCOL, Protocol
from market_data_fanout_client.reconnect import longest_wait_s
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from services.common.network.proxies import BadProxy, proxy_for
from tools.latency import LatencyHistogram

# Receive buffers of a reader that pauses, and of one that does no more.
_LITTLE_BYTES, _PLENTY_BYTES = 4096, 1024 * 1024
_MAX_BACKOFF_S = 5.0

Message = dict[str, Any]
OnMessage = Callable[[Message, Verdict | None], None]
OnConnection = Callable[[str], None]


@dataclass(frozen=True)
class Want:
    """One channel of some products. `from_seq` is a position held, the same for all of them."""

    channel: str
    products: tuple[str, ...]
    venue: str = "coinbase"
    from_seq: int | None = None
    mode: str | None = None
    max_rate: float | None = None
    depth: int | None = None


class Subscriber:
    """Run `run()` as a task; read the counters at any time.

    Args:
        url: of the gateway's `/ws`.
        wants: what to subscribe to.
        on_message: gets every server message, in order, and what the chain said of it (None for
            messages outside any chain).
        on_connection: gets `connecting`, `connected` or `disconnected: <why>`.
        pause_s: waits so long after every frame: a slow reader, for tests; `hurry` ends it.
    """

    def __init__(
        self,
        url: str,
        wants: Iterable[Want],
        *,
        api_key: str | None = None,
        on_message: OnMessage | None = None,
        on_connection: OnConnection | None = None,
        pause_s: float = 0.0,
    ) -> None:
        self.url = url
        self.connected = asyncio.Event()
        self.drains = 0
        self.rate_limits = 0
        self.errors: list[str] = []
        # Why the last connection ended, or was not made.
        self.lost_by = ""
        self.latency = LatencyHistogram()
        self.protocol = Protocol(raw=True)
        for want in wants:
            # Without `batch` a frame is a message, as for a client that asks for nothing.
            options = {"mode": want.mode, "max_rate": want.max_rate, "depth": want.depth}
            options["batch"] = False
            self.protocol.subscribe(
                want.products, [want.channel], want.venue, want.from_seq, None, options
            )
        self.chains = {name: stream.chain for name, stream in self.protocol.streams.items()}
        self._headers = {"X-API-Key": api_key} if api_key else {}
        self._on_message = on_message
        self._on_connection = on_connection
        self._pause_s = pause_s
        self._socket: ClientConnection | None = None
        self._random = random.Random()
        # Set when there may be something to send.
        self._due = asyncio.Event()

    # ------------------------------------------------------------------ counters

    def counts(self, channel: str | None = None) -> ChainCounts:
        return self.protocol.counts(channel)

    def freshness(self, channel: str, product: str, venue: str = "coinbase") -> Freshness:
        """Whether what is held of a stream that is wanted may be taken for the market now."""
        return self.protocol.freshness(f"{venue}:{channel}:{product}", time.monotonic())

    @property
    def resumes(self) -> int:
        return max(0, self.protocol.connections - 1)

    # ------------------------------------------------------------------ connection

    def cut(self) -> None:
        """Lose the connection now, without a goodbye; `run` connects and resumes."""
        if self._socket is not None:
            self._socket.transport.abort()

    def hurry(self) -> None:
        self._pause_s = 0.0
        if self._socket is not None:
            plain: socket.socket | None = self._socket.transport.get_extra_info("socket")
            if plain is not None:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PLENTY_BYTES)

    async def run(self) -> None:
        """Stay subscribed until cancelled.

        Raises:
            Refused: the server said that coming back will not help.
        """
        failures = 0
        while True:
            self._tell("connecting")
            before = self.protocol.connections
            try:
                await self._one_connection()
            except Refused:
                raise
            except (InvalidURI, BadProxy) as error:
                raise Refused(0, str(error)) from error
            except InvalidHandshake as error:
                status = getattr(getattr(error, "response", None), "status_code", 0)
                if status in (401, 403) or (status == 404 and not self.protocol.connections):
                    raise Refused(status, f"the gateway refused the connection: {error}") from error
                reason: BaseException = error
            except (OSError, TimeoutError, ConnectionClosed) as error:
                reason = error
            self.connected.clear()
            self.protocol.line.lost()
            established = self.protocol.connections > before
            failures = 0 if established else failures + 1
            self.lost_by = str(reason) or type(reason).__name__
            self._tell(f"disconnected: {self.lost_by}")
            await asyncio.sleep(self._delay(failures))

    def _delay(self, failures: int) -> float:
        asked, self.protocol.reconnect_after_s = self.protocol.reconnect_after_s, None
        if asked is not None:
            return self._random.uniform(*asked)
        # Nobody else comes back at the same time, so there is nothing to spread.
        bound = longest_wait_s(failures, established=False, spread_s=0.0, max_s=_MAX_BACKOFF_S)
        return self._random.uniform(0.02, bound)

    async def _one_connection(self) -> None:
        asked = time.monotonic()
        async with connect(
            self.url,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType over str
            additional_headers=self._headers,
            max_size=None,
            # A slow reader leaves in the network what it does not take.
            max_queue=1 if self._pause_s else 16,
            open_timeout=10,
            # Who reads late hears late of its own pings.
            ping_interval=None if self._pause_s else 20,
            # Nobody reads any more when this closes, so an answer behind a backlog never comes.
            close_timeout=0.5,
            compression=None,
            proxy=proxy_for(self.url),
            sock=await _connect_narrow(self.url) if self._pause_s else None,
        ) as connection:
            self._socket = connection
            self.protocol.opened(asked)
            self._tell("connected")
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._send_commands(connection), name="subscriber:commands")
                    if not self._pause_s:
                        group.create_task(self._listen(), name="subscriber:listen")
                    await self._receive(connection)
            except ExceptionGroup as both:
                # A lost connection ends both directions; a refusal is the better answer.
                raise min(both.exceptions, key=lambda e: not isinstance(e, Refused)) from both

    async def _receive(self, connection: ClientConnection) -> None:
        decode = msgspec.json.decode
        while True:
            frame = await connection.recv()
            received, now = time.time_ns() // 1000, time.monotonic()
            decoded = decode(frame)
            for message in decoded if isinstance(decoded, list) else (decoded,):
                self._take(message, received, now)
            if self._pause_s:
                await asyncio.sleep(self._pause_s)

    async def _listen(self) -> None:
        """Raises TimeoutError when nothing was heard for too long: the line is dead."""
        line, quiet = self.protocol.line, 0
        connected = time.monotonic()
        while True:
            lost = lost_after_us(round(line.heartbeat_s * 1_000_000)) / 1_000_000
            await asyncio.sleep(lost / 8)
            heard = line.heard or connected
            # Twice, as this process may itself have been away.
            quiet = quiet + 1 if time.monotonic() - heard > lost else 0
            if quiet > 1:
                raise TimeoutError(f"nothing was heard for {lost:g} s")

    async def _send_commands(self, connection: ClientConnection) -> None:
        protocol = self.protocol
        while True:
            while (command := protocol.ready(time.monotonic())) is not None:
                await connection.send(msgspec.json.encode(command).decode())
            self._due.clear()
            due = protocol.next_due
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else due - time.monotonic()):
                    await self._due.wait()

    # ------------------------------------------------------------------ messages

    def _take(self, message: Message, received: int, now: float) -> None:
        events = self.protocol.take(message, now)
        judged = self.protocol.judged
        verdict = None if judged is None else judged[1]
        kind = message.get("type")
        if kind == "incr":
            if judged is None:
                self.errors.append(f"incr of a stream that was not asked for: {message['tick']}")
            elif verdict is Verdict.APPLY and not judged[0].backfilling:
                self.latency.add(received - message["tick"]["ts_ingest"])
        else:
            if kind == "subscribed":
                self.connected.set()
            self.rate_limits += kind == "rate_limit"
            self.drains += kind == "drain"
            # Any but a tick may have made a command due.
            self._due.set()
        if events:
            self._happened(events)
        if self._on_message is not None:
            self._on_message(message, verdict)

    def _happened(self, events: Iterable[AnyEvent]) -> None:
        self._due.set()
        for event in events:
            if isinstance(event, StreamError) and event.retry != "after":
                self.errors.append(f"{event.stream}: {event.name}: {event.message}")
            elif isinstance(event, ServerError) and event.retry == "no":
                self.errors.append(f"{event.name}: {event.message}")

    def _tell(self, state: str) -> None:
        if self._on_connection is not None:
            self._on_connection(state)


async def _connect_narrow(url: str) -> socket.socket:
    """A connected socket that takes in next to nothing ahead, so that the server feels a pause."""
    parts = urlsplit(url)
    if parts.hostname is None:
        raise InvalidURI(url, "expected a host")
    loop = asyncio.get_running_loop()
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    family, kind, protocol, _, address = (
        await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    )[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setblocking(False)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LITTLE_BYTES)
        async with asyncio.timeout(10):
            await loop.sock_connect(found, address)
    except BaseException:  # also when it is cancelled: the socket is nobody else's yet
        found.close()
        raise
    return found
