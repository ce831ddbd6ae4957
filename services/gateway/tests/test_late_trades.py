"""Trades of an announced gap that were found afterwards: who asks for them gets them.

In their place in the log, whatever way the stream takes to the client; nobody else notices.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from services.common.stream.memory.broker import MemoryBroker
from services.common.wire import Missed
from services.gateway.history.gaps import MOST_LATE_TRADES
from services.gateway.testing import Bench, Client, Market, bench

TRADES: dict[str, Any] = {"type": "subscribe", "product": "BTC-USD", "channel": "trades"}


def late(client: Client) -> list[dict[str, Any]]:
    return [message for message in client.messages if message["type"] == "late"]


async def hole(market: Market) -> Missed:
    """Some trades, and a hole of which nothing could be had at once."""
    await market.ticks(3)
    record = market.reset({"trades": []}, step=6)
    await market.publish(record)
    assert market.seq is not None
    return Missed(market.seq - 5, market.seq - 1)


async def closed(market: Market, missed: Missed) -> None:
    """Two trades of the hole are found, then the venue denies the others."""
    found = [missed.from_, missed.from_ + 1]
    rest = Missed(missed.from_ + 2, missed.to)
    await market.publish(market.late(missed, trades=found, open=[rest]))
    await market.ticks(2)
    await market.publish(market.late(missed, lost=[rest]))
    await market.ticks(2)


@pytest.mark.parametrize("mode", ["full", "latest"])
async def test_who_asks_for_late_trades_gets_them_as_they_come(mode: str) -> None:
    async with bench(MemoryBroker()) as gateway, gateway.client() as client:
        market = gateway.market(channel="trades")
        missed = await hole(market)
        await client.send(**TRADES, late=True, mode=mode)
        (result,) = (await client.of("subscribed"))["results"]
        assert result["late"] is True
        await client.reach(market)
        await closed(market, missed)
        await client.reach(market)
        first, second = late(client)
        assert [tick["seq"] for tick in first["ticks"]] == [missed.from_, missed.from_ + 1]
        assert first["missed"] == {"from": missed.from_, "to": missed.to}
        assert first["open"] == [{"from": missed.from_ + 2, "to": missed.to}]
        assert second["ticks"] == second["open"] == []
        # It advances nothing: the chain holds around it.
        assert client.breaks == []


async def test_nobody_else_is_sent_any_and_their_chain_does_not_notice() -> None:
    async with bench(MemoryBroker()) as gateway, gateway.client() as client:
        market = gateway.market(channel="trades")
        missed = await hole(market)
        await client.send(**TRADES)
        await client.reach(market)
        await closed(market, missed)
        await client.reach(market)
        assert late(client) == []
        assert client.breaks == []


@pytest.mark.parametrize("window_bytes", [4 * 1024 * 1024, 65_536])
async def test_who_comes_back_finds_them_where_they_stand_in_the_log(window_bytes: int) -> None:
    """From memory where that reaches, else from the log; in order with what is around them."""
    async with bench(MemoryBroker(), window_bytes=window_bytes) as gateway:
        market = gateway.market(channel="trades")
        missed = await hole(market)
        held = market.seq
        await closed(market, missed)
        async with gateway.client() as client:
            await client.send(**TRADES, late=True, from_seq=held)
            await client.reach(market)
            kinds = [m["type"] for m in client.messages if m["type"] in ("incr", "late")]
            assert kinds == ["late", "incr", "incr", "late", "incr", "incr"]
            assert client.breaks == []


async def test_a_client_without_room_for_one_catches_up_and_misses_none() -> None:
    async with bench(MemoryBroker(), ws_queue_bytes=65_536) as gateway:
        market = gateway.market(channel="trades")
        missed = await hole(market)
        async with gateway.client() as client:
            await client.send(**TRADES, late=True)
            await client.reach(market)
            many = range(missed.from_, missed.from_ + 400)
            for _ in range(3):
                await market.publish(market.late(missed, trades=many, open=[missed]))
                await market.ticks(1)
            await client.reach(market)
            assert [len(message["ticks"]) for message in late(client)] == [400] * 3
            assert client.breaks == []


async def gaps(gateway: Bench) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=gateway.http, trust_env=False) as http:
        answer = (await http.get("/v1/gaps?product=BTC-USD")).raise_for_status().json()
    assert answer["complete"] is True
    found: list[dict[str, Any]] = answer["gaps"]
    return found


async def test_a_gap_is_open_until_its_last_trade_is_found() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(channel="trades")
        missed = await hole(market)
        (gap,) = await gaps(gateway)
        assert (gap["state"], gap["late_count"]) == ("open", 0)
        assert gap["missing"] == [{"from": missed.from_, "to": missed.to}]
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(channel="trades")
        missed = await hole(market)
        all_of_it = range(missed.from_, missed.to + 1)
        await market.publish(market.late(missed, trades=all_of_it))
        (gap,) = await gaps(gateway)
        assert (gap["state"], gap["late_count"]) == ("refilled", len(all_of_it))
        assert [tick["seq"] for tick in gap["late_trades"]] == list(all_of_it)
        assert gap["missing"] == gap["lost"] == []


async def test_a_gap_of_which_something_is_denied_is_lost_and_says_what() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(channel="trades")
        missed = await hole(market)
        await closed(market, missed)
        (gap,) = await gaps(gateway)
        assert (gap["state"], gap["late_count"]) == ("lost", 2)
        assert gap["lost"] == [{"from": missed.from_ + 2, "to": missed.to}]


async def test_the_trades_of_a_gap_that_are_listed_are_bounded() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(channel="trades")
        missed = await hole(market)
        many = range(missed.from_, missed.from_ + MOST_LATE_TRADES + 5)
        await market.publish(market.late(missed, trades=many))
        (gap,) = await gaps(gateway)
        assert (len(gap["late_trades"]), gap["late_count"]) == (MOST_LATE_TRADES, len(many))


async def test_a_book_that_was_given_anew_lost_what_came_between() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(channel="book")
        await market.ticks(2)
        await market.publish(market.reset({"bids": [], "asks": []}))
        (gap,) = await gaps(gateway)
        assert gap["state"] == "lost"
