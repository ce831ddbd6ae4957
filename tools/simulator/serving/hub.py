"""Who is connected, who gets which message, and the books kept about it."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from tools.simulator.faults.feed_faults import (
    GARBAGE,
    Delivery,
    FaultRequest,
    GarbageKind,
    MessageFaults,
)
from tools.simulator.protocol.feed import FeedProtocol
from tools.simulator.protocol.messages import Channel, Error, Outgoing, encode
from tools.simulator.protocol.subscriptions import ClientSubscriptions, Pair
from tools.simulator.serving.answers import AnswerFaults

log = structlog.get_logger(__name__)

_REMEMBERED = 10_000


@dataclass(slots=True)
class Later:
    """Something one client gets after `left` more messages, of `product` unless that is None."""

    left: int
    product: str | None
    send: Callable[[], None]


class Client:
    """One connection. `kick` ends it from outside; its session notices and closes."""

    def __init__(self, feed: FeedProtocol, subscriptions: ClientSubscriptions) -> None:
        self.feed = feed
        self.subscriptions = subscriptions
        self.kicked: tuple[int, str] | None = None
        # The session's current wait, so that `kick` can end it.
        self.waiting: asyncio.Timeout | None = None
        self.later: list[Later] = []

    def passed(self, product: str) -> None:
        """Count a message of the market towards what waits."""
        for each in self.later:
            if each.product in (None, product):
                each.left -= 1

    def send_due(self) -> None:
        due = [each for each in self.later if each.left <= 0]
        self.later = [each for each in self.later if each.left > 0]
        for each in due:
            each.send()

    def kick(self, code: int, reason: str) -> None:
        if self.kicked is not None:
            return
        self.kicked = (code, reason)
        if self.waiting is not None and not self.waiting.expired():
            self.waiting.reschedule(asyncio.get_running_loop().time())


class Hub:
    """Passes the market's messages to the clients that subscribed them, through the faults.

    Counts, per product and type: `produced` by the market, `sent` (to each client), and what was
    `dropped`, `duplicated`, `reordered` or `stalled` on purpose.
    """

    def __init__(self, faults: MessageFaults, answers: AnswerFaults, max_backlog: int) -> None:
        self.faults = faults
        self.answers = answers
        self._max_backlog = max_backlog
        self.clients: dict[Client, None] = {}
        self._by_pair: dict[Pair, dict[Client, None]] = {}
        self.counts: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(
            lambda: defaultdict(Counter)
        )
        self.lost: deque[dict[str, object]] = deque(maxlen=_REMEMBERED)
        self.stalled = False
        # Kind of bad frames that go between the good ones, and how often.
        self.garbage: tuple[GarbageKind, float] | None = None
        self.disconnected = 0
        self.subscribed = asyncio.Event()

    def add(self, client: Client) -> None:
        self.clients[client] = None

    def remove(self, client: Client) -> None:
        self.clients.pop(client, None)
        self.leave(client, client.subscriptions.pairs())

    def join(self, client: Client, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            self._by_pair.setdefault(pair, {})[client] = None
            self.subscribed.set()

    def leave(self, client: Client, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            members = self._by_pair.get(pair)
            if members is not None:
                members.pop(client, None)
                if not members:
                    del self._by_pair[pair]

    def wanted(self, pair: Pair) -> bool:
        return pair in self._by_pair

    def _audience(self, message: Outgoing) -> dict[Client, None]:
        product = message.product
        if len(message.channels) == 1:
            return self._by_pair.get((message.channels[0], product), {})
        merged: dict[Client, None] = {}
        for channel in message.channels:
            merged.update(self._by_pair.get((channel, product), {}))
        return merged

    def greet(self, client: Client, messages: Iterable[Outgoing]) -> None:
        """Send one client what its subscription begins with."""
        for message in messages:
            if self.stalled:
                self._note(message, "stalled")
                continue
            delivery = self.faults.greeting(message)
            self._note_delivery(message, delivery)
            for each in delivery.send:
                client.feed.push(each.encoded())
                self._count(each, "sent", 1)
        client.feed.flush()

    def reply(self, client: Client, message: object) -> None:
        if not self.stalled:
            client.feed.push(encode(message))
            client.feed.flush()

    def dispatch(self, messages: Iterable[Outgoing]) -> None:
        """Send what the market has just said to everybody who asked for it."""
        reached: dict[Client, None] = {}
        for message in messages:
            self._count(message, "produced", 1)
            # A fault that nobody could see would use up a counted rule.
            if not self._audience(message):
                continue
            if self.stalled:
                self._note(message, "stalled")
                continue
            if not self.faults.active:
                self._send(message, reached)
                continue
            delivery = self.faults.pass_on(message)
            self._note_delivery(message, delivery)
            for place, each in enumerate(delivery.send):
                self._send(each, reached, one_short=delivery.one_short and place == 0)
        for client in reached:
            # Only here, with all messages of this step written, is the state what they add up to.
            if client.later:
                client.send_due()
            client.feed.flush()
            if client.feed.backlog > self._max_backlog:
                self._too_slow(client)

    def _send(
        self, message: Outgoing, reached: dict[Client, None], *, one_short: bool = False
    ) -> None:
        audience = list(self._audience(message))
        payload = message.encoded()
        for client in audience[1:] if one_short else audience:
            if self.garbage is not None and self.faults.chance(self.garbage[1]):
                is_text, frame = GARBAGE[self.garbage[0]]
                client.feed.push(frame, text=is_text)
            client.feed.push(payload)
            reached[client] = None
            if client.later:
                client.passed(message.product)
        self._count(message, "sent", len(audience) - one_short)

    def _note_delivery(self, message: Outgoing, delivery: Delivery) -> None:
        if delivery.fate != "sent":
            self._note(message, delivery.fate)
        if delivery.one_short:
            self._note(message, "dropped_for_one")
        for kind in delivery.odd:
            self._count(message, f"odd_{kind}", 1)

    def _too_slow(self, client: Client) -> None:
        log.warning("slow_consumer_cut", backlog_bytes=client.feed.backlog)
        client.feed.push(encode(Error("ErrSlowConsume")))
        client.feed.flush()
        client.feed.cut()
        self.remove(client)

    def disconnect_all(self, code: int | None, reason: str) -> None:
        """Close every connection with `code`, or cut it without a word when that is None."""
        self.disconnected += len(self.clients)
        for client in list(self.clients):
            if code is None:
                client.feed.cut()
                self.remove(client)
            else:
                client.kick(code, reason)

    async def drained(self) -> None:
        """Wait until every client has taken most of what it was sent."""
        for client in list(self.clients):
            await client.feed.drained()

    def set_garbage(self, request: FaultRequest) -> None:
        """Send bad frames now, and go on doing so with the asked probability."""
        if request.clear:
            self.garbage = None
        garbage = request.garbage
        if garbage is None:
            return
        self.garbage = (garbage.kind, garbage.probability) if garbage.probability else None
        is_text, payload = GARBAGE[garbage.kind]
        for client in self.clients:
            for _ in range(garbage.count):
                client.feed.push(payload, text=is_text)
            client.feed.flush()

    def _note(self, message: Outgoing, fate: str) -> None:
        self._count(message, fate, 1)
        if fate in ("dropped", "dropped_for_one", "stalled"):
            self.lost.append(
                {
                    "type": message.type,
                    "product": message.product,
                    "sequence": message.sequence,
                    "trade_id": message.trade_id,
                    "fate": fate,
                }
            )

    def _count(self, message: Outgoing, what: str, amount: int) -> None:
        name = message.type
        if message.channels[0] in (Channel.LEVEL2, Channel.TICKER_BATCH):
            name = f"{message.channels[0]}:{name}"
        self.counts[message.product][name][what] += amount
