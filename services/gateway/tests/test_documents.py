"""What is sent is what the documents say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from services.common.stream.memory import MemoryBroker
from services.gateway.asyncapi import asyncapi_document, asyncapi_text
from services.gateway.messages import SERVER_MESSAGES
from services.gateway.protocol import COMMANDS, ERROR_CODES
from services.gateway.testing import bench, eventually

PROTOCOL = Path(__file__).resolve().parents[3] / "docs" / "protocol.md"


async def test_every_message_that_is_sent_fits_its_model() -> None:
    by_type: dict[str, TypeAdapter[Any]] = {
        str(model.model_fields["type"].annotation).split("'")[1]: TypeAdapter(model)
        for model in SERVER_MESSAGES
    }
    async with bench(MemoryBroker(), ws_burst=30, ws_max_msgs_per_sec=1) as gateway:
        market = gateway.market(channel="book")
        await market.publish(market.reset({"bids": [["1", "1"]], "asks": []}), market.status())
        async with gateway.client() as client:
            await client.send(type="subscribe", id="x", product="BTC-USD", channel="book")
            await client.of("snapshot")
            await market.publish(market.status("stale"), market.reset({"bids": [], "asks": []}))
            await client.of("reset")
            await client.send(
                type="subscribe", products=["BTC-USD", "NO"], channel="book", from_seq=0
            )
            await client.of("backfill")
            await client.of("backfill")
            await client.send(type="subscribe", product="BTC-USD", channel="book", mode="latest")
            await client.of("mode")
            await market.ticks(2)
            await client.reach(market)
            await client.send(type="unsubscribe", id=5, product="BTC-USD", channel="book")
            await client.of("unsubscribed")
            await client.send(type="nonsense")
            await client.send(type="auth", api_key="any")
            for _ in range(40):
                await client.send(type="ping", ts=1)
            await client.of("rate_limit")
            await client.of("hb")
            await gateway.gateway.drain()
            await client.closed()
    seen = {message["type"] for message in client.messages}
    assert seen == set(by_type)
    for message in client.messages:
        by_type[message["type"]].validate_python(message)


def test_the_page_names_every_command_message_and_error_code() -> None:
    page = PROTOCOL.read_text()
    for kind in COMMANDS:
        assert f"`{kind}`" in page
    for model in SERVER_MESSAGES:
        kind = str(model.model_fields["type"].annotation).split("'")[1]
        assert f"| `{kind}` |" in page or f"`{kind}`" in page, kind
    for row in ERROR_CODES:
        assert str(row.code) in page
        assert row.name in page
    for name in COMMANDS["subscribe"].model_fields:
        assert name == "type" or f"`{name}`" in page, name


def test_the_copy_in_the_documentation_is_what_is_served() -> None:
    assert PROTOCOL.with_name("asyncapi.json").read_text() == asyncapi_text(), (
        "python -m services.gateway.asyncapi > docs/asyncapi.json"
    )


def test_every_reference_in_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi_document()
    found = re.findall(r"'\$ref': '#/([^']+)'", repr(document))
    assert found
    for reference in found:
        place: Any = document
        for part in reference.split("/"):
            place = place[part]


async def test_a_connection_that_ended_leaves_nothing_behind() -> None:
    async with bench(MemoryBroker(), stream_linger_s=0.1) as gateway:
        market = gateway.market()
        await market.ticks(3)
        async with gateway.client() as client:
            await client.send(type="subscribe", product="BTC-USD")
            await client.of("snapshot")
        await eventually(lambda: not gateway.gateway.core.tails.feeds)
        await market.ticks(3)
        async with gateway.client() as again:
            await again.send(type="subscribe", product="BTC-USD")
            assert (await again.of("snapshot"))["snapshot"]["seq"] == market.seq
