from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain.book import BadLevel
from services.common.domain.fold import TRADES_KEPT, Fold, check_state
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import Fields, Level, Repair, Reset, Stats24h, Tick, Trade, encode, to_raw

TICKER, TRADES, BOOK = (
    StreamKey("coinbase", channel, "BTC-USD") for channel in ("ticker", "trades", "book")
)
DECIMALS = st.sampled_from(["1", "1.0", "2", "2.50", "3"])
SIZES = DECIMALS | st.just("0")
TRADE = st.builds(
    Trade, DECIMALS, DECIMALS, st.sampled_from(["buy", "sell", None]), *[st.integers(0)] * 2
)
LEVEL = st.builds(Level, DECIMALS, st.none() | DECIMALS)
CHANGES = st.lists(st.tuples(st.sampled_from(["buy", "sell"]), DECIMALS, SIZES), max_size=4)
FIELDS = {
    "ticker": st.builds(
        Fields,
        last_trade=st.none() | TRADE,
        best_bid=st.none() | LEVEL,
        best_ask=st.none() | LEVEL,
        stats_24h=st.none() | st.builds(Stats24h, open=DECIMALS),
        volume_30d=st.none() | DECIMALS,
    ),
    "trades": st.builds(Fields, last_trade=TRADE),
    "book": st.builds(Fields, changes=CHANGES),
}
ROWS = st.lists(st.tuples(DECIMALS, DECIMALS), max_size=3)
STATES: dict[str, st.SearchStrategy[Any]] = {
    "ticker": FIELDS["ticker"],
    "trades": st.builds(lambda trades: {"trades": trades}, st.lists(TRADE, max_size=3)),
    "book": st.builds(lambda bids, asks: {"bids": bids, "asks": asks}, ROWS, ROWS),
}


def tick(key: StreamKey, seq: int, fields: Fields, epoch: int = 1) -> Tick:
    return Tick(1, *key, 0, epoch, seq, None, None, 0, 0, fields)


def reset(key: StreamKey, seq: int, repair: Repair, state: object = None, epoch: int = 1) -> Reset:
    raw = None if state is None else to_raw(state)
    return Reset(1, *key, 0, epoch, seq, None, 0, 0, "gap", repair, None, raw)


@st.composite
def histories(draw: st.DrawFn) -> tuple[StreamKey, list[Tick | Reset]]:
    key = draw(st.sampled_from([TICKER, TRADES, BOOK]))
    records: list[Tick | Reset] = []
    seq, epoch = 0, 1
    for kind in draw(st.lists(st.sampled_from(["tick"] * 5 + ["snapshot", "none", "epoch"]))):
        seq += draw(st.integers(1, 3))
        match kind:
            case "tick":
                records.append(tick(key, seq, draw(FIELDS[key.channel]), epoch))
            case "snapshot":
                records.append(reset(key, seq, "snapshot", draw(STATES[key.channel]), epoch))
            case "none":
                records.append(reset(key, seq, "none", None, epoch))
            case _:
                seq, epoch = 0, epoch + 1
    return key, records


def folded(key: StreamKey, records: list[Tick | Reset]) -> Fold:
    fold = Fold(key)
    for record in records:
        assert fold.apply(record)
    return fold


@given(histories(), st.data())
def test_feeding_records_again_changes_nothing(
    history: tuple[StreamKey, list[Tick | Reset]], data: st.DataObject
) -> None:
    key, records = history
    fold = folded(key, records)
    position, state = fold.position, fold.state()
    if records:
        for record in data.draw(st.lists(st.sampled_from(records))):
            assert not fold.apply(record)
    assert (fold.position, fold.state()) == (position, state)


@given(histories(), st.data())
def test_a_state_can_be_stored_anywhere_and_gone_on_from(
    history: tuple[StreamKey, list[Tick | Reset]], data: st.DataObject
) -> None:
    key, records = history
    if not records:
        return
    cut = data.draw(st.integers(1, len(records)))
    first = folded(key, records[:cut])
    second = Fold(key)
    second.apply(tick(key, 1, data.draw(FIELDS[key.channel])))
    assert first.position is not None
    second.load(first.position, first.state())
    assert (second.position, second.state()) == (first.position, first.state())
    for record in records[cut:]:
        assert second.apply(record)
    whole = folded(key, records)
    assert (second.position, second.state()) == (whole.position, whole.state())


@given(histories(), st.data())
def test_a_reset_leaves_nothing_of_what_was_before(
    history: tuple[StreamKey, list[Tick | Reset]], data: st.DataObject
) -> None:
    key, records = history
    fold = folded(key, records)
    last = fold.position or Position(1, 0)
    state = data.draw(STATES[key.channel])
    fresh = Fold(key)
    for repair, held in (("snapshot", state), ("none", None), ("refilled", None)):
        again = folded(key, records)
        record = reset(key, last.seq + 1, repair, held, last.epoch)  # type: ignore[arg-type]  # a loop's text
        assert again.apply(record)
        fresh = Fold(key)
        fresh.apply(record)
        assert again.state() == fresh.state()


@given(histories(), st.data())
def test_another_epoch_starts_from_nothing(
    history: tuple[StreamKey, list[Tick | Reset]], data: st.DataObject
) -> None:
    key, records = history
    fold = folded(key, records)
    epoch = (fold.position or Position(1, 0)).epoch + 1
    record = tick(key, 1, data.draw(FIELDS[key.channel]), epoch)
    assert fold.apply(record)
    assert fold.state() == folded(key, [record]).state()
    assert fold.position == Position(epoch, 1)


def test_a_ticker_keeps_the_last_known_of_each_field() -> None:
    trade = Trade("1", "2", "buy", 7, 8)
    fold = folded(
        TICKER,
        [
            tick(TICKER, 1, Fields(last_trade=trade, best_bid=Level("0.9"), volume_30d="5")),
            tick(TICKER, 2, Fields(best_bid=Level("0.95", "3"))),
        ],
    )
    assert json.loads(fold.state()) == {
        "last_trade": {"price": "1", "size": "2", "side": "buy", "trade_id": 7, "time": 8},
        "best_bid": {"price": "0.95", "size": "3"},
        "volume_30d": "5",
    }


FIELDS_OF_A_TICKER = {
    "last_trade": Trade("1", "2", "buy", 7, 8),
    "best_bid": Level("0.9"),
    "best_ask": Level("1.1"),
    "stats_24h": Stats24h(open="1"),
    "volume_30d": "5",
}


@pytest.mark.parametrize("name", FIELDS_OF_A_TICKER)
def test_each_field_of_a_ticker_outlives_a_tick_that_does_not_say_it(name: str) -> None:
    all_of_them = Fields(**FIELDS_OF_A_TICKER)  # type: ignore[arg-type]  # values by name
    fold = folded(TICKER, [tick(TICKER, 1, all_of_them)])
    whole = json.loads(encode(all_of_them))
    assert json.loads(fold.state()) == whole
    others = msgspec.structs.replace(all_of_them, **{name: None})
    fold.apply(tick(TICKER, 2, others))
    assert json.loads(fold.state()) == whole
    # And it is the only one of which nothing is known where nobody said it.
    alone = folded(TICKER, [tick(TICKER, 1, others), tick(TICKER, 2, Fields())])
    assert json.loads(alone.state()) == {key: whole[key] for key in whole if key != name}


GOOD_STATES = {
    "ticker": b'{"volume_30d":"5"}',
    "trades": b'{"trades":[]}',
    "book": b'{"bids":[["1","2"]],"asks":[]}',
}
BAD_STATES = {
    "ticker": b'{"volume_30d":5}',
    "trades": b'{"trades":7}',
    "book": b'{"bids":[]}',
}


@pytest.mark.parametrize("channel", GOOD_STATES)
def test_a_state_has_the_shape_of_its_own_channel(channel: str) -> None:
    check_state(channel, GOOD_STATES[channel])
    for bad in (BAD_STATES[channel], b"", b"[]"):
        with pytest.raises(msgspec.DecodeError):
            check_state(channel, bad)


def test_the_bound_of_trades_holds_behind_a_state_that_was_loaded_too() -> None:
    fold = Fold(TRADES)
    fold.load(Position(1, 1), b'{"trades":[]}')
    for seq in range(2, TRADES_KEPT + 11):
        fold.apply(tick(TRADES, seq, Fields(last_trade=Trade("1", "2", "sell", seq, 0))))
    assert len(json.loads(fold.state())["trades"]) == TRADES_KEPT


def test_trades_keep_the_newest_oldest_first() -> None:
    fold = Fold(TRADES)
    for seq in range(1, TRADES_KEPT + 11):
        fold.apply(tick(TRADES, seq, Fields(last_trade=Trade("1", "2", "sell", seq, 0))))
    ids = [trade["trade_id"] for trade in json.loads(fold.state())["trades"]]
    assert ids == list(range(11, TRADES_KEPT + 11))


def test_a_book_can_be_cut_to_its_best_levels() -> None:
    fold = Fold(BOOK)
    fold.apply(
        reset(
            BOOK,
            1,
            "snapshot",
            {"bids": [["9", "1"], ["8", "1"]], "asks": [["10", "1"], ["11", "2"]]},
        )
    )
    assert json.loads(fold.state(1)) == {"bids": [["9", "1"]], "asks": [["10", "1"]]}
    assert json.loads(fold.state()) == {
        "bids": [["9", "1"], ["8", "1"]],
        "asks": [["10", "1"], ["11", "2"]],
    }


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_malformed_record_changes_nothing(epoch: int) -> None:
    fold = Fold(BOOK)
    fold.apply(reset(BOOK, 1, "snapshot", {"bids": [["9", "1"]], "asks": []}))
    before = (fold.position, fold.state())
    with pytest.raises(BadLevel):
        fold.apply(tick(BOOK, 2, Fields(changes=[("buy", "8", "1"), ("buy", "x", "1")]), epoch))
    with pytest.raises(BadLevel):
        fold.apply(reset(BOOK, 2, "snapshot", {"bids": [["9"]], "asks": []}, epoch))
    with pytest.raises(msgspec.DecodeError):
        fold.apply(reset(BOOK, 2, "snapshot", {"bids": 7}, epoch))
    assert (fold.position, fold.state()) == before
