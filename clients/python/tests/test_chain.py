"""The rule and the book, without a socket."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_data_fanout_client import Level, NotSubscribed, OrderBook, Resync, Snapshot, Tick
from market_data_fanout_client.chain import Chain, Verdict
from market_data_fanout_client.protocol import Protocol
from market_data_fanout_client.reconnect import longest_wait_s


@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=40, unique=True).map(sorted),
    st.data(),
)
def test_whatever_is_dropped_repeated_or_swapped_only_an_unbroken_chain_is_applied(
    seqs: list[int], data: Any
) -> None:
    links = list(zip([None, *seqs], seqs, strict=False))
    played = data.draw(st.lists(st.sampled_from(links), max_size=80))
    chain, applied = Chain(), []
    for prev, seq in played:
        if chain.waiting:
            chain.snapshot(1, seqs[0])
            applied.append(seqs[0])
        if chain.incr(1, seq, prev) is Verdict.APPLY:
            applied.append(seq)
    following = dict(links)
    predecessor = {seq: prev for prev, seq in following.items()}
    assert all(
        later == seqs[0] or predecessor[later] == earlier
        for earlier, later in itertools.pairwise(applied)
    )


def test_a_position_that_was_only_claimed_may_lie_between_two_records() -> None:
    chain = Chain(seq=105)
    assert chain.incr(1, 107, 100) is Verdict.APPLY
    assert chain.incr(1, 110, 105) is Verdict.BREAK


def test_a_head_is_behind_only_after_a_whole_heartbeat() -> None:
    chain = Chain()
    chain.snapshot(1, 10)
    assert chain.head(12, 0.0, 5.0) is Verdict.APPLY
    assert chain.head(12, 4.0, 5.0) is Verdict.APPLY
    assert chain.head(12, 5.0, 5.0) is Verdict.BEHIND
    assert chain.incr(1, 12, 10) is Verdict.IGNORE
    chain.snapshot(1, 12)
    assert chain.head(12, 10.0, 5.0) is Verdict.APPLY


def test_what_becomes_of_each_message_is_counted() -> None:
    chain = Chain()
    chain.snapshot(1, 10)
    for seq, prev in ((11, 10), (11, 10), (13, 12), (14, 13)):
        chain.incr(1, seq, prev)
    chain.snapshot(1, 14)
    chain.incr(2, 15, 14)
    counts = chain.counts
    assert (counts.applied, counts.duplicates, counts.ignored, counts.snapshots) == (1, 1, 1, 2)
    # Another numbering explains itself.
    assert (counts.breaks, counts.epochs, counts.unexplained) == (2, 1, 1)


def test_a_reset_is_a_link_of_the_chain_and_a_record_lost_just_before_it_is_a_break() -> None:
    chain = Chain()
    chain.incr(1, 10, None)
    assert chain.reset(1, 15, 10) is Verdict.APPLY
    assert chain.incr(1, 16, 15) is Verdict.APPLY
    assert chain.reset(2, 3, 16) is Verdict.APPLY
    assert chain.counts.breaks == 0
    assert chain.reset(2, 9, 7) is Verdict.APPLY
    assert (chain.counts.resets, chain.counts.unexplained) == (3, 1)
    assert chain.reset(2, 8, 7) is Verdict.IGNORE
    assert chain.seq == 9


def test_a_reset_ends_the_wait_for_a_snapshot() -> None:
    chain = Chain()
    chain.incr(1, 10, None)
    assert chain.incr(1, 12, 11) is Verdict.BREAK
    assert chain.reset(1, 13, 12) is Verdict.APPLY
    assert chain.incr(1, 14, 13) is Verdict.APPLY
    assert chain.counts.breaks == 1


def test_a_new_connection_goes_on_from_what_was_held_before_the_break() -> None:
    chain = Chain()
    chain.incr(1, 10, None)
    chain.incr(1, 12, 11)
    chain.reconnected()
    assert chain.incr(1, 11, 10) is Verdict.APPLY
    assert chain.incr(1, 12, 11) is Verdict.APPLY


@given(st.lists(st.integers(1, 5), min_size=1, max_size=50))
def test_who_keeps_up_within_a_heartbeat_is_never_behind(steps: list[int]) -> None:
    chain, head = Chain(), 1
    chain.incr(1, head, None)
    for tick, step in enumerate(steps):
        # Heartbeats come when the newest record is still on its way.
        assert chain.head(head + step, float(tick), 0.5) is Verdict.APPLY
        assert chain.incr(1, head + step, head) is Verdict.APPLY
        head += step
    assert chain.counts.breaks == 0


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["buy", "sell"]),
        st.integers(1, 30).map(lambda n: f"{n / 2:.2f}"),
        st.sampled_from(["0", "0.00", "1", "2.5"]),
    ),
    max_size=60,
)


@given(ROWS)
def test_a_book_holds_the_newest_size_of_each_price_best_first(rows: Any) -> None:
    book, expected = OrderBook(), {"buy": {}, "sell": {}}  # type: ignore[var-annotated]
    book.replace(1, 1, [Level("3.0", "1")], [Level("12", "1")])
    expected["buy"][Decimal(3)] = "1"
    expected["sell"][Decimal(12)] = "1"
    for n, (side, price, size) in enumerate(rows):
        book.apply(1, n + 2, [(side, price, size)])
        if Decimal(size):
            expected[side][Decimal(price)] = size
        else:
            expected[side].pop(Decimal(price), None)
    depth = book.depth()
    assert [(Decimal(b.price), b.size) for b in depth.bids] == sorted(
        expected["buy"].items(), reverse=True
    )
    assert [(Decimal(a.price), a.size) for a in depth.asks] == sorted(expected["sell"].items())
    assert book.best_bid == (depth.bids[0] if depth.bids else None)
    assert book.depth(2).asks == depth.asks[:2]
    assert book.depth(0).bids == ()


NAMES = {"venue": "coinbase", "channel": "book", "product": "BTC-USD"}


def book_snapshot(seq: int, **more: Any) -> dict[str, Any]:
    state = {"bids": [["10", "1"]], "asks": [["11", "1"]]}
    record = {**NAMES, "epoch": 1, "seq": seq, "ts_snapshot": 1, "state": state}
    return {"type": "snapshot", "reason": "subscribe", "snapshot": record, **more}


def book_tick(seq: int, prev: int) -> dict[str, Any]:
    fields = {"changes": [["buy", str(seq), "1"]]}
    record = {**NAMES, "epoch": 1, "seq": seq, "prev": prev, "ts_ingest": 1, "fields": fields}
    return {"type": "incr", "tick": record}


def subscribed_protocol() -> Protocol:
    protocol = Protocol()
    protocol.subscribe(["BTC-USD"], ["book"], "coinbase", None, None, {})
    protocol.opened()
    assert protocol.ready(0.0) is not None
    return protocol


def test_a_break_makes_the_book_invalid_until_the_snapshot_that_was_asked_for() -> None:
    protocol = subscribed_protocol()
    book = protocol.streams["coinbase:book:BTC-USD"].book
    assert book is not None
    assert isinstance(protocol.take(book_snapshot(1), 0.0)[0], Snapshot)
    assert isinstance(protocol.take(book_tick(2, 1), 0.0)[0], Tick)
    assert isinstance(protocol.take(book_tick(5, 4), 0.0)[0], Resync)
    assert not book.valid
    command = protocol.ready(0.0)
    assert command is not None
    assert (command["type"], command["channel"]) == ("resync", "book")
    assert protocol.take(book_tick(6, 5), 0.0) == []
    protocol.take(book_snapshot(6), 0.0)
    assert (book.valid, book.seq) == (True, 6)


def test_a_raw_protocol_judges_and_answers_and_makes_no_events_of_what_a_message_says() -> None:
    protocol = Protocol(raw=True)
    protocol.subscribe(["BTC-USD"], ["book"], "coinbase", None, None, {})
    protocol.opened()
    (name, stream), *_ = protocol.streams.items()
    assert stream.book is None

    def judged(message: dict[str, Any]) -> object:
        assert protocol.take(message, 0.0) == []
        return protocol.judged

    assert judged(book_snapshot(1, part=1, last=False)) is None
    assert judged(book_snapshot(1, part=2, last=True)) == (stream, Verdict.APPLY)
    assert judged(book_tick(2, 1)) == (stream, Verdict.APPLY)
    assert judged({"type": "status", **NAMES, "state": "live"}) is None
    (resync,) = protocol.take(book_tick(5, 4), 0.0)
    assert isinstance(resync, Resync)
    assert protocol.judged == (stream, Verdict.BREAK)
    assert (protocol.counts("book").breaks, protocol.counts("ticker").breaks) == (1, 0)
    assert name == resync.stream


def test_after_a_reset_a_lost_connection_asks_the_book_anew_and_not_from_its_position() -> None:
    protocol = subscribed_protocol()
    protocol.take(book_snapshot(1), 0.0)
    protocol.take({"type": "reset", **NAMES, "epoch": 1, "seq": 9, "prev": 1, "cause": "gap"}, 0.0)
    protocol.take(book_snapshot(9, part=1, last=False), 0.0)
    protocol.opened()
    command = protocol.ready(0.0)
    assert command is not None
    assert "from_seq" not in command
    protocol.take(book_snapshot(9, part=1, last=False), 0.0)
    (whole,) = protocol.take(book_snapshot(9, part=2, last=True), 0.0)
    assert isinstance(whole, Snapshot)
    protocol.opened()
    command = protocol.ready(0.0)
    assert command is not None
    assert (command["from_seq"], command["epoch"]) == ({"BTC-USD": 9}, 1)


def test_a_command_that_the_rate_limit_refused_is_said_again_when_told() -> None:
    protocol = subscribed_protocol()
    protocol.subscribe(["ETH-USD"], ["ticker"], "coinbase", None, None, {})
    command = protocol.ready(0.0)
    assert command is not None
    limit = {"type": "rate_limit", "scope": "commands", "id": command["id"], "retry_after_ms": 500}
    protocol.take(limit, 10.0)
    assert protocol.ready(10.4) is None
    assert protocol.ready(10.5) == command


def test_a_resync_that_could_not_be_answered_is_asked_again() -> None:
    protocol = subscribed_protocol()
    protocol.take(book_snapshot(1), 0.0)
    protocol.take(book_tick(5, 4), 0.0)
    command = protocol.ready(0.0)
    assert command is not None
    error = {"code": 6001, "name": "broker_unavailable", "retry": "after", "retry_after_ms": 1000}
    protocol.take(
        {"type": "error", "id": command["id"], "stream": "coinbase:book:BTC-USD", **error}, 1.0
    )
    assert protocol.ready(1.9) is None
    assert protocol.ready(2.0) == command


def test_a_drains_cursor_is_used_only_for_the_position_it_names() -> None:
    protocol = subscribed_protocol()
    protocol.take(book_snapshot(1), 0.0)
    resume = {"coinbase:book:BTC-USD": {"epoch": 1, "seq": 2, "cursor": "c"}}
    drain = {"type": "drain", "reconnect_after_ms": [10, 20], "resume": resume}
    protocol.take(drain, 0.0)
    assert protocol.reconnect_after_s == (0.01, 0.02)
    protocol.opened()
    command = protocol.ready(0.0)
    assert command is not None
    assert command["from_seq"] == {"BTC-USD": 1}
    protocol.take(book_tick(2, 1), 0.0)
    protocol.opened()
    command = protocol.ready(0.0)
    assert command is not None
    assert command["cursor"] == {"BTC-USD": "c"}
    assert "from_seq" not in command


def part(seq: int, number: int, last: bool) -> dict[str, Any]:
    """A part of a book's snapshot, with one level of its own."""
    return {
        "type": "snapshot",
        "reason": "subscribe",
        "part": number,
        "last": last,
        "snapshot": {
            "venue": "coinbase",
            "channel": "book",
            "product": "BTC-USD",
            "epoch": 1,
            "seq": seq,
            "ts_snapshot": 1,
            "state": {"bids": [[str(number), "1"]], "asks": []},
        },
    }


@pytest.mark.parametrize(
    "before",
    [
        # Unsubscribed and subscribed again while a snapshot came: its end is for nobody.
        [part(5, 2, False), part(5, 3, True)],
        [part(5, 3, True)],
        # One that ended in the middle, and the end of yet another.
        [part(5, 1, False), part(6, 2, True)],
        [part(5, 1, False), part(5, 3, True)],
    ],
)
def test_only_the_parts_of_one_snapshot_in_order_are_a_book(before: list[dict[str, Any]]) -> None:
    protocol = Protocol()
    protocol.subscribe(["BTC-USD"], ["book"], "coinbase", None, None, {})
    protocol.opened()
    stream = protocol.streams["coinbase:book:BTC-USD"]
    assert stream.book is not None
    for message in before:
        assert protocol.take(message, 0) == []
        assert not stream.book.valid
    assert protocol.take(part(9, 1, False), 0) == []
    (whole,) = protocol.take(part(9, 2, True), 0)
    assert isinstance(whole, Snapshot)
    assert [level.price for level in whole.bids] == ["1", "2"]
    assert stream.book.valid
    assert len(stream.book) == 2


def test_unsubscribing_something_unknown_changes_nothing() -> None:
    protocol = Protocol()
    protocol.subscribe(["A", "B"], ["ticker"], "coinbase", None, None, {})
    while protocol.ready(0) is not None:
        pass
    with pytest.raises(NotSubscribed):
        protocol.unsubscribe(["A", "unknown"], ["ticker"], "coinbase")
    assert set(protocol.streams) == {"coinbase:ticker:A", "coinbase:ticker:B"}
    assert protocol.ready(0) is None
    protocol.unsubscribe(["A"], ["ticker"], "coinbase")
    sent = protocol.ready(0)
    assert sent is not None
    assert sent["products"] == ["A"]


def test_who_lost_a_connection_that_stood_is_spread_and_others_try_soon() -> None:
    def bound(failures: int, *, established: bool, most: float = 15.0) -> float:
        return longest_wait_s(failures, established=established, spread_s=3.0, max_s=most)

    assert bound(0, established=True) == 3.0
    assert bound(0, established=True, most=0.5) == 0.5
    assert [bound(n, established=False) for n in range(4)] == [0.05, 0.1, 0.2, 0.4]
    assert bound(7, established=True) == bound(7, established=False) > 3.0
    assert bound(60, established=False) == 15.0
