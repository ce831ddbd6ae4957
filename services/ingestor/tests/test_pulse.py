"""Which products the pulse names, and that what is written is a raw record of its own kind."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.common.stream.records import Position, Record
from services.common.subjects import is_pulse, raw_subject
from services.common.wire import PulseBody
from services.ingestor.streams import ProductStreams
from services.ingestor.streams.pulse import Pulse
from services.ingestor.testing import RawLog
from services.ingestor.tests.test_product_streams import NOW, SECOND, SUSPECT, Bench
from services.ingestor.venues.base import Kind


class Beating:
    """A pulse of given products, and what it wrote."""

    def __init__(self, *products: ProductStreams, name: str = "BTC-USD", after: int = 0) -> None:
        self.log = RawLog()
        self.products = products
        self.pulse = Pulse("coinbase", name, "line-1", self.log.offer, SUSPECT, after=after)

    def beat(self, at: int, epoch: int = 1) -> list[str]:
        """The products that are named now, by the beat's record."""
        if not self.pulse.beat(self.products, epoch, NOW + at):
            return []
        return msgspec.json.decode(bytes(self.log.records[-1].body), type=PulseBody).products


def test_a_product_is_named_while_its_heartbeats_come_however_quiet_its_market_is() -> None:
    bench = Bench()
    beating = Beating(bench.streams)
    assert beating.beat(0) == []
    for second in range(40):
        bench.feed(Kind.HEARTBEAT, second, second * SECOND, trade_id=0)
        assert beating.beat(second * SECOND) == ["BTC-USD"]
    silent = 39 * SECOND + SUSPECT
    assert beating.beat(silent) == ["BTC-USD"]
    assert beating.beat(silent + 1) == []


def test_messages_are_a_sign_of_life_where_no_heartbeat_comes() -> None:
    bench = Bench()
    beating = Beating(bench.streams)
    beating.beat(0)
    bench.feed(Kind.TICKER, 10, 1, trade_id=3)
    assert beating.beat(2) == ["BTC-USD"]
    assert beating.beat(3) == []


def test_a_pulse_stands_above_the_newest_one_of_another_line_whose_clock_is_ahead() -> None:
    bench = Bench()
    bench.feed(Kind.HEARTBEAT, 1, 0, trade_id=0)
    beating = Beating(bench.streams, after=NOW + 7 * SECOND)
    assert beating.beat(1) == ["BTC-USD"]
    assert beating.log.records[-1].seq == NOW + 7 * SECOND + 1


def test_nothing_is_named_once_the_connection_is_gone() -> None:
    bench = Bench()
    beating = Beating(bench.streams)
    bench.feed(Kind.HEARTBEAT, 1, 0, trade_id=0)
    assert beating.beat(1) == ["BTC-USD"]
    bench.streams.lost("gone", NOW + 2)
    assert beating.beat(3) == []


@given(st.lists(st.integers(-5 * SECOND, 5 * SECOND), min_size=1, max_size=20), st.text())
def test_positions_increase_whatever_the_clock_does_and_the_subject_is_no_streams(
    steps: list[int], name: str
) -> None:
    bench = Bench()
    beating = Beating(bench.streams, name=name or "-")
    at = 0
    for step in steps:
        at += step
        bench.feed(Kind.HEARTBEAT, 1, at, trade_id=0)
        assert beating.beat(at) == ["BTC-USD"]
    written = beating.log.records
    seqs = [record.seq for record in written]
    assert seqs == sorted(set(seqs))
    assert {(record.kind, record.sub, record.prev) for record in written} == {("pulse", 0, None)}
    assert is_pulse(raw_subject(beating.pulse.key))


def test_a_pulse_for_which_there_is_no_room_is_left_out() -> None:
    bench = Bench()
    bench.feed(Kind.HEARTBEAT, 1, 0, trade_id=0)
    pulse = Pulse("coinbase", "BTC-USD", "line-1", lambda _record: False, SUSPECT)
    assert not pulse.beat([bench.streams], 1, NOW)


def test_a_record_stands_at_its_time_or_right_behind_the_one_before() -> None:
    bench = Bench()
    bench.feed(Kind.HEARTBEAT, 1, 0, trade_id=0)
    offered: list[Record] = []

    def offer(record: Record) -> bool:
        offered.append(record)
        return True

    pulse = Pulse("coinbase", "BTC-USD", "line-1", offer, SUSPECT)
    for at in (5, 3, 9):
        assert pulse.beat([bench.streams], 7, NOW + at)
    assert [record.position for record in offered] == [
        Position(7, NOW + 5),
        Position(7, NOW + 6),
        Position(7, NOW + 9),
    ]
    assert {record.subject for record in offered} == {raw_subject(pulse.key)}
    # By a clock that stands at nothing they count from the first.
    fresh = Pulse("coinbase", "BTC-USD", "line-1", offer, SUSPECT)
    assert fresh.beat([bench.streams], 7, 0)
    assert offered[-1].position == Position(7, 1)
