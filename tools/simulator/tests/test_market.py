from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.domain.book import Book
from services.common.times import micros
from tools.simulator.clock import SECOND
from tools.simulator.market.market import MarketModel, ModelSettings, plan_rates
from tools.simulator.market.products import DEFAULT_PRODUCTS
from tools.simulator.market.traffic import MAX_BATCH, PLAIN, VENUE, Traffic
from tools.simulator.protocol.messages import Channel, Outgoing

START = 1_750_000_000_123_456
PRODUCTS = ("BTC-USD", "DOGE-USD", "SHIB-USD")


def market(seed: int = 1, rate: float = 300, **options: object) -> MarketModel:
    chosen = {"products": PRODUCTS, "depth": 30, "history": 20, **options}
    return MarketModel(ModelSettings(seed=seed, rate=rate, **chosen), START)  # type: ignore[arg-type]  # options vary by test


def decoded(message: Outgoing) -> dict[str, object]:
    answer: dict[str, object] = msgspec.json.decode(message.encoded())
    return answer


def on(channel: str, out: Sequence[Outgoing], product: str) -> list[dict[str, object]]:
    return [decoded(each) for each in out if channel in each.channels and each.product == product]


def book_of(model: MarketModel, product: str) -> Book:
    state = model.state(product)
    book = Book()
    book.replace([row[:2] for row in state.bids], [row[:2] for row in state.asks])
    return book


traffics = st.sampled_from((PLAIN, VENUE))
seeds = st.integers(0, 10_000)
cuts = st.lists(st.integers(1, 400_000), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(seeds, cuts, traffics)
def test_what_happens_does_not_depend_on_how_the_time_is_cut(
    seed: int, steps: list[int], traffic: Traffic
) -> None:
    whole, cut = market(seed, traffic=traffic), market(seed, traffic=traffic)
    in_one = whole.advance(START + sum(steps))
    in_parts = [message for step in steps for message in cut.advance(cut.now_us + step)]
    assert [each.encoded() for each in in_one] == [each.encoded() for each in in_parts]


@settings(max_examples=25, deadline=None)
@given(seeds, cuts, traffics)
def test_order_events_of_a_product_are_numbered_without_a_hole(
    seed: int, steps: list[int], traffic: Traffic
) -> None:
    model = market(seed, traffic=traffic)
    before = {name: model.state(name).sequence for name in PRODUCTS}
    out = [message for step in steps for message in model.advance(model.now_us + step)]
    for name in PRODUCTS:
        for channel in (Channel.FULL, Channel.LEVEL3):
            numbers = [
                int(str(_sequence(each)))
                for each in on_raw(channel, out, name)
                # A stop order's activation is the one event without a number.
                if not (isinstance(each, dict) and each["type"] == "activate")
            ]
            assert numbers == list(range(before[name] + 1, model.state(name).sequence + 1))


def on_raw(channel: str, out: Sequence[Outgoing], product: str) -> list[object]:
    return [
        msgspec.json.decode(each.encoded())
        for each in out
        if channel in each.channels and each.product == product
    ]


def _sequence(message: object) -> object:
    return message["sequence"] if isinstance(message, dict) else message[2]  # type: ignore[index]  # a level3 row


@settings(max_examples=25, deadline=None)
@given(seeds, cuts, traffics)
def test_trades_are_numbered_without_a_hole_and_kept(
    seed: int, steps: list[int], traffic: Traffic
) -> None:
    model = market(seed, traffic=traffic)
    before = {name: model.state(name).last_trade for name in PRODUCTS}
    out = [message for step in steps for message in model.advance(model.now_us + step)]
    for name in PRODUCTS:
        last = before[name]
        assert last is not None
        matches = on(Channel.MATCHES, out, name)
        ids = [each["trade_id"] for each in matches]
        assert ids == list(range(last.trade_id + 1, last.trade_id + 1 + len(ids)))
        kept = model.state(name).tape.all()
        assert [each.trade_id for each in kept][-len(ids) or len(kept) :] == ids


@settings(max_examples=25, deadline=None)
@given(seeds, cuts, traffics)
def test_folding_level2_gives_the_market_s_book(
    seed: int, steps: list[int], traffic: Traffic
) -> None:
    model = market(seed, traffic=traffic)
    books = {name: book_of(model, name) for name in PRODUCTS}
    for step in steps:
        out = model.advance(model.now_us + step)
        for name in PRODUCTS:
            for update in on(Channel.LEVEL2, out, name):
                books[name].apply(update["changes"])  # type: ignore[arg-type]  # decoded JSON
            assert books[name] == book_of(model, name)
            assert not books[name].crossed


@settings(max_examples=15, deadline=None)
@given(seeds, traffics)
def test_after_every_batch_the_fold_of_the_batches_is_the_book_of_that_instant(
    seed: int, traffic: Traffic
) -> None:
    model = market(seed, traffic=traffic)
    single = {name: book_of(model, name) for name in PRODUCTS}
    batched = {name: book_of(model, name) for name in PRODUCTS}
    model.write_for(lambda channel, _name: channel == Channel.LEVEL2)
    batches = 0
    for message in model.advance(START + SECOND):
        if message.channels == (Channel.LEVEL2,):
            single[message.product].apply(decoded(message)["changes"])  # type: ignore[arg-type]  # decoded JSON
        if message.channels == (Channel.LEVEL2_BATCH,):
            batched[message.product].apply(decoded(message)["changes"])  # type: ignore[arg-type]  # decoded JSON
            assert batched[message.product] == single[message.product]
            batches += 1
    assert batches > 0


@settings(max_examples=15, deadline=None)
@given(seeds, traffics)
def test_a_batch_names_each_level_once_buys_first_and_is_dated_by_its_newest_change(
    seed: int,
    traffic: Traffic,
) -> None:
    model = market(seed, rate=600, traffic=traffic)
    model.write_for(lambda channel, _name: channel == Channel.LEVEL2)
    out = model.advance(START + SECOND)
    newest: dict[str, str] = {}
    for message in out:
        if message.channels == (Channel.LEVEL2,):
            newest[message.product] = str(decoded(message)["time"])
        if message.channels == (Channel.LEVEL2_BATCH,):
            update = decoded(message)
            changes = update["changes"]
            assert isinstance(changes, list)
            assert len({(side, price) for side, price, _ in changes}) == len(changes)
            order = [side for side, _, _ in changes]
            assert order == sorted(order)
            assert update["time"] == newest[message.product]


def test_batches_also_remove_levels_nobody_has_seen() -> None:
    model = market(rate=500)
    held = {name: book_of(model, name) for name in PRODUCTS}
    unknown = 0
    for message in model.advance(START + 5 * SECOND):
        if message.channels == (Channel.LEVEL2_BATCH,):
            changes = decoded(message)["changes"]
            assert isinstance(changes, list)
            for change in changes:
                before = len(held[message.product])
                held[message.product].apply([change])
                unknown += change[2] == "0.00000000" and len(held[message.product]) == before
    assert unknown > 0


def test_heartbeats_fall_on_whole_seconds_and_agree_with_what_was_said_before() -> None:
    model = market()
    sequence = {name: model.state(name).sequence for name in PRODUCTS}
    trade_id: dict[str, object] = {}
    times = defaultdict(list)
    for name in PRODUCTS:
        last = model.state(name).last_trade
        trade_id[name] = last.trade_id if last else None
    for message in model.advance(START + 5 * SECOND):
        body = None if message.type in ("level3", "status") else decoded(message)
        if body is not None and Channel.FULL in message.channels:
            sequence[message.product] = int(str(body["sequence"]))
        if message.type == "match" and body is not None:
            trade_id[message.product] = body["trade_id"]
        if message.type == "heartbeat" and body is not None:
            assert body["sequence"] == sequence[message.product]
            assert body["last_trade_id"] == trade_id[message.product]
            times[message.product].append(str(body["time"]))
    for name in PRODUCTS:
        assert len(times[name]) == 5
        assert all(each.endswith(".000000Z") for each in times[name])


def test_tickers_repeat_their_match_from_the_taker_s_side() -> None:
    out = market(rate=2000).advance(START + 3 * SECOND)
    matches = {(e.product, e.trade_id): decoded(e) for e in out if e.type == "match"}
    tickers = [decoded(each) for each in out if each.channels == ("ticker",)]
    assert 0 < len(tickers) <= len(matches)
    for ticker in tickers:
        match = matches[str(ticker["product_id"]), int(str(ticker["trade_id"]))]
        assert ticker["sequence"] == match["sequence"]
        assert ticker["price"] == match["price"]
        assert {ticker["side"], match["side"]} == {"buy", "sell"}
    # Some sweeps share a ticker, so its trade ids may step by more than one.
    assert len(tickers) < len(matches)


@pytest.mark.parametrize("rate", [50, 300, 2000, 5000])
def test_the_public_channels_carry_about_the_asked_rate(rate: float) -> None:
    model = market(rate=rate, products=DEFAULT_PRODUCTS)
    out = model.advance(START + 5 * SECOND)
    public = {"ticker", "matches", "heartbeat", "level2_batch"}
    count = sum(1 for each in out if public & set(each.channels))
    assert count / 5 == pytest.approx(rate, rel=0.2)


def test_books_stay_deep_under_the_highest_rate() -> None:
    model = market(rate=5000, products=DEFAULT_PRODUCTS, depth=100)
    model.advance(START + 5 * SECOND)
    for name in DEFAULT_PRODUCTS:
        state = model.state(name)
        assert min(len(state.bids), len(state.asks)) >= 20


def test_rates_are_planned_with_more_trades_for_more_messages() -> None:
    low, high = plan_rates(100, [1.0] * 5), plan_rates(1000, [1.0] * 5)
    assert low[0] < high[0]


def test_all_message_types_of_the_order_channel_occur() -> None:
    kinds = Counter(e.type for e in market(rate=1000).advance(START + 10 * SECOND))
    assert {"received", "open", "done", "match", "change"} <= kinds.keys()


def test_a_deep_book_makes_a_snapshot_of_a_megabyte() -> None:
    model = market(products=("BTC-USD",), depth=21_000)
    assert len(msgspec.json.encode(model.state("BTC-USD").snapshot())) > 1_050_000


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def test_the_venue_s_traffic_is_what_was_measured_there() -> None:
    """The bounds are those of the recording, with room for another minute than that one."""
    names = ("BTC-USD", "ETH-USD")
    model = market(products=names, rate=50, depth=1000, traffic=VENUE)
    model.write_for(lambda channel, _name: channel == Channel.LEVEL2)
    held = {name: book_of(model, name) for name in names}
    sizes: list[float] = []
    gaps: list[float] = []
    deletes = unknown = 0
    steps: list[float] = []
    beats: list[bool] = []
    last: dict[str, dict[str, int]] = defaultdict(dict)
    singles: dict[str, list[str]] = defaultdict(list)
    for message in model.advance(START + 120 * SECOND):
        before = last[message.product]
        if message.channels == (Channel.LEVEL2,):
            singles[message.product].append(str(decoded(message)["time"]))
        elif message.channels == (Channel.LEVEL2_BATCH,):
            update = decoded(message)
            changes = update["changes"]
            assert isinstance(changes, list)
            sizes.append(len(changes))
            at = micros(update["time"])
            assert at is not None
            gaps.append(at - before.get("batch", at))
            before["batch"] = at
            for change in changes:
                levels = len(held[message.product])
                held[message.product].apply([change])
                gone = change[2] == "0.00000000"
                deletes += gone
                unknown += gone and len(held[message.product]) == levels
        elif message.type == "match":
            number = message.sequence or 0
            steps.append(number - before.get("match", number))
            before["match"] = number
        elif message.type == "heartbeat":
            beats.append(str(decoded(message)["time"]).endswith(".000001Z"))
    assert 100 < max(sizes) <= MAX_BATCH
    assert 2 <= quantile(sizes, 0.5) <= 8
    assert 50_000 < quantile(gaps, 0.5) < 110_000
    assert max(gaps) > 200_000
    assert 0.1 < unknown / deletes < 0.35
    assert max(steps) > 1_000
    assert 5 <= quantile(steps, 0.5) <= 60
    assert 0.1 < sum(beats) / len(beats) < 0.3
    same = [a == b for times in singles.values() for a, b in itertools.pairwise(times)]
    assert 0.08 < sum(same) / len(same) < 0.25


def test_books_are_as_large_as_the_venue_s() -> None:
    model = market(products=DEFAULT_PRODUCTS, depth=None, traffic=VENUE)
    levels = {name: model.state(name) for name in DEFAULT_PRODUCTS}
    assert len(levels["BTC-USD"].bids) > 14_000
    assert len(levels["BTC-USD"].asks) > 26_000
    assert 1_000_000 < len(msgspec.json.encode(levels["BTC-USD"].snapshot())) < 1_500_000
    small = [len(msgspec.json.encode(levels[name].snapshot())) for name in DEFAULT_PRODUCTS[5:]]
    assert min(small) > 5_000
    assert max(small) < 100_000
    # Somebody always hopes: the last levels are far from the price.
    assert float(levels["BTC-USD"].bids[-1][0]) < 1
    assert float(levels["BTC-USD"].asks[-1][0]) > 10_000_000


def test_what_nobody_wants_happens_all_the_same() -> None:
    written, unwritten = market(traffic=VENUE), market(traffic=VENUE)
    unwritten.write_for(lambda _channel, _name: False)
    first, second = (model.advance(START + 2 * SECOND) for model in (written, unwritten))
    public = [
        [
            each.encoded()
            for each in out
            if each.type == "match"
            or not {Channel.FULL, Channel.LEVEL2, Channel.LEVEL3} & set(each.channels)
        ]
        for out in (first, second)
    ]
    assert public[0] == public[1]
    assert len(second) < len(first)
    assert [written.state(each).sequence for each in PRODUCTS] == [
        unwritten.state(each).sequence for each in PRODUCTS
    ]


def test_moved_and_activated_orders_occur() -> None:
    model = market(rate=300, traffic=VENUE)
    out = model.advance(START + 10 * SECOND)
    moves = [m for m in (decoded(e) for e in out if e.type == "change") if "new_price" in m]
    assert moves
    assert all(m["reason"] == "modify_order" and m["new_price"] != m["old_price"] for m in moves)
    (activated, *_) = (decoded(each) for each in out if each.type == "activate")
    assert not {"sequence", "time"} & activated.keys()
