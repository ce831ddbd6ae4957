"""A subscriber's books and trades against the truth, and what the summary makes of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest
from market_data_fanout_client.chain import Verdict

from services.common.domain.book import Book
from tools.simulator import SimulatedExchange
from tools.simulator.testing import FeedClient
from tools.stack.truth import Comparison, Held, Truth, Witness

HEAD = {"venue": "coinbase", "product": "BTC-USD"}


def book(*levels: tuple[str, str, str]) -> Book:
    made = Book()
    made.replace([], [])
    made.apply(levels)
    return made


def trade(number: int, price: str = "10") -> dict[str, Any]:
    return {"trade_id": number, "price": price, "size": "1", "side": "buy"}


def tick(number: int, price: str = "10") -> dict[str, Any]:
    fields = {"last_trade": trade(number, price)}
    return {"type": "incr", "tick": {**HEAD, "channel": "trades", "fields": fields}}


def snapshot(*bids: tuple[str, str]) -> dict[str, Any]:
    state = {"bids": bids, "asks": []}
    return {"type": "snapshot", "snapshot": {**HEAD, "channel": "book", "state": state}}


def changed(*changes: tuple[str, str, str]) -> dict[str, Any]:
    return {"type": "incr", "tick": {**HEAD, "channel": "book", "fields": {"changes": changes}}}


def held(*messages: dict[str, Any]) -> Held:
    made = Held()
    for message in messages:
        made.take(message, Verdict.APPLY)
    return made


def truth(bids: Book | None, *trades: int, told_after: int | None = None) -> dict[str, Truth]:
    known = {number: (Decimal("10.0"), Decimal(1), "buy") for number in trades}
    return {"BTC-USD": Truth(bids, known, told_after)}


def compare(what: Held, truths: dict[str, Truth], after: int | None = None) -> Comparison:
    return Comparison.of(what, truths, {"BTC-USD": after})


def test_what_is_equal_is_said_to_be_equal_however_it_is_written() -> None:
    found = compare(
        held(snapshot(("9", "1")), changed(("buy", "8", "2.0")), tick(6), tick(7)),
        truth(book(("buy", "9.00", "1"), ("buy", "8.0", "2")), 5, 6, 7),
        after=5,
    )
    assert (found.books_equal, found.trades_equal, found.differences) == (True, True, [])


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([("buy", "9", "1")], "has 1 wrong and 0 missing of 1 levels"),
        ([("buy", "9", "2"), ("buy", "8", "1")], "has 1 wrong and 0 missing of 2 levels"),
        ([("buy", "9", "1"), ("buy", "8", "1"), ("sell", "8", "1")], "0 wrong and 1 missing of 3"),
    ],
)
def test_a_level_too_many_too_few_or_of_another_size_is_a_difference(
    levels: list[tuple[str, str, str]], words: str
) -> None:
    found = compare(held(snapshot(("9", "1"), ("8", "1"))), truth(book(*levels)))
    assert found.books_equal is False
    assert words in found.differences[0]


def test_a_book_that_nobody_was_given_is_a_difference() -> None:
    found = compare(held(), truth(book(("buy", "9", "1"))))
    assert found.differences == ["the book of BTC-USD is not held"]


@pytest.mark.parametrize(
    ("ticks", "words"),
    [
        ([tick(6)], "have 0 wrong and 1 missing of 2"),
        ([tick(6), tick(7, "11")], "have 1 wrong and 0 missing of 2"),
        ([tick(6), tick(7), tick(8)], "have 1 wrong and 0 missing of 2"),
        ([], "have 0 wrong and 2 missing of 2"),
    ],
)
def test_a_trade_too_many_too_few_or_of_another_price_is_a_difference(
    ticks: list[dict[str, Any]], words: str
) -> None:
    found = compare(held(*ticks), truth(None, 4, 5, 6, 7), after=5)
    assert found.trades_equal is False
    assert words in found.differences[0]


def test_trades_count_by_whatever_way_they_came() -> None:
    state = {**HEAD, "channel": "trades", "state": {"trades": [trade(6)]}}
    late = {**HEAD, "channel": "trades", "ticks": [tick(7)["tick"]]}
    found = compare(
        held({"type": "snapshot", "snapshot": state}, {"type": "late", "late": late, **late}),
        truth(None, 5, 6, 7, told_after=5),
    )
    assert found.trades_equal is True


def test_without_a_truth_nothing_is_said() -> None:
    assert compare(held(tick(1)), {}) == Comparison(None, None, [])
    assert compare(held(tick(1)), truth(None, 1)).books_equal is None


async def test_a_witness_lets_the_exchange_stand_still_and_waits_for_what_is_on_its_way() -> None:
    async with (
        SimulatedExchange(products=("BTC-USD",), depth=20, rate=300) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        witness = Witness(exchange.rest_url, ("BTC-USD",))
        await client.subscribe(["matches"], ["BTC-USD"])
        await witness.begin()
        await client.until_type("match")
        nothing = await witness.compare(Held(), 0)
        assert (nothing.books_equal, nothing.trades_equal) == (False, False)
        state = exchange.state("BTC-USD")
        rows = [(price, size) for price, size, _ in state.bids]
        everything = held(snapshot(*rows))
        asks = [("sell", price, size) for price, size, _ in state.asks]
        everything.take(changed(*asks), Verdict.APPLY)
        # The venue names the maker's side, subscribers are given the taker's.
        everything.trades["BTC-USD"] = {
            each.trade_id: (
                Decimal(each.price),
                Decimal(each.size),
                "sell" if each.side == "buy" else "buy",
            )
            for each in state.tape.all()
        }
        # The market stands still, so that what was true a moment ago still is; it is not silent.
        assert (await witness.compare(everything, 0)).equal
        await client.subscribe(["heartbeat"], ["BTC-USD"])
        beats = [await client.until_type("heartbeat") for _ in range(2)]
        assert len({(each["sequence"], each["last_trade_id"]) for each in beats}) == 1
        assert beats[0]["time"] < beats[1]["time"]
        async with httpx.AsyncClient(base_url=exchange.rest_url) as rest:
            before = exchange.state("BTC-USD").time_us
            assert (await rest.post("/_control/flow", content=b"no")).status_code == 400
            answer = await rest.post("/_control/flow", json={"running": True})
            assert msgspec.json.decode(answer.content) == {"running": True}
            await client.until(lambda _: exchange.state("BTC-USD").time_us > before)
