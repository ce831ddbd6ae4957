"""The hub serves everybody else when serving one client fails, at whatever step it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.common.stream import Position, Record
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.fanout.hub import Hub
from services.gateway.fanout.live_streams import LiveStream, Subscriber, SubscriptionListener
from services.gateway.fanout.outbox import Outbox, encoding_of
from services.gateway.fanout.push_batch import Turns
from services.gateway.fanout.subscription import Subscription, Terms
from services.gateway.metrics import Metrics
from services.gateway.testing import Market
from services.gateway.testing.links import Clock


class _Unforeseen(Exception):
    """Stands for what nobody thought of."""


def _fails(*_arguments: object) -> bool:
    raise _Unforeseen


class _Outbox(Outbox):
    """Each of its steps can be replaced."""

    offer: Callable[[bytes], bool]  # type: ignore[assignment]  # an instance's own, see above
    put: Callable[[bytes], None]  # type: ignore[assignment]  # as above

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.offer = super().offer
        self.put = super().put


class _Client(Subscriber, SubscriptionListener):
    """Reads what it is sent at once. What fails for it ends it, as it does a session."""

    def __init__(self, hub: Hub, live_stream: LiveStream, fd: int, mode: Terms) -> None:
        super().__init__(_Outbox(), encoding_of(arrays=False, deflated=False), fd)
        self.subscriptions = self
        self.hub = hub
        self.quick = True
        self.read = b""
        self.failures = 0
        self.told: list[str] = []
        self.subscription = _Subscription(self, live_stream, mode)
        hub.attach(self.subscription, None)

    @property
    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self.read += b"".join(self.outbox.drain(1 << 20))
        self.quick = not self.brought

    def unsent(self, frames: bytes, sent: int) -> None:
        self.read += frames[sent:]

    def fell_behind(self, subscription: Subscription, records: int) -> None:
        raise AssertionError((subscription, records))

    def rebased(self, subscription: Subscription) -> None:
        self.told.append("rebased")

    def over_quota(self, subscription: Subscription) -> None:
        self.told.append("over_quota")

    def within_quota(self, subscription: Subscription) -> None:
        self.told.append("within_quota")

    def failed(self) -> None:
        self.failures += 1
        vars(self.outbox).update(offer=lambda _frames: True, put=lambda _frames: None)
        vars(self).pop("flush", None)
        self.hub.end(self.subscription)


class _Subscription(Subscription):
    """One whose steps can be replaced."""


class _World:
    """A stream with two clients; the one that fails comes first in every list."""

    def __init__(self, terms: Terms, product_rate: float = 0) -> None:
        self.clock = Clock()
        self.market = Market(None)
        self.head: Position | None = None
        self.kernel_leaves: _Client | None = None
        self.hub = Hub(
            Turns(self.clock.soon.append, self.clock.at, lambda: self.clock.now),
            lambda: 0,
            product_rate,
            write=self._write,
        )
        live_stream = self.live_stream = LiveStream(
            self.market.key, Metrics().of_stream(self.market.key)
        )
        self.bad = _Client(self.hub, live_stream, 1, terms)
        self.good = _Client(self.hub, live_stream, 2, terms)

    def _write(self, fd: int, frames: bytes) -> int:
        client = self.bad if fd == self.bad.fd else self.good
        taken = 0 if client is self.kernel_leaves else len(frames)
        client.read += frames[:taken]
        return taken

    def publish(self, *records: Record) -> None:
        entries = [StreamRecord(record.payload) for record in records]
        self.hub.publish(self.live_stream, entries, self.head)
        for entry in entries:
            self.head = entry.position if entry.chained else self.head
        self.clock.turn()

    def ends_the_bad_one_only(self) -> None:
        """It failed once, and the other gets what comes next, and what came has come once."""
        for _ in range(3):
            self.clock.until(self.clock.now + 10)
            self.publish(self.market.tick())
        self.clock.until(self.clock.now + 10)
        assert (self.bad.failures, self.good.failures) == (1, 0)
        for seq in self.market.chain[-3:]:
            assert self.good.read.count(b'"seq":%d,' % seq) == 1
            assert self.bad.read.count(b'"seq":%d,' % seq) == 0


def test_a_client_that_cannot_be_written_to_on_its_own() -> None:
    world = _World(Terms())
    # Something waits for each of them, so that each gets its own part of the turn.
    world.bad.quick = world.good.quick = False
    vars(world.bad)["flush"] = _fails
    world.publish(world.market.tick())
    assert world.good.read.count(b'"seq":%d,' % world.market.chain[0]) == 1
    world.ends_the_bad_one_only()


def test_a_client_that_cannot_be_given_what_the_kernel_left() -> None:
    world = _World(Terms())
    world.kernel_leaves = world.bad
    vars(world.bad)["unsent"] = _fails
    world.publish(world.market.tick())
    assert world.good.read.count(b'"seq":%d,' % world.market.chain[0]) == 1
    world.ends_the_bad_one_only()


def test_a_client_that_cannot_be_told_what_was_decided() -> None:
    world = _World(Terms())
    vars(world.bad)["rebased"] = _fails
    world.hub.rebase(world.live_stream)
    world.clock.turn()
    assert (world.bad.failures, world.good.failures) == (1, 0)
    assert world.good.told == ["rebased"]


def test_a_client_that_cannot_be_brought_its_part_of_the_turn() -> None:
    world = _World(Terms())
    world.bad.quick = False
    vars(world.bad.outbox)["offer"] = _fails
    world.publish(world.market.tick())
    world.ends_the_bad_one_only()
    assert world.good.read.count(b'"seq":%d,' % world.market.chain[0]) == 1


def test_a_merged_client_that_cannot_be_owed_a_record() -> None:
    world = _World(Terms("latest"))
    vars(world.bad.outbox)["offer"] = _fails
    # Unlike ticks, which are kept until they are due, a status is handed on.
    world.publish(world.market.status())
    assert world.good.read.count(b'"type":"status"') == 1
    world.ends_the_bad_one_only()


def test_a_merged_client_that_cannot_be_sent_what_is_due() -> None:
    world = _World(Terms("latest"))
    vars(world.bad.outbox)["put"] = _fails
    world.publish(world.market.tick())
    assert world.good.read.count(b'"seq":%d,' % world.market.chain[0]) == 1
    world.ends_the_bad_one_only()


def test_a_client_that_cannot_be_stepped_up_again() -> None:
    world = _World(Terms(), product_rate=1)
    for _ in range(2):
        world.publish(world.market.tick())
    assert world.bad.told == world.good.told == ["over_quota"]
    vars(world.bad.subscription)["go_live"] = _fails
    while "within_quota" not in world.good.told:
        world.clock.until(world.clock.now + 10)
        world.publish(world.market.tick())
    assert world.bad.told == ["over_quota"]
    world.ends_the_bad_one_only()


@pytest.mark.parametrize("terms", [Terms(), Terms("latest")], ids=["full", "latest"])
def test_a_client_that_cannot_be_let_rest_when_the_chain_is_lost(terms: Terms) -> None:
    world = _World(terms)
    vars(world.bad.subscription)["rest"] = _fails
    world.hub.rebase(world.live_stream)
    world.clock.turn()
    assert (world.bad.failures, world.good.failures) == (1, 0)
    assert world.good.told == ["rebased"]


def test_a_client_that_cannot_be_stepped_down() -> None:
    world = _World(Terms(), product_rate=1)
    vars(world.bad.subscription)["merge"] = _fails
    for _ in range(2):
        world.publish(world.market.tick())
    assert world.good.told == ["over_quota"]
    world.ends_the_bad_one_only()
