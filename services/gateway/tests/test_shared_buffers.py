"""The hub and real sessions on links in memory: whatever a turn brings, in whatever order, every
client gets its own bytes, each once and in order, also where many share one buffer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.stream import Position
from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.specs import log_specs
from services.gateway.admission.auth import Places, Seat
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.clients.client_subscriptions import ClientSubscriptions
from services.gateway.clients.dependencies import GatewayParts
from services.gateway.clients.session import Session
from services.gateway.fanout.hub import Hub
from services.gateway.fanout.live_streams import LiveStream
from services.gateway.fanout.outbox import encoding_of
from services.gateway.fanout.push_batch import Turns
from services.gateway.fanout.subscription import Mode, State, Subscription
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import Metrics
from services.gateway.testing import Market, small_settings
from services.gateway.testing.links import Clock, MemoryTransport, Nowhere, payloads_read
from services.gateway.websocket.rfc6455.deflate import Deflater
from services.gateway.websocket.rfc6455.frames import text_frame

_CLIENTS, _STREAMS = 4, 3
_LIMIT = 4096
_PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")


class Told(ClientSubscriptions):
    """Those of a subject, which does not catch up."""

    def __init__(self, parts: GatewayParts, subject: Subject) -> None:
        super().__init__(parts, subject)
        self.subject = subject

    def fell_behind(self, subscription: Subscription, records: int) -> None:
        assert records == 1
        assert subscription.state is State.CATCHING_UP
        live = self.subject.live
        self.subject.live = {at: one for at, one in live.items() if one is not subscription}


class Subject(Session):
    """A session that goes live on streams without commands."""

    def __init__(self, parts: GatewayParts, link: MemoryTransport) -> None:
        super().__init__(parts, link, Seat(Places()), Nowhere())
        link.listener = self
        self.subscriptions = Told(parts, self)
        self.link = link
        self.live: dict[int, Subscription] = {}
        self.takes_arrays = False
        # What it has to get, each with its subscription and position, where it has those.
        self.expected: list[tuple[bytes, Subscription | None, Position]] = []
        self.control: list[bytes] = []

    def has_to_get(self) -> list[bytes]:
        """What is pushed to it while it is live, and all that it is told."""
        return [
            message
            for message, subscription, position in self.expected
            if subscription is None
            or subscription.catching is None
            or position <= subscription.catching.position
        ]

    def received(self) -> Iterator[bytes]:
        for payload in payloads_read(self.link.wire, deflated=self.link.deflated):
            if payload.startswith(b"["):
                assert self.takes_arrays
                yield from map(bytes, msgspec.json.decode(payload, type=list[msgspec.Raw]))
            else:
                yield payload


class World:
    def __init__(self, parts: GatewayParts, window: float = 0.0, product_rate: float = 0.0) -> None:
        self.clock = Clock()
        self.hub = Hub(
            Turns(self.clock.soon.append, self.clock.at, lambda: self.clock.now),
            lambda: 0,
            product_rate,
            window,
            most=_LIMIT,
            write=lambda fd, frames: self.clients[fd].link.send(frames),
        )
        parts = replace(parts, hub=self.hub)
        self.markets = [Market(None, product, padding=200) for product in _PRODUCTS]
        self.live_streams = [
            LiveStream(market.key, parts.metrics.of_stream(market.key)) for market in self.markets
        ]
        self.heads: list[Position | None] = [None] * _STREAMS
        self.clients = [
            Subject(
                parts, MemoryTransport(number if number else -1, deflated=number >= _CLIENTS // 2)
            )
            for number in range(_CLIENTS)
        ]
        self.numbers = iter(range(10**6))

    def publish(self, stream: int) -> None:
        entry = StreamRecord(self.markets[stream].tick().payload)
        for client in self.clients:
            if (subscription := client.live.get(stream)) is not None and subscription.live:
                (message,) = entry.messages()
                client.expected.append((message, subscription, entry.position))
        self.hub.publish(self.live_streams[stream], [entry], self.heads[stream])
        self.heads[stream] = entry.position

    def attach(self, number: int, stream: int) -> None:
        client = self.clients[number]
        if stream not in client.live or client.live[stream].catching is not None:
            subscription = client.live[stream] = Subscription(client, self.live_streams[stream])
            self.hub.attach(subscription, None)

    def change(self, number: int, stream: int) -> None:
        """From `full` to `latest` or back, as a command does it."""
        subscription = self.clients[number].live[stream]
        mode: Mode = "full" if subscription.terms.mode == "latest" else "latest"
        self.hub.change(subscription, subscription.terms._replace(mode=mode), self.heads[stream])

    def detach(self, number: int, stream: int) -> None:
        client = self.clients[number]
        self.hub.bring(client)
        subscription = client.live.get(stream)
        if subscription is not None and subscription.live:
            del client.live[stream]
            self.hub.rest(subscription)

    def tell(self, number: int, *, control: bool) -> None:
        client = self.clients[number]
        message = b'{"n":%d}' % next(self.numbers)
        if control:
            client.control.append(message)
        else:
            client.expected.append((message, None, Position(0, 0)))
        client.tell(message, control=control)

    def settle(self) -> None:
        """Everyone reads everything."""
        for client in self.clients:
            client.link.unstick()
        while self.clock.soon or self.clock.timers:
            self.clock.turn()
            self.clock.until(self.clock.now + 1)


@pytest.fixture
async def parts() -> GatewayParts:
    chosen = small_settings(ws_queue_bytes=_LIMIT)
    return Gateway(chosen, MemoryBroker(), log_specs(chosen), Metrics()).parts


_number = st.integers(0, _CLIENTS - 1)
_stream = st.integers(0, _STREAMS - 1)
_steps = st.lists(
    st.one_of(
        # Half of all, since the others matter only between them.
        st.tuples(st.sampled_from(["publish", "push"]), st.just(0), _stream),
        st.tuples(st.sampled_from(["publish", "push"]), st.just(0), _stream),
        st.tuples(st.sampled_from(["publish", "push"]), st.just(0), _stream),
        st.tuples(st.sampled_from(["attach", "attach", "detach"]), _number, _stream),
        st.tuples(
            st.sampled_from(["tell", "control", "stick", "unstick", "heartbeat", "batch", "plain"]),
            _number,
            st.just(0),
        ),
        st.tuples(st.sampled_from(["turn", "wait"]), st.just(0), st.just(0)),
    ),
    min_size=10,
    max_size=60,
)


def _play(world: World, steps: list[tuple[str, int, int]]) -> None:
    for name, number, stream in steps:
        client = world.clients[number]
        if name in ("publish", "push"):
            world.publish(stream)
            if name == "push":
                world.clock.turn()
        elif name == "attach":
            world.attach(number, stream)
        elif name == "detach":
            world.detach(number, stream)
        elif name in ("tell", "control"):
            world.tell(number, control=name == "control")
        elif name == "stick":
            client.link.stuck = True
        elif name == "unstick":
            client.link.unstick()
        elif name == "heartbeat":
            client.heartbeat(1)
        elif name in ("batch", "plain"):
            client.encoding = encoding_of(arrays=name == "batch", deflated=client.link.deflated)
            client.takes_arrays |= name == "batch"
        elif name == "turn":
            world.clock.turn()
        else:
            world.clock.until(world.clock.now + 0.001)


# The core is only read.
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=_steps, window=st.sampled_from([0.0, 0.003]))
async def test_every_client_gets_exactly_its_messages_in_order_whatever_happens_in_a_turn(
    parts: GatewayParts, steps: list[tuple[str, int, int]], window: float
) -> None:
    # Breaks when a pushed turn is written to one who has a part of it already, or when what is
    # put into an outbox overtakes what was pushed before.
    world = World(parts, window)
    for number, client in enumerate(world.clients):
        world.hub.touch(client)
        for stream in range(_STREAMS - number % 2):
            world.attach(number, stream)
    world.settle()
    _play(world, steps)
    world.settle()
    for client in world.clients:
        received = [message for message in client.received() if b'"hb"' not in message]
        control = set(client.control)
        assert [one for one in received if one in control] == client.control
        data = [one for one in received if one not in control]
        assert data == client.has_to_get()
        # It is back on the fast path.
        assert not client.outbox
        assert client.quick


_merging = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["publish", "push"]), st.just(0), _stream),
        st.tuples(st.sampled_from(["publish", "push"]), st.just(0), _stream),
        st.tuples(st.just("change"), _number, _stream),
        st.tuples(st.sampled_from(["stick", "unstick"]), _number, st.just(0)),
        st.tuples(st.sampled_from(["turn", "wait", "rest"]), st.just(0), st.just(0)),
    ),
    min_size=10,
    max_size=60,
)


# The core is only read.
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=_merging, window=st.sampled_from([0.0, 0.003]), product_rate=st.sampled_from([0.0, 2.0])
)
async def test_chains_verify_for_merged_clients_beside_full_ones_whoever_changes_when(
    parts: GatewayParts, steps: list[tuple[str, int, int]], window: float, product_rate: float
) -> None:
    # Breaks when what is merged begins before, or behind, what was pushed to all in that turn.
    chosen = small_settings(product_max_msgs_per_sec=product_rate)
    world = World(replace(parts, settings=chosen), window, product_rate)
    for number, client in enumerate(world.clients):
        world.hub.touch(client)
        for stream in range(_STREAMS):
            world.attach(number, stream)
    for stream in range(_STREAMS):
        # The first of a chain has nothing before it.
        world.publish(stream)
    world.settle()
    for name, number, stream in steps:
        if name == "change":
            world.change(number, stream)
        elif name == "rest":
            world.clock.until(world.clock.now + 1)
        else:
            _play(world, [(name, number, stream)])
    world.settle()
    for client in world.clients:
        held: dict[str, int | None] = dict.fromkeys(_PRODUCTS)
        for message in map(msgspec.json.decode, client.received()):
            if message["type"] == "incr":
                tick = message["tick"]
                assert message.get("prev", tick["prev"]) == held[tick["product"]]
                held[tick["product"]] = tick["seq"]
        assert list(held.values()) == [market.seq for market in world.markets]


def test_clients_of_the_same_streams_are_written_the_same_buffer_whatever_their_number(
    parts: GatewayParts,
) -> None:
    # Breaks when a turn is joined, or compressed, for each client.
    world = World(parts)
    for number, client in enumerate(world.clients):
        world.hub.touch(client)
        client.link.unstick()
        for stream in range(_STREAMS):
            world.attach(number, stream)
    world.settle()
    for _ in range(3):
        for stream in range(_STREAMS):
            world.publish(stream)
    world.settle()
    by_form: dict[bool, set[int]] = {False: set(), True: set()}
    for client in world.clients[1:]:
        assert client.link.writes == 1
        by_form[client.link.deflated].add(id(client.link.newest))
    assert [len(buffers) for buffers in by_form.values()] == [1, 1]


def test_a_piece_is_compressed_for_the_first_who_asks() -> None:
    deflater = Deflater()
    piece = text_frame(b"the same again and " * 20)
    first = deflater.shared(piece)
    assert len(first) < len(piece)
    assert deflater.shared(bytes(bytearray(piece))) is first


@given(st.lists(st.binary(max_size=300).map(bytes.hex), max_size=8))
def test_each_compressed_message_is_read_without_those_before_it(texts: list[str]) -> None:
    # Breaks when a message refers to an earlier one, which a client that began later never had.
    payloads = [text.encode() * 2 for text in texts]
    deflater = Deflater()
    wire = b"".join(deflater.frames(text_frame(payload)) for payload in payloads)
    assert list(payloads_read(wire, deflated=True)) == payloads
