"""DynamoDB refuses half of all writes for a while."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.common.runtime import serve_http
from services.common.stores.rows import BOOK_DEPTH
from services.common.subjects import StreamKey
from services.common.testing.tick_records import TickStream, state_json
from services.common.testing.waiting import eventually
from services.snapshotter.testing import SHARDS, Platform
from tools.embedded import AwsServer

# `make soak-snapshotter` makes them 1500.
ROUNDS = int(os.environ.get("SNAPSHOTTER_THROTTLED_ROUNDS", "40"))
_THROTTLED = {
    "__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
    "message": "The level of configured provisioned throughput for the table was exceeded.",
}
_HOP_BY_HOP = {"host", "connection", "transfer-encoding", "content-length", "expect"}


class Throttle:
    """Forwards to the stores, and refuses `share` of all row writes."""

    def __init__(self) -> None:
        self.share = 0.5
        self.refused = 0
        self.url = ""


@pytest.fixture
async def throttle(aws_server: AwsServer) -> AsyncIterator[Throttle]:
    throttle = Throttle()
    dice = random.Random(2)

    async def forward(request: Request) -> Response:
        target = request.headers.get("x-amz-target", "")
        if target.endswith("PutItem") and dice.random() < throttle.share:
            throttle.refused += 1
            return JSONResponse(
                _THROTTLED, status_code=400, media_type="application/x-amz-json-1.0"
            )
        answer = await client.request(
            request.method,
            str(request.url.replace(scheme="http", netloc=f"127.0.0.1:{aws_server.port}")),
            headers={k: v for k, v in request.headers.items() if k not in _HOP_BY_HOP},
            content=await request.body(),
        )
        headers = {k: v for k, v in answer.headers.items() if k not in _HOP_BY_HOP}
        return Response(answer.content, answer.status_code, headers)

    app = Starlette(
        routes=[Route("/{path:path}", forward, methods=["GET", "PUT", "POST", "DELETE", "HEAD"])]
    )
    async with (
        httpx.AsyncClient(timeout=10) as client,
        serve_http(app, "127.0.0.1", 0, lifespan="off") as port,
    ):
        throttle.url = f"http://127.0.0.1:{port}"
        yield throttle


@pytest.mark.timeout(300 + ROUNDS)
async def test_throttled_rows_are_retried_until_they_are_written(
    platform: Platform, throttle: Throttle
) -> None:
    streams = [
        TickStream(StreamKey("coinbase", channel, f"P{n}-USD"), shard_count=SHARDS)
        for channel in ("ticker", "book")
        for n in range(5)
    ]

    async def current() -> bool:
        rows = await platform.latest.get_many([stream.key for stream in streams])
        return all(
            stream.key in rows and rows[stream.key].position == stream.records[-1].position
            for stream in streams
        )

    async with (
        platform.snapshotter(aws_endpoint_url=throttle.url),
        platform.publisher() as (_, publisher),
    ):
        for _ in range(ROUNDS):
            for stream in streams:
                await publisher.send(stream.tick())
            await publisher.flush()
        await eventually(current, seconds=120)
    assert throttle.refused > 0
    for stream in streams:
        row = await platform.latest.get(stream.key)
        assert row is not None
        if stream.key.channel == "book":
            best = {
                "bids": [list(level) for level in stream.book.bids(BOOK_DEPTH)],
                "asks": [list(level) for level in stream.book.asks(BOOK_DEPTH)],
            }
            assert state_json(row.state) == best
        payloads = [
            payload
            async for payload in platform.archive.read(
                stream.key, stream.shard, stream.records[0].position
            )
        ]
        assert payloads == [record.payload for record in stream.records[1:]]
