"""What is sent is what the documents say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.http.asyncapi import asyncapi_document, asyncapi_text
from services.gateway.http.messages import SERVER_MESSAGES
from services.gateway.protocol import COMMANDS, ERROR_CODES
from services.gateway.testing import bench, eventually
from services.gateway.websocket.rfc6455.frames import CloseCode

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
                type="subscribe", products=["BTC-USD", "NO"], channel="book", from_seq=0, late=True
            )
            await client.of("backfill")
            await client.of("backfill")
            await client.send(type="subscribe", product="BTC-USD", channel="book", mode="latest")
            await client.of("mode")
            await market.ticks(2)
            await market.publish(market.late())
            await client.of("late")
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


def rows(page: str, header: str) -> dict[str, str]:
    """The rows of the page's table with this header, by the text of their first cell."""
    table = page.partition(f"\n{header}\n")[2].split("\n\n")[0]
    lines = [line for line in table.splitlines() if not line.startswith("|---")]
    assert lines, header
    return {line.split("|")[1].strip().strip("`"): line for line in lines}


def test_the_page_describes_every_message_with_all_its_fields() -> None:
    table = rows(PROTOCOL.read_text(), "| type | fields | rule |")
    stream_fields = {"stream", "venue", "channel", "product"}
    models = {
        str(model.model_fields["type"].annotation).split("'")[1]: model for model in SERVER_MESSAGES
    }
    # The answer to `auth` stands with the command; records are described in the contract of ticks.
    assert set(table) == set(models) - {"auth"}
    for kind, row in table.items():
        if kind in ("reset", "status", "late"):
            continue
        for name, field in models[kind].model_fields.items():
            shown = field.alias or name
            named = shown in ("type", *stream_fields) and "stream fields" in row
            assert shown == "type" or named or f"`{shown}`" in row, f"{kind}: {shown}"


def test_the_page_describes_every_command_with_all_its_fields() -> None:
    page = PROTOCOL.read_text()
    others = rows(page, "| type | fields | answer |")
    assert {"subscribe", *others} == set(COMMANDS)
    fields = rows(page, "| field | default | meaning |")
    told = {name for cell in fields for name in re.findall(r"\w+", cell) if name != "or"}
    assert told == set(COMMANDS["subscribe"].model_fields) - {"type", "id"}


def test_the_page_has_every_error_code_with_its_name_and_what_to_do_and_no_other() -> None:
    page = PROTOCOL.read_text()
    errors = rows(page, "| code | name | retry | when |")
    positions = rows(page, "| code | when | more |")
    told = {}
    for cell, row in errors.items():
        name, retry = (part.strip() for part in row.split("|")[2:4])
        for code in cell.split(", "):
            told[int(code)] = name, retry
    for cell in positions:
        code, name = re.findall(r"\w+", cell)
        told[int(code)] = name, told[int(code)][1]
    assert told == {row.code: (row.name, row.retry) for row in ERROR_CODES}


def test_the_page_says_why_a_connection_is_closed_by_every_code_and_no_other() -> None:
    cells = rows(PROTOCOL.read_text(), "| close code | why |")
    assert {int(code) for cell in cells for code in cell.split(", ")} == set(CloseCode)


def test_the_copy_in_the_documentation_is_what_is_served() -> None:
    assert PROTOCOL.with_name("asyncapi.json").read_text() == asyncapi_text(), (
        "python -m services.gateway.http.asyncapi > docs/asyncapi.json"
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
        await eventually(lambda: not gateway.gateway.parts.streams.feeds)
        await market.ticks(3)
        async with gateway.client() as again:
            await again.send(type="subscribe", product="BTC-USD")
            assert (await again.of("snapshot"))["snapshot"]["seq"] == market.seq
