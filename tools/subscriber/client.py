"""An asyncio subscriber: connects, subscribes, verifies every chain, comes back with what it holds.

It knows the client protocol and nothing of what prices mean; whoever wants the messages passes
`on_message`. Lost connections are met with a jittered backoff and a subscription from the last
position held; `drain`, `rate_limit` and unrecoverable positions are honoured as the server asks.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Iterable

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from services.common.network.proxies import BadProxy, proxy_for
from tools.subscriber.chain import ChainChecker, ChainCounts, Verdict
from tools.subscriber.latency import LatencyHistogram
from tools.subscriber.narrow import connect_narrow, widen
from tools.subscriber.wants import Message, Want, stream_of, subscriptions

SUBPROTOCOL = "md.v1.json"
# epoch_changed, too_old, future_position: the position held is of no use any more.
_UNRECOVERABLE = frozenset({4000, 4001, 4002})
_MAX_BACKOFF_S = 5.0

OnMessage = Callable[[Message, Verdict | None], None]
OnConnection = Callable[[str], None]


class Refused(Exception):
    """The server will not serve this client (key, address, subscription); do not come back."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{message} (code {code})")


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
        self.wants = tuple(wants)
        self.connections = 0
        self.connected = asyncio.Event()
        self.resumes = 0
        self.drains = 0
        self.rate_limits = 0
        self.errors: list[str] = []
        self.latency = LatencyHistogram()
        self.chains: dict[str, ChainChecker] = {
            stream: ChainChecker(want.from_seq) for want in self.wants for stream in want.streams
        }
        self._headers = {"X-API-Key": api_key} if api_key else {}
        self._on_message = on_message
        self._on_connection = on_connection
        self._pause_s = pause_s
        self._socket: ClientConnection | None = None
        self._random = random.Random()
        self._heartbeat_s = 0.0
        self._backfilling: set[str] = set()
        # Streams whose position was given up on this connection: told twice, done once.
        self._started_over: set[str] = set()
        self._reconnect_after: tuple[float, float] | None = None
        self._commands: dict[int, Message] = {}
        self._next_id = 0
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()

    # ------------------------------------------------------------------ counters

    def counts(self, channel: str | None = None) -> ChainCounts:
        """Counts of all streams, or of one channel's, added up."""
        total = ChainCounts()
        for stream, chain in self.chains.items():
            if channel is None or stream.split(":")[1] == channel:
                total.add(chain.counts)
        return total

    # ------------------------------------------------------------------ connection

    def cut(self) -> None:
        """Lose the connection now, without a goodbye; `run` connects and resumes."""
        if self._socket is not None:
            self._socket.transport.abort()

    def hurry(self) -> None:
        """Pause no more."""
        self._pause_s = 0.0
        if self._socket is not None:
            plain: socket.socket | None = self._socket.transport.get_extra_info("socket")
            if plain is not None:
                widen(plain)

    async def run(self) -> None:
        """Stay subscribed until cancelled.

        Raises:
            Refused: the server said that coming back will not help.
        """
        failures = 0
        while True:
            self._tell("connecting")
            before = self.connections
            try:
                await self._one_connection()
            except Refused:
                raise
            except (InvalidURI, BadProxy) as error:
                raise Refused(0, str(error)) from error
            except InvalidHandshake as error:
                status = getattr(getattr(error, "response", None), "status_code", 0)
                if status in (401, 403):
                    raise Refused(status, f"the gateway refused the connection: {error}") from error
                reason: BaseException = error
            except (OSError, TimeoutError, ConnectionClosed) as error:
                reason = error
            self.connected.clear()
            failures = 0 if self.connections > before else failures + 1
            self._tell(f"disconnected: {str(reason) or type(reason).__name__}")
            await asyncio.sleep(self._delay(failures))

    def _delay(self, failures: int) -> float:
        if self._reconnect_after is not None:
            low, high = self._reconnect_after
            self._reconnect_after = None
            return self._random.uniform(low, high)
        return self._random.uniform(0.02, min(_MAX_BACKOFF_S, 0.1 * 2.0**failures))

    async def _one_connection(self) -> None:
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
            sock=await connect_narrow(self.url) if self._pause_s else None,
        ) as connection:
            self.connections += 1
            self._socket = connection
            self._backfilling.clear()
            self._started_over.clear()
            self._commands.clear()
            self._outbox = asyncio.Queue()
            if self.connections > 1:
                self.resumes += 1
            for chain in self.chains.values():
                chain.reconnected()
            for command in subscriptions(self.wants, self.chains, self.chains):
                self._command(command)
            self._tell("connected")
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._send_commands(connection), name="subscriber:commands")
                    await self._receive(connection)
            except ExceptionGroup as both:
                # A lost connection ends both directions; a refusal is the better answer.
                raise min(both.exceptions, key=lambda e: not isinstance(e, Refused)) from both

    async def _receive(self, connection: ClientConnection) -> None:
        decode = msgspec.json.decode
        while True:
            frame = await connection.recv()
            received = time.time_ns() // 1000
            decoded = decode(frame)
            for message in decoded if isinstance(decoded, list) else (decoded,):
                self._take(message, received)
            if self._pause_s:
                await asyncio.sleep(self._pause_s)

    async def _send_commands(self, connection: ClientConnection) -> None:
        while True:
            command = await self._outbox.get()
            await connection.send(msgspec.json.encode(command).decode())

    # ------------------------------------------------------------------ commands

    def _command(self, command: Message, after_s: float = 0.0) -> None:
        self._next_id += 1
        command = {**command, "id": self._next_id}
        self._commands[self._next_id] = command
        self._send(command, after_s)

    def _send(self, command: Message, after_s: float) -> None:
        # Should the connection be lost before, this still fills the lost connection's queue only.
        asyncio.get_running_loop().call_later(after_s, self._outbox.put_nowait, command)

    def _resync(self, stream: str) -> None:
        venue, channel, product = stream.split(":")
        self._command({"type": "resync", "venue": venue, "channel": channel, "product": product})

    def _start_over(self, stream: str) -> None:
        """Subscribe again without a position; the server answers with a snapshot."""
        if stream in self._started_over:
            return
        self._started_over.add(stream)
        self.chains[stream].forget()
        venue, channel, product = stream.split(":")
        want = next(w for w in self.wants if w.venue == venue and w.channel == channel)
        self._command(want.command(None, {product: None}))

    def _refused(self, stream: str, error: Message) -> None:
        """One stream's subscription failed: do what the error asks for."""
        if stream in self.chains and error.get("code") in _UNRECOVERABLE:
            self._start_over(stream)
        elif stream in self.chains and error.get("retry") == "after":
            for command in subscriptions(self.wants, self.chains, (stream,)):
                self._command(command, error.get("retry_after_ms", 1000) / 1000)
        else:
            self.errors.append(f"{stream}: {error.get('name')}: {error.get('message')}")

    # ------------------------------------------------------------------ messages

    def _take(self, message: Message, received: int) -> None:
        kind = message.get("type")
        verdict: Verdict | None = None
        if kind == "incr":
            verdict = self._incr(message, received)
        elif kind == "snapshot":
            verdict = self._snapshot(message)
        elif kind == "reset":
            record = message.get("reset", message)
            stream = stream_of(record)
            if stream in self.chains:
                verdict = self.chains[stream].reset(
                    record["epoch"], record["seq"], record.get("prev")
                )
        elif kind == "hb":
            self._heartbeat(message)
        elif kind == "welcome":
            self._heartbeat_s = message.get("heartbeat_ms", 0) / 1000
        elif kind == "subscribed":
            self._subscribed(message)
        elif kind == "backfill":
            if message.get("state") == "begin":
                self._backfilling.add(stream_of(message))
            else:
                self._backfilling.discard(stream_of(message))
        elif kind == "rate_limit":
            self._rate_limited(message)
        elif kind == "drain":
            self.drains += 1
            low, high = message.get("reconnect_after_ms", (0, 1000))
            self._reconnect_after = (low / 1000, high / 1000)
        elif kind == "error":
            self._error(message)
        if verdict is not None and verdict.asks_resync:
            self._resync(stream_of(message.get("tick", message)))
        if self._on_message is not None:
            self._on_message(message, verdict)

    def _incr(self, message: Message, received: int) -> Verdict | None:
        tick = message["tick"]
        stream = stream_of(tick)
        chain = self.chains.get(stream)
        if chain is None:
            self.errors.append(f"incr of a stream that was not asked for: {stream}")
            return None
        prev = message["prev"] if "prev" in message else tick.get("prev")
        verdict = chain.incr(tick["epoch"], tick["seq"], prev)
        if verdict is Verdict.APPLIED and stream not in self._backfilling:
            self.latency.add(received - tick["ts_ingest"])
        return verdict

    def _snapshot(self, message: Message) -> Verdict | None:
        snapshot = message["snapshot"]
        chain = self.chains.get(stream_of(snapshot))
        if chain is None or not message.get("last", True):
            # A large book comes in parts; it counts once it is whole.
            return None
        return chain.snapshot(snapshot["epoch"], snapshot["seq"])

    def _heartbeat(self, message: Message) -> None:
        now = time.monotonic()
        for stream, head in message.get("heads", {}).items():
            chain = self.chains.get(stream)
            if chain is None or stream in self._backfilling:
                continue
            verdict = chain.head(head, now, self._heartbeat_s)
            if verdict is not None and verdict.asks_resync:
                self._resync(stream)

    def _subscribed(self, message: Message) -> None:
        self._commands.pop(message.get("id", 0), None)
        self.connected.set()
        for result in message.get("results", ()):
            if not result.get("ok"):
                self._refused(stream_of(result), result.get("error") or {})

    def _rate_limited(self, message: Message) -> None:
        self.rate_limits += 1
        delay = message.get("retry_after_ms", 1000) / 1000
        command = self._commands.get(message.get("id", 0))
        if message.get("scope") == "commands" and command is not None:
            self._send(command, delay)

    def _error(self, message: Message) -> None:
        stream = message.get("stream")
        if isinstance(stream, str):
            self._refused(stream, message)
            return
        code = message.get("code", 0)
        text = f"{message.get('name', code)}: {message.get('message', '')}"
        if message.get("retry") == "no":
            self.errors.append(text)
            if 2000 <= code < 3000:
                raise Refused(code, text)

    def _tell(self, state: str) -> None:
        if self._on_connection is not None:
            self._on_connection(state)
