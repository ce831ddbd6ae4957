"""The client: a connection that is kept up, and the protocol on it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Self, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
)

from market_data_fanout_client.book import OrderBook
from market_data_fanout_client.decode import Json
from market_data_fanout_client.errors import NotSubscribed, Refused, Unreachable
from market_data_fanout_client.freshness import Freshness, lost_after_us
from market_data_fanout_client.handshakes import is_final, proxy_reason, refusal_reason
from market_data_fanout_client.messages import (
    AnyEvent,
    Channel,
    Disconnected,
    ServerError,
    StreamError,
)
from market_data_fanout_client.protocol import SUBPROTOCOL, Protocol
from market_data_fanout_client.reconnect import longest_wait_s

E = TypeVar("E")
log = logging.getLogger("market_data_fanout_client")
# Events given out without letting other tasks run.
_EVENTS_PER_TURN = 64


class Client:
    """Verified market data from a gateway, kept up over lost connections.

    Iterate it: `async for event in client`. All the work is done while you do; a loop that takes
    long is a slow client, which the gateway catches up without loss. Every tick of a stream is
    handed out once and in order, across reconnects and gateways.

    Args:
        url: of the gateway's WebSocket, `ws://host:port/ws` or `wss://`.
        api_key: sent as `X-API-Key`.
        max_backoff_s: the longest wait between two attempts to connect; waits are random below a
            doubling bound.
        open_timeout_s: how long one attempt may take.
        max_attempts: raise `Unreachable` after so many attempts in a row without a connection that
            was of use; None: try for ever.
        reconnect_spread_s: where a connection that stood is lost without a word, the next attempt
            is made at a random time within so long: the gateway's other clients come back too.
        compression: offer permessage-deflate: fewer bytes on the way, more CPU here. The gateway
            decides.
        proxy: the URL of the proxy to go through, None for none; True obeys the usual variables
            (`HTTPS_PROXY`, `NO_PROXY`, ...). One that cannot be used raises `Refused`.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        max_backoff_s: float = 15.0,
        open_timeout_s: float = 10.0,
        max_attempts: int | None = None,
        reconnect_spread_s: float = 3.0,
        compression: bool = False,
        proxy: str | Literal[True] | None = True,
    ) -> None:
        self.url = url
        self._proxy: str | Literal[True] | None = proxy
        self._headers = {"X-API-Key": api_key} if api_key else {}
        self._max_backoff_s = max_backoff_s
        self._open_timeout_s = open_timeout_s
        self._max_attempts = max_attempts
        self._reconnect_spread_s = reconnect_spread_s
        self._compression = "deflate" if compression else None
        self._protocol = Protocol()
        self._socket: ClientConnection | None = None
        # Received and not taken in yet: what is held never runs ahead of what was handed out.
        self._messages: deque[tuple[Json, float]] = deque()
        self._events: deque[AnyEvent] = deque()
        self._given = 0
        self._failures = 0
        # Attempts in a row that came to nothing, and whether the connection that stands did not.
        self._in_vain = 0
        self._of_use = False
        self._not_before = 0.0
        self._closed = False
        self._callbacks: list[tuple[type, Callable[[Any], object]]] = []
        self._random = random.Random()

    # ------------------------------------------------------------------ subscriptions

    async def subscribe(
        self,
        *products: str,
        channel: Channel | Iterable[Channel] = "ticker",
        venue: str = "coinbase",
        from_seq: int | Mapping[str, int] | None = None,
        epoch: int | None = None,
        mode: Literal["full", "latest"] | None = None,
        max_rate: float | None = None,
        depth: int | None = None,
        snapshot: bool | None = None,
        late: bool | None = None,
        on_unrecoverable: Literal["snapshot", "error"] | None = None,
    ) -> None:
        """Want these streams, now and after every reconnect.

        Args:
            products: for example "BTC-USD".
            channel: `ticker`, `trades`, `book`, or several.
            venue: where the products are traded.
            from_seq: "I hold this: send everything after it", for all or by product; 0 is the
                oldest that is retained. Without it a stream begins with a snapshot.
            epoch: of `from_seq`.
            mode: `latest` merges ticks when they come faster than they can be taken.
            max_rate: messages a second for each stream; implies `latest`.
            depth: levels a side of book snapshots; 0 is all. A local book needs all.
            snapshot: False begins with the next tick.
            late: trades of an announced gap too, that were found afterwards (`Late`).
            on_unrecoverable: what to do when `from_seq` is out of reach: begin with a snapshot
                (`Subscribed.warning` says so), or give up with a `StreamError`.
        """
        self._protocol.subscribe(
            products,
            (channel,) if isinstance(channel, str) else tuple(channel),
            venue,
            from_seq,
            epoch,
            {
                "mode": mode,
                "max_rate": max_rate,
                "depth": depth,
                "snapshot": snapshot,
                "late": late,
                "on_unrecoverable": on_unrecoverable,
            },
        )
        await self._send_ready()

    async def unsubscribe(
        self,
        *products: str,
        channel: Channel | Iterable[Channel] = "ticker",
        venue: str = "coinbase",
    ) -> None:
        """Do not want these streams any more.

        Raises:
            NotSubscribed: one of them was not wanted.
        """
        channels = (channel,) if isinstance(channel, str) else tuple(channel)
        self._protocol.unsubscribe(products, channels, venue)
        await self._send_ready()

    def book(self, product: str, venue: str = "coinbase") -> OrderBook:
        """The local book of a product; it changes while you iterate.

        Raises:
            NotSubscribed: its `book` channel is not subscribed.
        """
        name = f"{venue}:book:{product}"
        stream = self._protocol.streams.get(name)
        if stream is None or stream.book is None:
            raise NotSubscribed(name)
        return stream.book

    def position(
        self, product: str, channel: Channel = "ticker", venue: str = "coinbase"
    ) -> tuple[int, int] | None:
        """(epoch, seq) held; store it, and give it to `subscribe` to go on after a restart."""
        stream = self._protocol.streams.get(f"{venue}:{channel}:{product}")
        if stream is None or stream.chain.seq is None or stream.chain.epoch is None:
            return None
        return stream.chain.epoch, stream.chain.seq

    def freshness(
        self, product: str, channel: Channel = "ticker", venue: str = "coinbase"
    ) -> Freshness:
        """Whether what you hold of a stream may be taken for the market now, and how old it is.

        Ask it when you show or use a price, also between two events. It knows what you have
        iterated: who stops iterating for two heartbeats is told `offline`.

        Raises:
            NotSubscribed: the stream is not subscribed.
        """
        return self._protocol.freshness(f"{venue}:{channel}:{product}", time.monotonic())

    @property
    def connections(self) -> int:
        """How many times it connected."""
        return self._protocol.connections

    # ------------------------------------------------------------------ events

    def on(self, event: type[E], callback: Callable[[E], object]) -> None:
        """Have `run` call `callback` with every event of this type; awaitables are awaited."""
        self._callbacks.append((event, callback))

    async def run(self) -> None:
        """Iterate for the callbacks until the client is closed.

        Raises:
            Refused: see `__anext__`.
        """
        async for event in self:
            for kind, callback in self._callbacks:
                if isinstance(event, kind):
                    result = callback(event)
                    if asyncio.iscoroutine(result):
                        await result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyEvent:
        """The next event; connects where needed. Cancelling it loses nothing.

        Raises:
            Refused: the gateway will not let this client in.
            Unreachable: `max_attempts` in a row failed.
            StopAsyncIteration: the client was closed.
        """
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            if self._messages:
                self._take(*self._messages.popleft())
                await self._send_ready()
            elif self._socket is None:
                await self._connect()
            else:
                await self._receive(self._socket)
        self._given += 1
        if self._given % _EVENTS_PER_TURN == 0:
            await asyncio.sleep(0)
        return self._events.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; iteration ends."""
        self._closed = True
        socket, self._socket = self._socket, None
        self._protocol.line.lost()
        if socket is not None:
            await socket.close()

    # ------------------------------------------------------------------ connection

    async def _connect(self) -> None:
        wait = self._not_before - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        asked = time.monotonic()
        try:
            self._socket = await connect(
                self.url,
                subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType over str
                additional_headers=self._headers,
                open_timeout=self._open_timeout_s,
                close_timeout=1,
                max_size=None,
                compression=self._compression,
                proxy=self._proxy,
            )
        except InvalidURI as error:
            raise Refused(0, str(error)) from error
        except (InvalidProxy, ValueError, ImportError) as error:
            # A broken value is a ValueError of the standard library, SOCKS without its package an
            # ImportError; none of them gets better by trying again.
            raise Refused(0, proxy_reason(self._proxy, error)) from error
        except InvalidStatus as error:
            status = error.response.status_code
            if is_final(status, connected=self.connections > 0):
                raise Refused(status, refusal_reason(error)) from error
            self._lost(refusal_reason(error))
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
            self._lost(str(error) or type(error).__name__)
        else:
            self._protocol.opened(asked)
            log.info("connected to %s", self.url)
            await self._send_ready()

    async def _receive(self, socket: ClientConnection) -> None:
        """Take in one frame, or what time brought."""
        protocol = self._protocol
        now = time.monotonic()
        silence = lost_after_us(round(protocol.heartbeat_s * 1_000_000)) / 1_000_000
        due = protocol.next_due
        wait = silence if due is None else min(silence, max(0.0, due - now))
        try:
            async with asyncio.timeout(wait):
                frame = await socket.recv()
        except TimeoutError:
            if wait >= silence:
                socket.transport.abort()
                self._lost(f"nothing was heard for {silence:g} s")
            else:
                await self._send_ready()
            return
        except ConnectionClosed as closed:
            self._lost(str(closed))
            return
        now = time.monotonic()
        try:
            decoded = json.loads(frame)
        except ValueError as error:
            self._malformed(error)
            return
        messages = decoded if isinstance(decoded, list) else [decoded]
        self._messages.extend((message, now) for message in messages)

    def _take(self, message: Json, now: float) -> None:
        try:
            events = self._protocol.take(message, now)
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            self._malformed(error)
            return
        if events:
            self._events.extend(events)
            for event in events:
                if isinstance(event, StreamError | ServerError):
                    log.warning("%s: %s", event.name, event.message)
            if message.get("type") != "welcome":
                # Only a connection that was of use ends the backing off.
                self._failures = 0
                self._of_use = True

    def _malformed(self, error: Exception) -> None:
        """Not this protocol: nothing that comes on this line can be trusted any more."""
        if self._socket is not None:
            self._socket.transport.abort()
            self._messages.clear()
            self._lost(f"malformed message: {error!r}")

    async def _send_ready(self) -> None:
        """Send what is due; while there is no connection it waits in the protocol's state."""
        if self._socket is None:
            return
        while (command := self._protocol.ready(time.monotonic())) is not None:
            try:
                await self._socket.send(json.dumps(command))
            except ConnectionClosed:
                # The next receive finds what came before the close, then the close.
                return

    def _lost(self, reason: str) -> None:
        established, self._socket = self._socket is not None, None
        self._in_vain, self._of_use = (0 if self._of_use else self._in_vain + 1), False
        if self._max_attempts is not None and self._in_vain >= self._max_attempts:
            raise Unreachable(self.url, self._in_vain, reason)
        self._protocol.line.lost()
        after = self._protocol.reconnect_after_s
        if after is not None:
            delay = self._random.uniform(*after)
            self._protocol.reconnect_after_s = None
        else:
            bound = longest_wait_s(
                self._failures,
                established=established,
                spread_s=self._reconnect_spread_s,
                max_s=self._max_backoff_s,
            )
            delay = self._random.uniform(0, bound)
            self._failures += 1
        self._not_before = time.monotonic() + delay
        log.warning("no connection to %s: %s; again in %.1f s", self.url, reason, delay)
        self._events.append(Disconnected(reason, delay, self._in_vain))
