"""What judges a run sees what is wrong with it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from market_data_fanout_client.chain import Verdict

from services.common.subjects import StreamKey
from tests.simulation.client import Client, allowed_age_s
from tests.simulation.expected_errors import unexpected
from tests.simulation.leftovers import grown
from tests.simulation.nats_part import LateAcks
from tests.simulation.plan import Kill, Plan, Slow, StoreFault, WrongClock
from tests.simulation.stored import Archive, Lines, archive_differs

KEY = StreamKey("coinbase", "book", "BTC-USD")
DUE: Lines = {KEY: [b"1", b"2", b"3"]}


class _Archive(Archive):
    def __init__(self, indexed: list[bytes], lying: list[bytes]) -> None:
        self._told = {KEY: indexed}, {KEY: lying}

    def indexed(self, shards: int) -> Lines:
        return self._told[0]

    def lying(self, _shards: int) -> Lines:
        return self._told[1]


def differs(indexed: bytes, lying: bytes, **options: bool) -> list[str]:
    archive = _Archive([b"%c" % one for one in indexed], [b"%c" % one for one in lying])
    return [text.removeprefix(f"the archive of {KEY} ") for text in _told(archive, options)]


def _told(archive: Archive, options: dict[str, bool]) -> list[str]:
    return archive_differs(DUE, archive, 1, **options)


def test_an_archive_that_is_not_the_log_is_told() -> None:
    whole = "of 3"
    assert differs(b"123", b"123") == []
    assert differs(b"13", b"123") == [f"by its index has 1 missing, 0 more and 0 twice {whole}"]
    assert differs(b"1234", b"123") == [f"by its index has 0 missing, 1 more and 0 twice {whole}"]
    assert differs(b"1223", b"123") == [f"by its index has 0 missing, 0 more and 1 twice {whole}"]
    (order,) = differs(b"213", b"123")
    assert order.endswith("in another order")
    assert differs(b"123", b"12") == [f"as it lies has 1 missing, 0 more and 0 twice {whole}"]


def test_of_what_only_lies_there_a_plan_may_allow_less() -> None:
    assert differs(b"123", b"213", names_in_order=False) == []
    assert differs(b"123", b"2131", names_in_order=False) != []
    assert differs(b"123", b"2131", nothing_left_lying=False) == []
    assert differs(b"123", b"21", nothing_left_lying=False) != []
    assert differs(b"213", b"213", names_in_order=False, nothing_left_lying=False) != []


def plan(*faults: Any, overlap: bool = False) -> Plan:
    return Plan(1, ("BTC-USD",), 60.0, faults, tuple(range(len(faults))), overlap)


def test_a_plan_allows_less_only_where_its_faults_explain_it() -> None:
    killed = Kill(20.0, "snapshotter-1", 1.0, unplugged=False)
    assert plan(killed).nothing_left_lying
    assert not plan(killed, overlap=True).nothing_left_lying
    slow = StoreFault(20.0, "s3", "slow", 1.0)
    assert plan(slow).nothing_left_lying
    assert not plan(slow, overlap=True).nothing_left_lying
    assert not plan(killed, slow).nothing_left_lying
    assert not plan(killed, Slow(20.0, ("snapshotter-2", "s3"), 1.0, 0.5)).nothing_left_lying
    assert plan(killed, StoreFault(20.0, "dynamodb", "slow", 1.0)).nothing_left_lying
    assert plan(WrongClock(20.0, "ingestor", 1.0)).names_in_order
    assert not plan(WrongClock(20.0, "ingestor", -1.0)).names_in_order
    way = Slow(20.0, ("exchange", "ingestor"), 1.0, 0.5)
    wrong = WrongClock(20.0, "gateway-1", -3.0), WrongClock(20.0, "nats", 5.0)
    assert allowed_age_s(plan(way, *wrong)) == allowed_age_s(plan()) + 4.0


def test_a_book_that_is_old_and_shown_as_live_is_told() -> None:
    now = [1_000_000_000]
    client = Client("ws://nowhere", [], lambda: now[0], 16.0)
    stream = {"venue": "coinbase", "channel": "book", "product": "BTC-USD"}
    tick: dict[str, Any] = {**stream, "ts_event": now[0], "fields": {}}

    def hear(state: str, after_s: float) -> int:
        client._take({"type": "status", "status": {**stream, "state": state}}, None)
        client._take({"type": "incr", "tick": tick}, Verdict.APPLY)
        now[0] = tick["ts_event"] + int(after_s * 1e6)
        client._take({"type": "hb"}, None)
        return len(client.misled)

    assert hear("live", 15.9) == 0
    assert hear("stale", 30.0) == 0
    assert hear("live", 16.1) == 1


def test_what_is_left_over_and_what_is_logged_are_told() -> None:
    before = Counter({"task Gateway.run": 1, "connection": 2})
    assert grown("gateway-1", before, before) == []
    assert grown("gateway-1", before, before + Counter(connection=1)) == [
        "gateway-1: 3 of connection, 2 before the faults"
    ]
    assert unexpected([{"event": "session_failed"}, {"event": "session_failed"}]) == [
        "logged 2 times: {'event': 'session_failed'}"
    ]
    stuck = [{"event": "log_is_stuck"}]
    assert unexpected(stuck, [LateAcks(20.0, 5.0, 6.0, 0.0)]) == []
    assert unexpected(stuck, [LateAcks(20.0, 5.0, 1.0, 0.0)]) != []
