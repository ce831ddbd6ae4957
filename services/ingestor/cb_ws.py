"""One WebSocket connection to the venue: made, subscribed, watched, and made again.

The feed knows how to stay connected and nothing about what a message means: each frame goes to the
streams of its product, synchronously, in the order received.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from services.common.clock import now_us
from services.common.resilience import Backoff, Circuit, CircuitBreaker
from services.ingestor.feed.connection import FeedState, checked_step, dial, why_closed
from services.ingestor.feed.limiter import Limiter
from services.ingestor.metrics import Metrics
from services.ingestor.publish.raw_publisher import RawPublisher, UnreadableFrames
from services.ingestor.settings import Settings
from services.ingestor.streams import ProductStreams
from services.ingestor.streams.waiting import WaitingStreams
from services.ingestor.venues.base import Event, Kind, MalformedFrame, VenueFeed

log = structlog.get_logger(__name__)

# After so many messages in a row the rest of the process gets a turn.
_YIELD_EVERY = 256
_WATCH_S = 0.5
# While the circuit is closed pauses stay below a second, so that a venue that comes back within
# seconds is found at once; afterwards they grow to `max_pause_s` behind the circuit's own.
_FIRST_PAUSE_S = 0.1
_QUICK_PAUSE_S = 0.8
_SLOW_PAUSE_S = 1.0
# A connection that lasted this long was a success, and the next loss is retried at once.
_LASTED_S = 2.0
# The venue's documents disagree (100 or 10 client messages a second): stay below the smaller one.
_SENDS_PER_S = 8.0
_SEND_BURST = 10
# Failures of one endpoint in a row before the next one is tried.
_ENDPOINT_PATIENCE = 2
_WORD = re.compile(r"[A-Za-z0-9_-]+")


class Feed:
    """See the module. `products` maps names to their streams and may change while running."""

    def __init__(
        self,
        name: str,
        venue: VenueFeed,
        settings: Settings,
        raw_publisher: RawPublisher,
        unreadable: UnreadableFrames,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.venue = venue
        self.state = FeedState.STOPPED
        self.since = now_us()
        self.endpoint = ""
        self.last_reason = ""
        self.messages = 0
        self.ignored = 0
        self.reconnects = 0
        self._products: dict[str, ProductStreams] = {}
        self._settings = settings
        self._raw_publisher = raw_publisher
        self._unreadable = unreadable
        self._metrics = metrics
        self._socket: ClientConnection | None = None
        self._breaker = CircuitBreaker(
            settings.ws_breaker_failures, settings.ws_breaker_recovery_ms / 1000
        )
        self._sends = Limiter(_SENDS_PER_S, _SEND_BURST)
        self._last_message = 0
        self._flowing_since = 0.0
        self._end_reason = ""
        self._refusal = ""
        self._malformed: set[str] = set()
        self._one_by_one: asyncio.Event = asyncio.Event()
        self._book_channels = [
            c for c in settings.coinbase_channels if venue.channels[c] == ("book",)
        ]

    # ---- what the outside sees and asks

    @property
    def products(self) -> Mapping[str, ProductStreams]:
        return self._products

    @property
    def connected(self) -> bool:
        return self.state is FeedState.ACTIVE

    @property
    def circuit(self) -> Circuit:
        """Of the venue's endpoints, as this connection finds them."""
        return self._breaker.state

    @property
    def queued(self) -> int:
        """Messages that wait for a resync."""
        return sum(stream.held for streams in self._products.values() for stream in streams.all)

    @property
    def last_message_age_s(self) -> float | None:
        """None before the first message."""
        return (now_us() - self._last_message) / 1e6 if self._last_message else None

    async def resubscribe_book(self, product: str) -> bool:
        """Have the venue send the product's book anew; False when that cannot be asked now."""
        return await self._rebook([product])

    async def _rebook(self, products: Sequence[str]) -> bool:
        channels = self._book_channels
        if self._socket is None or not channels:
            return False
        return await self._send(
            lambda: self.venue.unsubscribe(products, channels)
        ) and await self._send(lambda: self.venue.subscribe(products, channels, time.time()))

    async def add(self, streams: ProductStreams) -> None:
        """Serve one more product, without a reconnect of the others."""
        self._products[streams.product] = streams
        for stream in streams.all:
            self._metrics.prepare(stream.writer.key)
        if self._socket is not None:
            streams.connected(now_us())
            await self._subscribe([streams.product])

    async def take_over(self, streams: Sequence[ProductStreams]) -> None:
        """Serve these instead of what waited in their place (`WaitingStreams`)."""
        now = now_us()
        for each in streams:
            waiting = self._products[each.product]
            self._products[each.product] = each
            for stream in each.all:
                self._metrics.prepare(stream.writer.key)
            if isinstance(waiting, WaitingStreams) and self._socket is not None:
                waiting.hand_over(each, now)
        # The venue's books of this connection came long ago; they come anew in two messages.
        await self._rebook(list(self._products))

    async def remove(self, product: str) -> None:
        """Serve a product no longer."""
        streams = self._products.pop(product, None)
        if streams is None:
            return
        await self._send(
            lambda: self.venue.unsubscribe([product], self._settings.coinbase_channels)
        )
        streams.lost("product removed", now_us())

    def stopped(self, reason: str) -> None:
        """Write into every stream that nothing follows: no connection, or `run` has ended."""
        now = now_us()
        for streams in self._products.values():
            streams.lost(reason, now)

    # ---- the life of the connection

    async def run(self) -> None:
        """Keep the feed alive until cancelled."""
        quick = Backoff(_FIRST_PAUSE_S, _QUICK_PAUSE_S, least=0.0, immediate=True)
        longest_s = self._settings.reconnect_max_ms / 1000
        slow = Backoff(_SLOW_PAUSE_S, longest_s, least=0.0)
        endpoints = self._settings.endpoints
        failures = 0
        self._enter(FeedState.CONNECTING)
        try:
            while True:
                self.endpoint = endpoints[failures // _ENDPOINT_PATIENCE % len(endpoints)]
                reason = await self._connection(self.endpoint)
                if self._flowing_since and time.monotonic() - self._flowing_since >= _LASTED_S:
                    quick.reset()
                    slow.reset()
                    failures = 0
                else:
                    failures += 1
                if not self._flowing_since:
                    self._breaker.failed(time.monotonic())
                self._lost(reason)
                if self.state is FeedState.FAILED:
                    await asyncio.sleep(longest_s)
                    self._breaker.allows(time.monotonic())
                    self._enter(FeedState.CONNECTING)
                    continue
                closed = self._breaker.state is Circuit.CLOSED
                delay = quick.next_delay() if closed else slow.next_delay()
                delay += self._breaker.wait(time.monotonic())
                log.warning(
                    "feed_lost",
                    feed=self.name,
                    endpoint=self.endpoint,
                    reason=reason,
                    circuit=self.circuit.name.lower(),
                    delay_s=round(delay, 3),
                )
                await asyncio.sleep(delay)
                self._breaker.allows(time.monotonic())
                self._enter(FeedState.CONNECTING)
        finally:
            self._enter(FeedState.STOPPED)

    async def _connection(self, endpoint: str) -> str:
        """One connection from handshake to end; why it ended."""
        self._end_reason = ""
        self._refusal = ""
        self._flowing_since = 0.0
        self._malformed.clear()
        self._one_by_one.clear()
        socket = await dial(self.name, endpoint, self._settings)
        if isinstance(socket, str):
            return socket
        try:
            async with socket:
                self._enter(FeedState.SUBSCRIBING)
                self._socket = socket
                now = now_us()
                for streams in self._products.values():
                    streams.connected(now)
                # All data of a first subscription may come before `_send` returns here.
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._watch(socket), name=f"{self.name}:watch"),
                        group.create_task(self._request(), name=f"{self.name}:subscribe"),
                    ]
                    reason = await self._receive(socket)
                    for task in tasks:
                        task.cancel()
                # Our own reason for ending it explains more than what the socket saw.
                return self._end_reason or reason
        except OSError:
            return "network"
        finally:
            self._socket = None
            # Who is cancelled while it says goodbye leaves no socket behind.
            socket.transport.abort()

    async def _request(self) -> None:
        """Subscribe everything in one message; product by product once that was refused.

        One product the venue does not like makes it refuse the whole message.
        """
        await self._subscribe(list(self._products))
        await self._one_by_one.wait()
        for product in list(self._products):
            await self._subscribe([product])

    async def _subscribe(self, products: Sequence[str]) -> None:
        if products:
            channels = self._settings.coinbase_channels
            await self._send(lambda: self.venue.subscribe(products, channels, time.time()))

    async def _send(self, request: Callable[[], bytes]) -> bool:
        """Send in turn; the request is made when its turn has come (it may carry a time)."""
        await self._sends.turn()
        if self._socket is None:
            return False
        try:
            await self._socket.send(request(), text=True)
        except ConnectionClosed:
            # The receiving side sees the same end and says why.
            return False
        return True

    async def _receive(self, socket: ClientConnection) -> str:
        parse, products, clock = self.venue.parse, self._products, time.time_ns
        while True:
            try:
                frame = await socket.recv(decode=False)
            except ConnectionClosed as error:
                return why_closed(error)
            ts = clock() // 1000
            self.messages += 1
            self._last_message = ts
            if not self.messages % _YIELD_EVERY:
                # `recv` does not yield while frames are queued; publishing needs turns, too.
                await asyncio.sleep(0)
                await self._raw_publisher.backpressure()
            try:
                event = parse(frame)
            except MalformedFrame as error:
                self._on_malformed(error, frame, ts)
                continue
            streams = products.get(event.product)
            if streams is None:
                self._about_connection(event)
                continue
            if not self._flowing_since:
                self._flowing_since = time.monotonic()
                self._breaker.succeeded()
                self._enter(FeedState.ACTIVE)
                log.info("feed_flowing", feed=self.name, endpoint=self.endpoint)
            streams.feed(event, frame, ts)

    def _on_malformed(self, error: MalformedFrame, frame: bytes, ts: int) -> None:
        if error.reason not in self._malformed:
            # All are counted and parked; one line per reason and connection is enough.
            self._malformed.add(error.reason)
            log.warning("frame_malformed", feed=self.name, reason=str(error)[:200])
        if not self._stands_by():
            # The line that writes is sent the same, and says so.
            self._unreadable.park(error.reason, frame, ts)
        about = self.venue.damaged(frame)
        named = self._products.get(about.product)
        for streams in (named,) if about.product else tuple(self._products.values()):
            if streams is not None:
                streams.unreadable(about, f"a message cannot be read: {error}"[:200], ts)

    def _stands_by(self) -> bool:
        return any(isinstance(each, WaitingStreams) for each in self._products.values())

    def _about_connection(self, event: Event) -> None:
        if event.kind is Kind.REFUSED:
            self._refused(event.text)
        elif event.kind is not Kind.SUBSCRIBED:
            self.ignored += 1

    def _refused(self, text: str) -> None:
        log.warning("subscription_refused", feed=self.name, reason=text)
        self._refusal = text
        # Whole words, since BTC-USD is part of BTC-USDT.
        named = set(_WORD.findall(text))
        for streams in self._products.values():
            if self._one_by_one.is_set() and streams.product in named:
                streams.refused = text
                now = now_us()
                for stream in streams.all:
                    stream.state.raise_("down", f"refused by the venue: {text}", now)
        self._one_by_one.set()

    async def _watch(self, socket: ClientConnection) -> None:
        dead_us = self._settings.heartbeat_dead_ms * 1000
        suspect_us = self._settings.heartbeat_suspect_ms * 1000
        began = now_us()
        asked: dict[str, int] = {}
        while True:
            await asyncio.sleep(_WATCH_S)
            now = now_us()
            for streams in self._products.values():
                streams.watch(suspect_us, now)
            heard = (
                max((streams.heard for streams in self._products.values()), default=now) or began
            )
            if now - heard > dead_us:
                # A socket that is dead does not answer a closing handshake either.
                self._end_reason = "silent"
                socket.transport.abort()
                return
            for product, streams in list(self._products.items()):
                last = max(streams.heard or began, asked.get(product, 0))
                if now - last > dead_us and streams.refused is None:
                    asked[product] = now
                    log.warning("product_silent", feed=self.name, product=product)
                    await self._subscribe([product])

    def _lost(self, reason: str) -> None:
        self.reconnects += 1
        self.last_reason = reason
        self._metrics.reconnected(self.venue.name, reason)
        self.stopped(f"connection lost: {reason}")
        refused = self._refusal and self.state is FeedState.SUBSCRIBING
        self._enter(FeedState.FAILED if refused else FeedState.RECONNECTING)

    def _enter(self, state: FeedState) -> None:
        self.state = checked_step(self.state, state)
        self.since = now_us()

    def report(self) -> dict[str, Any]:
        """What `GET /feeds/{name}` answers."""
        return {
            "name": self.name,
            "venue": self.venue.name,
            "state": self.state.value,
            "circuit": self.circuit.name.lower(),
            "since": self.since,
            "endpoint": self.endpoint,
            "channels": list(self._settings.coinbase_channels),
            "messages": self.messages,
            "ignored": self.ignored,
            "queued": self.queued,
            "reconnects": self.reconnects,
            "last_loss": self.last_reason or None,
            "last_message_age_s": self.last_message_age_s,
            "products": {streams.product: streams.report() for streams in self._products.values()},
        }
