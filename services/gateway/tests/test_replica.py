"""The replica's promise: whatever happens around it, it gives exactly the log, each record once."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.domain.fold import Fold
from services.common.stream import Position
from services.common.wire import Reset, Tick, decode_record
from services.gateway.chain.replica import Replica, WantBase, WantPage
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Budget, Window
from services.gateway.testing import EPOCH, Market


@dataclass
class World:
    """A log, a live tail that may fail, and the replica that has to make sense of both."""

    channel: str
    market: Market = field(init=False)
    log: list[bytes] = field(default_factory=list)
    tail: list[bytes] = field(default_factory=list)
    first: int = 0
    emitted: list[bytes] = field(default_factory=list)
    generations: int = 0

    def __post_init__(self) -> None:
        self.market = Market(None, channel=self.channel)
        self.market.clock = lambda: 1
        self.replica = Replica(self.market.key, Window(Budget(10**9), 10**9), max_held=30)
        self.base_at: int | None = None

    # -------------------------------------------------------------- what can happen

    def publish(self, kind: str) -> None:
        if kind == "tick":
            record = self.market.tick()
        elif kind == "status":
            record = self.market.status()
        elif kind == "late":
            record = self.market.late()
        elif kind == "reset":
            record = self.market.reset(_state(self.channel))
        elif kind == "unknown":
            record = self.market.tick()
            body = {**msgspec.json.decode(record.payload), "type": kind}
            record = type(record)(record.subject, msgspec.json.encode(body), record.position)
        else:
            self.market.epoch += 1
            self.market.seq = self.market.seq and 10
            record = self.market.reset(_state(self.channel), step=1)
            # The numbering began anew, in the same log: the reset names the seq before it.
            body = msgspec.json.decode(record.payload)
            before = [r for r in map(StreamRecord, self.log) if r.chained]
            body["prev"] = before[-1].position.seq if before else None
            record = type(record)(record.subject, msgspec.json.encode(body), record.position)
        self.log.append(record.payload)
        self.tail.append(record.payload)

    def deliver(self, count: int) -> None:
        some, self.tail = self.tail[:count], self.tail[count:]
        self.replica.on_live([StreamRecord(payload) for payload in some])
        self.collect()

    def duplicate(self, count: int) -> None:
        delivered = self.log[: len(self.log) - len(self.tail)]
        self.replica.on_live([StreamRecord(payload) for payload in delivered[-count:]])
        self.collect()

    def vanish(self, _count: int) -> None:
        """The tail loses a record and does not say so."""
        if self.tail and StreamRecord(self.tail[0]).chained:
            del self.tail[0]

    def lose(self, count: int) -> None:
        del self.tail[:count]
        self.replica.on_interrupted()
        self.collect()

    def fetch(self, limit: int) -> None:
        want = self.replica.want()
        if isinstance(want, WantBase):
            self.base()
        elif isinstance(want, WantPage):
            start = int(want.cursor) if want.cursor else self.seek(want.after)
            page = self.log[start : start + limit]
            end = start + len(page)
            entries = [StreamRecord(payload) for payload in page]
            self.replica.on_page(entries, str(end), at_head=end == len(self.log))
        self.collect()

    def base(self) -> None:
        if self.base_at is None or not self.log:
            self.replica.on_base(None)
            return
        fold, cut = self.fold_to(min(self.base_at, len(self.log)))
        if fold.position is None:
            self.replica.on_base(None)
        else:
            self.replica.on_base(fold.position, str(cut), fold.state())
            self.first = cut

    # -------------------------------------------------------------- bookkeeping

    def seek(self, after: Position | None) -> int:
        if after is None:
            return 0
        for index, payload in enumerate(self.log):
            if StreamRecord(payload).position > after:
                return index
        return len(self.log)

    def fold_to(self, count: int) -> tuple[Fold, int]:
        fold = Fold(self.market.key)
        cut = 0
        for index, payload in enumerate(self.log[:count]):
            if StreamRecord(payload).unreadable is not None:
                continue
            record = decode_record(payload)
            if isinstance(record, Tick | Reset):
                fold.apply(record)
                cut = index + 1
        return fold, cut

    def collect(self) -> None:
        self.emitted += [entry.payload for entry in self.replica.drain()]

    def settle(self) -> None:
        self.deliver(len(self.tail))
        while self.replica.want() is not None:
            self.fetch(50)


def _state(channel: str) -> object:
    if channel == "book":
        return {"bids": [["1", "1"]], "asks": [["9", "1"]]}
    return {"trades": []} if channel == "trades" else {"volume_30d": "5"}


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("publish"),
            st.sampled_from(["tick", "tick", "tick", "tick", "status", "late", "reset", "epoch"]),
        ),
        st.tuples(
            st.sampled_from(["deliver", "duplicate", "vanish", "lose", "fetch"]),
            st.integers(min_value=1, max_value=40),
        ),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(
    actions=ACTIONS,
    before=st.integers(0, 20),
    base=st.none() | st.integers(1, 20),
    channel=st.sampled_from(["ticker", "trades", "book"]),
)
def test_whatever_the_interleaving_the_log_is_given_in_order_each_record_once(
    actions: list[tuple[str, str | int]], before: int, base: int | None, channel: str
) -> None:
    world = World(channel)
    for _ in range(before):
        world.publish("tick")
    world.tail.clear()
    world.base_at = base
    for name, argument in actions:
        getattr(world, name)(argument)
        expected = world.log[world.first : world.first + len(world.emitted)]
        assert world.emitted == expected
    # A silent loss at the very end is found by whatever comes next.
    world.publish("tick")
    world.settle()
    assert world.emitted == world.log[world.first :]
    assert world.replica.generation == 0
    found = world.replica.state()
    fold, _cut = world.fold_to(len(world.log))
    if fold.position is not None:
        assert found == (fold.position, fold.state())


@settings(max_examples=200, deadline=None)
@given(
    actions=ACTIONS,
    odd=st.lists(st.integers(0, 80), min_size=1, max_size=3),
    base=st.none() | st.integers(1, 20),
    channel=st.sampled_from(["ticker", "trades", "book"]),
)
def test_behind_a_record_that_cannot_be_read_the_chain_begins_anew_wherever_it_stands(
    actions: list[tuple[str, str | int]], odd: list[int], base: int | None, channel: str
) -> None:
    world = World(channel)
    world.base_at = base
    for at, (name, argument) in enumerate(actions):
        if at in odd:
            world.publish("unknown")
            world.publish("late")
        getattr(world, name)(argument)
    world.publish("unknown")
    world.settle()
    assert world.replica.head is None
    generation = world.replica.generation
    assert generation > 0
    world.publish("late")
    for _ in range(3):
        world.publish("tick")
    world.settle()
    assert world.replica.generation == generation
    assert world.emitted[-4:] == world.log[-4:]
    # A book is whole only where its beginning is known.
    assert (world.replica.state() is None) == (channel == "book")


@given(count=st.integers(1, 30), base=st.booleans())
def test_a_hole_in_the_log_starts_the_chain_over_and_says_so(count: int, base: bool) -> None:
    world = World("ticker")
    for _ in range(count):
        world.publish("tick")
    world.tail.clear()
    world.settle()
    # Expired while nobody listened: neither in the log any more nor ever delivered.
    world.publish("tick")
    world.log.clear()
    world.tail.clear()
    world.replica.on_interrupted()
    world.publish("tick")
    world.base_at = len(world.log) if base else None
    world.settle()
    assert world.replica.generation == 1
    assert world.replica.head == Position(EPOCH, world.market.seq or 0)
    assert world.replica.state() is not None


def test_a_book_that_begins_in_the_middle_has_no_state_until_a_reset_brings_it() -> None:
    world = World("book")
    for _ in range(5):
        world.publish("tick")
    world.log = world.log[2:]
    world.tail.clear()
    world.settle()
    assert world.replica.state() is None
    world.publish("reset")
    world.settle()
    assert world.replica.state() is not None


def test_more_live_records_than_may_wait_are_read_from_the_log_instead() -> None:
    world = World("ticker")
    world.replica.on_base(None)
    for _ in range(100):
        world.publish("tick")
    world.deliver(100)
    world.settle()
    assert world.emitted == world.log


def test_a_seq_of_another_epoch_proves_nothing_though_the_numbers_fit() -> None:
    world = World("ticker")
    for _ in range(3):
        world.publish("tick")
    world.settle()
    head = world.replica.head
    assert head is not None
    # The tail skipped what began the new numbering, in which there was a record of the same seq.
    world.market.epoch += 1
    fits = StreamRecord(world.market.tick().payload)
    assert fits.prev == head.seq
    world.replica.on_live([fits])
    assert world.replica.drain() == []
    assert world.replica.want() == WantPage("", head)


def test_where_other_records_stand_by_now_the_place_is_looked_for_by_position() -> None:
    """A log that lost its end may get it back in another order."""
    world = World("book")
    for _ in range(20):
        world.publish("tick")
    world.tail.clear()
    fold, cut = world.fold_to(5)
    assert world.replica.want() == WantBase()
    world.replica.on_base(fold.position, str(cut + 7), fold.state())
    world.settle()
    assert world.emitted == world.log[cut:]
    assert world.replica.generation == 0
