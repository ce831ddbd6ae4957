"""The HTTP API: what the streams hold, for those who ask once instead of following."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from services.common.errors import BrokerUnavailable, InvalidSubject, PositionLost
from services.common.models import Snapshot as SnapshotModel
from services.common.sharding import shard_of
from services.common.stream import Position
from services.common.subjects import CHANNELS, StreamKey, check_token, tick_subject
from services.common.wire import Snapshot, encode
from services.gateway.auth import EVERYONE, Grant, offered_key
from services.gateway.feed import entries_of
from services.gateway.gateway import Gateway
from services.gateway.messages import Status
from services.gateway.records import LAST_SUB, Entry

Channel = Literal["ticker", "trades", "book"]
InPath = Annotated[str, Path(description="A product id", examples=["BTC-USD"])]
InQuery = Annotated[str, Query(description="A product id", examples=["BTC-USD"])]
_READY_S = 5.0
_PAGE = 1000
# Records looked through for gaps in one request.
_GAP_SCAN = 200_000
_GAPS_KEPT_S = 3.0
_GAPS_KEPT = 1000
_REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"description": "No valid API key, where keys are configured"},
    403: {"description": "The key does not cover this product"},
    404: {"description": "No such product"},
    503: {"description": "The log does not answer"},
}


class StreamInfo(BaseModel):
    """One stream; what this gateway does not follow now has null from `epoch` on.

    `state` is what subscribers were told last, by the log or by the gateway; `age_ms` is how old
    what is served is, by the time of receiving, also in a quiet market.
    """

    stream: str
    venue: str
    channel: str
    product: str
    shard: int
    epoch: int | None = None
    seq: int | None = None
    state: str | None = None
    last_ingest: int | None = None
    age_ms: int | None = None


class StateNow(SnapshotModel):
    """The state, and as a subscriber is told it whether that is current."""

    status: Status | None


class Ticks(BaseModel):
    """Records after `from_seq`; go on with `next_from_seq` unless `at_head`."""

    stream: str
    from_seq: int
    next_from_seq: int
    at_head: bool
    ticks: list[dict[str, Any]]


class Gaps(BaseModel):
    """The resets in a product's logs, oldest first; `complete` False: there is more than this."""

    product: str
    complete: bool
    gaps: list[dict[str, Any]]


class StatusReport(BaseModel):
    """This gateway: what it serves and to how many."""

    ready: bool
    draining: bool
    connections: int
    subscriptions: int
    queued_bytes: int
    stale_streams: int
    streams: list[StreamInfo]


def api_router(gateway: Gateway) -> APIRouter:
    """Routes under `/v1`."""
    core = gateway.core

    async def authorized(request: Request) -> None:
        key = offered_key(request.headers, request.url.query)
        grant = EVERYONE if core.keys.open else core.keys.grant(key) if key is not None else None
        if grant is None:
            raise HTTPException(401, "a valid API key is required")
        product = request.path_params.get("product", request.query_params.get("product"))
        if product is not None and not grant.entitled(product):
            raise HTTPException(403, f"this key does not cover {product}")
        request.state.grant = grant

    router = APIRouter(prefix="/v1", dependencies=[Depends(authorized)], responses=_REFUSED)

    def stream_info(key: StreamKey) -> StreamInfo:
        feed = core.tails.feeds.get(key)
        info = StreamInfo(
            stream=str(key),
            venue=key.venue,
            channel=key.channel,
            product=key.product,
            shard=shard_of(key.product, gateway.settings.shard_count),
        )
        if feed is None or feed.replica.head is None:
            return info
        return info.model_copy(
            update={
                "epoch": feed.replica.head.epoch,
                "seq": feed.replica.head.seq,
                "state": feed.condition.state,
                "last_ingest": feed.replica.last_ingest,
                "age_ms": feed.age // 1000,
            }
        )

    async def known(product: str, channel: str, venue: str) -> StreamKey:
        try:
            key = StreamKey(check_token(venue), channel, check_token(product))
            if product in await core.catalog.knows(venue, [product]):
                return key
        except InvalidSubject as error:
            raise HTTPException(404, str(error)) from error
        except BrokerUnavailable as error:
            raise HTTPException(503, str(error)) from error
        raise HTTPException(404, f"{venue} has no product {product}")

    @router.get("/products", summary="Products and their channels")
    async def products(request: Request) -> dict[str, Any]:
        found: dict[str, list[str]] = {}
        for key in _entitled(request, await _streams(gateway)):
            found.setdefault(key.product, []).append(key.channel)
        listed = [{"product": name, "channels": found[name]} for name in sorted(found)]
        return {"products": listed}

    @router.get("/streams", summary="All streams")
    async def streams(request: Request) -> list[StreamInfo]:
        return [stream_info(key) for key in _entitled(request, await _streams(gateway))]

    @router.get(
        "/snapshot/{product}",
        summary="A stream's state now",
        response_model=StateNow,
        responses={404: {"description": "No such product, or no state yet"}},
    )
    async def snapshot(
        product: InPath,
        channel: Channel = "ticker",
        venue: str = "coinbase",
        depth: Annotated[int, Query(ge=0, le=100_000, description="Book levels a side")] = 0,
    ) -> Response:
        key = await known(product, channel, venue)
        with core.tails.hold(key) as feed:
            try:
                async with asyncio.timeout(_READY_S):
                    await feed.ready.wait()
            except TimeoutError:
                raise HTTPException(503, "the log does not answer") from None
            found = feed.replica.state(depth or None)
            if found is None:
                raise HTTPException(404, f"{key} has no state yet")
            position, state = found
            record = Snapshot(
                v=1,
                venue=key.venue,
                channel=key.channel,
                product=key.product,
                shard=feed.shard,
                epoch=position.epoch,
                seq=position.seq,
                ts_snapshot=time.time_ns() // 1000,
                state=msgspec.Raw(state),
            )
            body = encode(record)[:-1] + b',"status":' + (feed.status() or b"null") + b"}"
            return Response(body, media_type="application/json")

    @router.get(
        "/ticks/{product}",
        summary="Records after a seq",
        response_model=Ticks,
        responses={410: {"description": "Older than what is retained"}},
    )
    async def ticks(
        product: InPath,
        channel: Channel = "ticker",
        venue: str = "coinbase",
        from_seq: Annotated[int, Query(ge=0, lt=2**63, description="0: the oldest retained")] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> Response:
        key = await known(product, channel, venue)
        try:
            found, at_head = await _ticks(gateway, key, from_seq, limit)
        except BrokerUnavailable as error:
            raise HTTPException(503, str(error)) from error
        if found and from_seq and (found[0].prev or 0) > from_seq:
            raise HTTPException(410, f"the oldest record is {found[0].position.seq}")
        head = {
            "stream": str(key),
            "from_seq": from_seq,
            "next_from_seq": found[-1].position.seq if found else from_seq,
            "at_head": at_head,
        }
        body = encode(head)[:-1] + b',"ticks":['
        body += b",".join(entry.payload for entry in found) + b"]}"
        return Response(body, media_type="application/json")

    @router.get("/gaps", summary="Where the record of a product is broken, and how it was mended")
    async def gaps(product: InQuery, venue: str = "coinbase") -> Gaps:
        await known(product, "ticker", venue)
        async with looking:
            at, answer = looked_up.get((venue, product), (0.0, None))
            if answer is None or time.monotonic() - at > _GAPS_KEPT_S:
                answer = await look_for_gaps(venue, product)
                if len(looked_up) >= _GAPS_KEPT:
                    looked_up.clear()
                looked_up[venue, product] = (time.monotonic(), answer)
            return answer

    # Looking goes through whole logs: one at a time, and answers are kept for a moment.
    looking = asyncio.Lock()
    looked_up: dict[tuple[str, str], tuple[float, Gaps | None]] = {}

    async def look_for_gaps(venue: str, product: str) -> Gaps:
        found: list[dict[str, Any]] = []
        complete = True
        for channel in CHANNELS:
            try:
                async for entry in _resets(gateway, StreamKey(venue, channel, product)):
                    record = msgspec.json.decode(entry.payload)
                    record.pop("state", None)
                    found.append(record)
            except BrokerUnavailable as error:
                raise HTTPException(503, str(error)) from error
            except PositionLost:
                complete = False
        return Gaps(product=product, complete=complete, gaps=found)

    @router.get("/status", summary="This gateway")
    async def status(request: Request) -> StatusReport:
        sessions = list(gateway.sessions)
        return StatusReport(
            ready=gateway.health.ready,
            draining=gateway.draining,
            connections=len(sessions),
            subscriptions=sum(len(session.interests.subscriptions) for session in sessions),
            queued_bytes=sum(session.queued for session in sessions),
            stale_streams=sum(feed.condition.age.stale for feed in core.tails.feeds.values()),
            streams=[stream_info(key) for key in _entitled(request, sorted(core.tails.feeds))],
        )

    return router


def _entitled(request: Request, keys: Iterable[StreamKey]) -> list[StreamKey]:
    """Those that the caller's key covers."""
    grant: Grant = request.state.grant
    return [key for key in keys if grant.entitled(key.product)]


async def _streams(gateway: Gateway) -> list[StreamKey]:
    try:
        return await gateway.core.catalog.streams()
    except BrokerUnavailable as error:
        raise HTTPException(503, str(error)) from error


def _subject(gateway: Gateway, key: StreamKey) -> str:
    return tick_subject(shard_of(key.product, gateway.settings.shard_count), key)


async def _ticks(
    gateway: Gateway, key: StreamKey, from_seq: int, limit: int
) -> tuple[list[Entry], bool]:
    """Up to `limit` ticks and resets after `from_seq` in the newest epoch that has it."""
    subject = _subject(gateway, key)
    broker = gateway.broker
    cursor = ""
    after = Position(0, 0)
    if from_seq and (newest := await broker.last(subject)) is not None:
        after = Position(newest.position.epoch, from_seq, LAST_SUB)
        cursor = await broker.seek(subject, Position(after.epoch, from_seq))
    found: list[Entry] = []
    while True:
        try:
            page = await broker.read(subject, cursor, limit=min(_PAGE, limit + 10))
        except PositionLost:
            # It expired between two pages; what was found is whole and can be gone on from.
            return found[:limit], False
        fresh = [entry for entry in entries_of(page.messages) if entry.position > after]
        found += [entry for entry in fresh if entry.chained and entry.unreadable is None]
        cursor = page.cursor
        if page.at_head or len(found) >= limit:
            return found[:limit], page.at_head and len(found) <= limit


async def _resets(gateway: Gateway, key: StreamKey) -> AsyncIterator[Entry]:
    """The resets that the log of a stream holds.

    Raises:
        PositionLost: it is too long to look through, or expired meanwhile.
    """
    subject = _subject(gateway, key)
    cursor = ""
    for _ in range(_GAP_SCAN // _PAGE):
        page = await gateway.broker.read(subject, cursor, limit=_PAGE)
        marked = [message for message in page.messages if b'"type":"reset"' in message.payload]
        for entry in entries_of(marked):
            if entry.kind == "reset":
                yield entry
        if page.at_head:
            return
        cursor = page.cursor
    raise PositionLost(subject, cursor, None)
