"""Records of the tick log that this gateway cannot read, as a newer normalizer writes them: they
cost their own stream its state, which is given anew, and nobody else anything."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from services.common.stream import Record
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.gateway.chain.replica import Replica
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.testing import Bench, Market, bench, eventually

ODD: dict[str, dict[str, Any]] = {
    "a repair that is not known": {"repair": "partial"},
    "a type that is not known": {"type": "bust"},
    "a malformed field": {"missed": {"from": "x"}},
    "a state of another shape": {"repair": "snapshot", "state": {"trades": 1, "volume_30d": 2}},
    "a state that is missing": {"repair": "snapshot"},
    "text that is not UTF-8": {"cause": "\udcff"},
    "a field nested without end": {"cause": "deep"},
}


def odd(market: Market, change: dict[str, Any]) -> Record:
    """The next record of a stream, with something in its body that nobody here has heard of."""
    record = market.reset(None, repair="none")
    body = {**msgspec.json.decode(record.payload), **change}
    if "\udcff" in body["cause"]:
        body["cause"] = "@"
        payload = msgspec.json.encode(body).replace(b"@", b"\xff")
    elif body["cause"] == "deep":
        deep = b'"repair":"none","newer":' + b"[" * 5000 + b"]" * 5000
        payload = msgspec.json.encode(body).replace(b'"repair":"none"', deep)
    else:
        payload = msgspec.json.encode(body)
    # What clients are to have seen of it is read from here, by a reader that has its limits too.
    readable = record.payload if body["cause"] == "deep" else payload.replace(b"\xff", b"@")
    market.records[-1] = readable
    return Record(record.subject, payload, record.position)


def counted(gateway: Bench) -> float:
    found = gateway.gateway.metrics.registry.get_sample_value
    return sum(
        found("md_invalid_total", {"reason": reason, "stage": "tick_log"}) or 0
        for reason in ("unknown_type", "bad_body", "not_a_record")
    )


@pytest.mark.parametrize("kind", ODD)
async def test_the_stream_is_given_anew_and_others_go_on(kind: str) -> None:
    async with bench(MemoryBroker()) as gateway:
        market, other = gateway.market(), gateway.market("ETH-USD")
        await market.ticks(3)
        await other.ticks(3)
        before = counted(gateway)
        async with gateway.client() as client, gateway.client() as neighbour:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.reach(market)
            await neighbour.send(type="subscribe", products=["ETH-USD"])
            await neighbour.reach(other)
            await market.publish(odd(market, ODD[kind]))
            await market.ticks(5)
            await other.ticks(5)
            await client.until(lambda m: m["type"] == "snapshot" and m["reason"] == "catch_up")
            await client.reach(market)
            await neighbour.reach(other)
        assert client.breaks == neighbour.breaks == []
        assert neighbour.types().count("snapshot") == 1
        assert counted(gateway) > before


async def test_in_a_quiet_market_the_state_comes_with_the_next_record() -> None:
    # Until then there is none that is known to be true.
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.ticks(3)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.reach(market)
            await market.publish(odd(market, ODD["a type that is not known"]))
            (feed,) = gateway.gateway.parts.streams.feeds.values()
            await eventually(lambda: feed.replica.head is None)
            async with gateway.client() as late:
                await late.send(type="subscribe", products=["BTC-USD"])
                await late.of("subscribed")
                await market.ticks(1)
                await client.reach(market)
                await late.reach(market)
                await market.ticks(2)
                await client.reach(market)
                await late.reach(market)
        assert client.breaks == late.breaks == []


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("where", ["window", "log"])
async def test_who_resumes_before_it_gets_what_came_before_then_the_state_anew(
    kind: str, where: str
) -> None:
    server = MemoryServer()
    async with bench(MemoryBroker(server)) as writer:
        market = writer.market()
        await market.ticks(5)
        await market.publish(odd(market, ODD[kind]))
        await market.ticks(5)
    async with bench(MemoryBroker(server), window_bytes=4096) as gateway:
        if where == "window":
            async with gateway.client() as first:
                await first.send(type="subscribe", products=["BTC-USD"])
                await first.reach(market)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[1])
            await client.reach(market)
            async with gateway.client() as oldest:
                await oldest.send(type="subscribe", products=["BTC-USD"], from_seq=0)
                await oldest.reach(market)
        assert client.breaks == oldest.breaks == []
        assert client.seen[str(market.key)][:3] == market.chain[2:5]


async def test_what_is_no_record_at_all_costs_its_own_stream_only() -> None:
    async with bench(MemoryBroker()) as gateway:
        market, other = gateway.market(), gateway.market("ETH-USD")
        await market.ticks(3)
        await other.ticks(3)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD", "ETH-USD"])
            await client.reach(market)
            await client.reach(other)
            record = market.tick()
            market.records.pop()
            await market.publish(Record(record.subject, b'{"type":"tick"', record.position))
            await market.ticks(5)
            await other.ticks(5)
            await client.reach(market)
            await client.reach(other)
        assert client.breaks == []


@pytest.mark.parametrize("mode", ["full", "latest"])
async def test_late_records_pass_by_without_harm(mode: str) -> None:
    async with bench(MemoryBroker(), window_bytes=8192) as gateway:
        market = gateway.market()
        await market.ticks(3)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD"], mode=mode)
            await client.reach(market)
            for _ in range(4):
                await market.publish(market.late())
                await market.ticks(2)
                await market.publish(market.status("quiet"), market.late(), market.status("live"))
                await market.ticks(2)
            await client.reach(market)
            async with gateway.client() as again:
                await again.send(type="subscribe", products=["BTC-USD"], from_seq=market.chain[1])
                await again.reach(market)
        assert client.breaks == again.breaks == []
        assert again.seen[str(market.key)] == market.chain[2:]
        assert "late" not in client.types() + again.types()
        assert client.types().count("snapshot") == 1
        states = [m["state"] for m in client.messages if m["type"] == "status"]
        assert states[-8:] == ["quiet", "live"] * 4


def test_fields_that_a_newer_writer_adds_are_ignored() -> None:
    market = Market(None)
    body = {**msgspec.json.decode(market.tick().payload), "venue_time": "now", "x": {"y": [1]}}
    entry = StreamRecord(msgspec.json.encode(body))
    assert (entry.kind, entry.chained) == ("tick", True)


async def test_other_streams_go_on_when_a_stream_fails_in_a_way_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench(MemoryBroker()) as gateway:
        market, other = gateway.market(), gateway.market("ETH-USD")
        await market.ticks(3)
        await other.ticks(3)
        async with gateway.client() as client:
            await client.send(type="subscribe", products=["BTC-USD", "ETH-USD"])
            await client.reach(market)
            await client.reach(other)
            feed = gateway.gateway.parts.streams.feeds[market.key]
            on_live = Replica.on_live
            failed = asyncio.Event()

            def fails_once(replica: Replica, records: Any) -> None:
                if replica is feed.replica and not failed.is_set():
                    failed.set()
                    raise KeyError("nobody foresaw this")
                on_live(replica, records)

            monkeypatch.setattr(Replica, "on_live", fails_once)  # the fault
            await market.ticks(1)
            await other.ticks(1)
            await client.reach(other)
            await market.ticks(5)
            await client.reach(market)
        assert failed.is_set()
        assert client.breaks == []
