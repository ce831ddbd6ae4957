"""What a command costs is paid before it is done, and answers wait for whoever reads them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.clients.client_subscriptions import ClientSubscriptions
from services.gateway.protocol import Problem, Resync, parse_command, streams_named
from services.gateway.ratelimit import CommandRate, retry_after_ms
from services.gateway.testing import Bench, bench, eventually


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker()) as running:
        yield running


def _products(count: int) -> list[str]:
    return [f"P{number}-USD" for number in range(count)]


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "resync"])
async def test_more_streams_than_a_connection_may_have_are_refused_without_a_look_at_any(
    gateway: Bench, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(*_: Any, **__: Any) -> None:
        raise AssertionError("it was looked at")

    for name in ("subscribe", "unsubscribe", "resync"):
        monkeypatch.setattr(ClientSubscriptions, name, looked)
    channels = [f"channel-{number}" for number in range(16)]
    async with gateway.client() as client:
        await client.send(type=kind, id=1, products=_products(4000), channels=channels)
        error = await client.of("error")
    assert (error["code"], error["id"]) == (3005, 1)
    assert len(msgspec.json.encode(error)) < 500


async def test_each_stream_of_a_command_is_charged() -> None:
    async with (
        bench(MemoryBroker(), ws_burst=20, ws_max_msgs_per_sec=1) as gateway,
        gateway.client() as client,
    ):
        await client.send(type="subscribe", products=_products(200))
        assert len((await client.of("subscribed"))["results"]) == 200
        await client.send(type="ping", id=2)
        limit = await client.of("rate_limit", "pong")
        assert (limit["type"], limit["id"]) == ("rate_limit", 2)
        # Twenty-one and more are owed, at one a second.
        assert limit["retry_after_ms"] > 15_000


async def test_what_has_to_be_read_of_a_command_is_charged() -> None:
    async with (
        bench(MemoryBroker(), ws_burst=10, ws_max_msgs_per_sec=1) as gateway,
        gateway.client() as client,
    ):
        # Fifteen times 4 KiB, where ten commands may come at once.
        await client.socket.send('{"type":"ping","id":1}' + " " * (60 * 1024))
        await client.of("pong")
        await client.send(type="ping", id=2)
        limit = await client.of("rate_limit", "pong")
        assert (limit["type"], limit["id"]) == ("rate_limit", 2)
        assert limit["retry_after_ms"] > 2000


@pytest.mark.parametrize("text", ["{", "[]", "", '{"type":', "null", "\udc80" * 0 + "{" * 900])
async def test_what_is_no_command_is_limited_too(text: str) -> None:
    async with (
        bench(MemoryBroker(), ws_burst=5, ws_max_msgs_per_sec=0.01) as gateway,
        gateway.client() as client,
    ):
        for _ in range(20):
            await client.socket.send(text)
        await client.of("rate_limit")
        assert client.types().count("error") <= 6
        assert gateway.gateway.metrics.rate_limited.labels("commands")._value.get() >= 1


async def test_nothing_but_auth_and_ping_is_read_before_a_key() -> None:
    async with (
        bench(MemoryBroker(), auth_api_keys="right") as gateway,
        gateway.client() as client,
    ):
        await client.send(type="subscribe", products=[1, 2, 3])
        assert (await client.of("error"))["code"] == 2000


async def _turns() -> None:
    """Many of the event loop's, in which the answers of all commands that wait would be added."""
    for _ in range(300):
        await asyncio.sleep(0)


async def test_the_outcomes_of_many_streams_come_in_parts_that_wait_for_the_reader() -> None:
    async with bench(MemoryBroker(), ws_queue_bytes=64 * 1024, ws_burst=1000) as gateway:
        market = gateway.market()
        await market.ticks(3)
        async with gateway.client(max_queue=1) as client:
            await client.of("welcome")
            (session,) = gateway.gateway.sessions
            with socket.fromfd(session.fd, socket.AF_INET, socket.SOCK_STREAM) as sends:
                # Else the kernel takes what it likes for a client that does not read.
                sends.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            transport = client.socket.transport
            transport.pause_reading()
            for _ in range(20):
                await client.send(type="subscribe", id=1, products=["BTC-USD", *_products(900)])
            await eventually(lambda: session.outbox.size > 32 * 1024)
            await _turns()
            assert session.outbox.size < 200 * 1024
            transport.resume_reading()
            parts: list[dict[str, Any]] = []
            while not parts or not parts[-1]["last"]:
                parts.append(await client.of("subscribed"))
            await client.of("snapshot")
    assert [one["part"] for one in parts] == [1, 2, 3, 4, 5]
    assert {one["id"] for one in parts} == {1}
    assert [len(one["results"]) for one in parts] == [200, 200, 200, 200, 101]
    assert parts[0]["results"][0]["ok"]


async def test_the_ends_of_many_streams_are_told_in_parts_that_wait_for_the_reader() -> None:
    async with (
        bench(MemoryBroker(), ws_queue_bytes=64 * 1024, ws_burst=10_000) as gateway,
        gateway.client(max_queue=1) as client,
    ):
        await client.of("welcome")
        (session,) = gateway.gateway.sessions
        with socket.fromfd(session.fd, socket.AF_INET, socket.SOCK_STREAM) as sends:
            # Else the kernel takes what it likes for a client that does not read.
            sends.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport = client.socket.transport
        transport.pause_reading()
        # Each is answered by some 200 KB.
        for _ in range(20):
            await client.send(type="unsubscribe", id=1, products=_products(901))
        await eventually(lambda: session.outbox.size > 32 * 1024)
        await _turns()
        assert session.outbox.size < 200 * 1024
        transport.resume_reading()
        parts: list[dict[str, Any]] = []
        while not parts or not parts[-1]["last"]:
            parts.append(await client.of("unsubscribed"))
    assert [one["part"] for one in parts] == [1, 2, 3, 4, 5]
    assert [len(one["results"]) for one in parts] == [200, 200, 200, 200, 101]


names = st.lists(st.text(min_size=1, max_size=5), max_size=8)


@given(names, names, st.booleans(), st.booleans())
def test_the_streams_that_are_charged_are_at_least_those_that_are_done(
    products: list[str], channels: list[str], one_product: bool, one_channel: bool
) -> None:
    value: dict[str, Any] = {"type": "resync", "products": products, "channels": channels}
    if one_product:
        value["product"] = "X"
    if one_channel:
        value["channel"] = "Y"
    try:
        command = parse_command(value)
    except Problem:
        return
    assert isinstance(command, Resync)
    done = len(command.streams)
    assert streams_named(value) >= done


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"from_seq": "x"}, "from_seq"),
        ({"from_seq": {"BTC-USD": -1}}, "from_seq.BTC-USD"),
        ({"from_seq": {"B" * 1000: 1}}, "from_seq"),
        ({"cursor": 5}, "cursor"),
        ({"id": []}, "id"),
        ({"products": ["A", 5]}, "products.1"),
        ({"mode": "fast"}, "mode"),
    ],
)
def test_an_error_names_the_field_as_the_client_wrote_it(
    change: dict[str, Any], place: str
) -> None:
    with pytest.raises(Problem) as found:
        parse_command({"type": "subscribe", "product": "BTC-USD", **change})
    message = found.value.message
    assert message.startswith(place)
    assert found.value.more["field"] == place.split(".", maxsplit=1)[0]
    assert "constrained" not in message
    assert "dict[" not in message
    assert len(message) < 300


@given(st.floats(0.01, 1000.0), st.floats(1.0, 100.0), st.lists(st.floats(0.0, 0.5), max_size=9))
def test_who_comes_back_as_told_is_not_refused_though_a_timer_was_a_millisecond_early(
    per_s: float, burst: float, pauses: list[float]
) -> None:
    now = 1000.0
    rate = CommandRate(per_s, burst, now)
    rate.charge(now, burst)
    for pause in pauses:
        now += pause
        if (wait := rate.acquire(now)) > 0:
            now += (retry_after_ms(wait) - 1) / 1000
            assert rate.acquire(now) == 0
