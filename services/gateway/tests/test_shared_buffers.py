"""The hub and real sessions on links in memory: whatever a turn brings, in whatever order, every
client gets its own bytes, each once and in order, also where many share one buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocket

from services.common.stream import Position
from services.common.stream.memory import MemoryBroker
from services.common.stream.specs import log_specs
from services.gateway.audience import Fan, Subscription
from services.gateway.auth import Places, Seat
from services.gateway.core import Core
from services.gateway.forms import ARRAYS, PLAIN
from services.gateway.frames import payloads_of
from services.gateway.gateway import Gateway
from services.gateway.hub import Hub
from services.gateway.records import Entry
from services.gateway.session import Session
from services.gateway.testing import Market, small_settings
from services.gateway.wsproto import Link

_CLIENTS, _STREAMS = 4, 3
_LIMIT = 4096
_PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")


class MemoryLink(Link):
    """A transport that takes bytes until it is full, and is emptied by the test."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.wire = b""
        self.writes = 0
        self.stuck = False
        self._held = 0
        self._on_pause: Callable[[], None]
        self._on_resume: Callable[[], None]

    @property
    def paused(self) -> bool:
        return self._held > 0

    @property
    def buffered(self) -> int:
        return self._held

    def listen(self, on_pause: Callable[[], None], on_resume: Callable[[], None]) -> None:
        self._on_pause, self._on_resume = on_pause, on_resume

    @property
    def ready(self) -> bool:
        return not self.paused

    @property
    def fd(self) -> int:
        return self._fd

    def send(self, frames: bytes) -> int:
        assert not self.paused, "written to although it asked not to"
        assert frames
        if self.stuck and self.writes % 2:
            raise BlockingIOError
        taken = len(frames) // 2 if self.stuck else len(frames)
        self.wire += frames[:taken]
        self.writes += 1
        return taken

    def write(self, frames: bytes | memoryview) -> bool:
        assert not self.paused, "written to although it asked not to"
        assert len(frames)
        self.wire += frames
        self.writes += 1
        if self.stuck:
            self._held = len(frames)
            self._on_pause()
        return True

    def unstick(self) -> None:
        self.stuck = False
        if self.paused:
            self._held = 0
            self._on_resume()

    def abort(self) -> None:
        raise AssertionError


class Clock:
    """The hub's event loop: what it scheduled runs when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def at(self, when: float, call: Callable[[], None]) -> None:
        self.timers.append((when, call))

    def turn(self) -> None:
        """The end of the event loop's turn."""
        calls = self.soon[:]
        # The hub holds on to this list's `append`.
        self.soon.clear()
        for call in calls:
            call()

    def until(self, when: float) -> None:
        """Let time pass; timers that fall due are called in order."""
        while self.timers and min(due for due, _ in self.timers) <= when:
            timer = min(self.timers, key=lambda one: one[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
            self.turn()
        self.now = max(self.now, when)


class Subject(Session):
    """A session that goes live on streams without commands."""

    def __init__(self, core: Core, link: MemoryLink) -> None:
        # Nothing is received in these tests.
        super().__init__(core, cast("WebSocket", None), link, Seat(Places()))
        self.link = link
        self.live: dict[int, Subscription] = {}
        self.takes_arrays = False
        # What it has to get, each with its subscription and position, where it has those.
        self.expected: list[tuple[bytes, Subscription | None, Position]] = []
        self.control: list[bytes] = []

    def fell_behind(self, subscription: Subscription, records: int) -> None:
        assert records == 1
        assert self.outbox.size > _LIMIT - 1024, "there was room"
        self.expected = [
            one
            for one in self.expected
            if one[1] is not subscription or one[2] <= subscription.position
        ]
        self.live = {at: one for at, one in self.live.items() if one is not subscription}

    def received(self) -> Iterator[bytes]:
        for payload in payloads_of(self.link.wire):
            if payload.startswith(b"["):
                assert self.takes_arrays
                yield from map(bytes, msgspec.json.decode(payload, type=list[msgspec.Raw]))
            else:
                yield payload


class World:
    def __init__(self, core: Core, window: float = 0.0) -> None:
        self.clock = Clock()
        self.hub = Hub(
            self.clock.soon.append,
            self.clock.at,
            lambda: self.clock.now,
            lambda: 0,
            window=window,
            most=_LIMIT,
            write=lambda fd, frames: self.clients[fd].link.send(frames),
        )
        core = replace(core, hub=self.hub)
        self.markets = [Market(None, product, padding=200) for product in _PRODUCTS]
        self.fans = [Fan(market.key) for market in self.markets]
        self.heads: list[Position | None] = [None] * _STREAMS
        self.clients = [Subject(core, MemoryLink(fd)) for fd in (-1, *range(1, _CLIENTS))]
        self.numbers = iter(range(10**6))

    def publish(self, stream: int) -> None:
        entry = Entry(self.markets[stream].tick().payload)
        for client in self.clients:
            if (subscription := client.live.get(stream)) is not None:
                (message,) = entry.messages()
                client.expected.append((message, subscription, entry.position))
        self.hub.publish(self.fans[stream], [entry], self.heads[stream])
        self.heads[stream] = entry.position

    def attach(self, number: int, stream: int) -> None:
        client = self.clients[number]
        if stream not in client.live:
            subscription = client.live[stream] = Subscription(client, self.fans[stream])
            self.hub.attach(subscription, None)

    def detach(self, number: int, stream: int) -> None:
        subscription = self.clients[number].live.pop(stream, None)
        if subscription is not None:
            self.hub.detach(subscription)

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
async def core() -> Core:
    chosen = small_settings(ws_queue_bytes=_LIMIT)
    return Gateway(chosen, MemoryBroker(), log_specs(chosen)).core


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
            client.form = ARRAYS if name == "batch" else PLAIN
            client.takes_arrays |= client.form is ARRAYS
        elif name == "turn":
            world.clock.turn()
        else:
            world.clock.until(world.clock.now + 0.001)


# The core is only read.
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=_steps, window=st.sampled_from([0.0, 0.003]))
async def test_every_client_gets_exactly_its_messages_in_order_whatever_happens_in_a_turn(
    core: Core, steps: list[tuple[str, int, int]], window: float
) -> None:
    # Breaks when a pushed turn is written to one who has a part of it already, or when what is
    # put into an outbox overtakes what was pushed before.
    world = World(core, window)
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
        assert data == [message for message, _, _ in client.expected]
        # It is back on the fast path.
        assert not client.outbox
        assert client.quick
