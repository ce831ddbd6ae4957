"""The HTTP API: what the streams hold, for those who ask once instead of following."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse, Response

from services.common.errors import BrokerUnavailable, InvalidSubject
from services.common.observability.health import package_version
from services.common.sharding import shard_of
from services.common.subjects import CHANNELS, Channel, StreamKey, check_token, tick_subject
from services.common.wire import encode
from services.gateway.admission.addresses import Guessing
from services.gateway.admission.auth import Grant, offered_key
from services.gateway.history.gaps import GapHistory
from services.gateway.http.schemas import (
    GapReport,
    Refusal,
    StateNow,
    StatusReport,
    StreamInfo,
    Ticks,
)
from services.gateway.http.ticks import TickPages
from services.gateway.lifecycle import Gateway
from services.gateway.protocol import TOO_OLD, Problem

log = structlog.get_logger(__name__)

InPath = Annotated[str, Path(description="A product id", examples=["BTC-USD"])]
_READY_S = 5.0
_RECEIVED = "Receive time, microseconds since the Unix epoch; `to` is not included"
_REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"description": "No valid API key, where keys are configured"},
    403: {"description": "The key does not cover this product"},
    404: {"description": "No such product"},
    429: {"description": "Too many wrong keys came from this address"},
    503: {"description": "The log does not answer"},
}


def api_router(gateway: Gateway) -> APIRouter:
    """Routes under `/v1`."""
    parts = gateway.parts

    async def authorized(request: Request) -> None:
        key = offered_key(request.headers, request.url.query)
        peer = request.client.host if request.client else ""
        forwarded = request.headers.getlist("x-forwarded-for")
        try:
            grant = parts.grant_of(key, parts.proxies.client(peer, forwarded))
        except Guessing as guessing:
            parts.metrics.http_was_refused("key_guesses")
            headers = {"retry-after": str(int(guessing.wait_s) + 1)}
            raise HTTPException(429, str(guessing), headers) from guessing
        if grant is None:
            raise HTTPException(401, "a valid API key is required")
        product = request.path_params.get("product", request.query_params.get("product"))
        if product is not None and not grant.entitled(product):
            raise HTTPException(403, f"this key does not cover {product}")
        request.state.grant = grant

    dependencies = [Depends(authorized), Depends(_only_known_parameters)]
    router = APIRouter(prefix="/v1", dependencies=dependencies, responses=_REFUSED)

    def stream_info(key: StreamKey) -> StreamInfo:
        feed = parts.streams.feeds.get(key)
        now: dict[str, Any] = {}
        if feed is not None and feed.replica.head is not None:
            now = {
                "epoch": feed.replica.head.epoch,
                "seq": feed.replica.head.seq,
                "state": feed.condition.state,
                "last_ingest": feed.replica.last_ingest,
                "age_ms": feed.age // 1000,
            }
        shard = shard_of(key.product, gateway.settings.shard_count)
        return StreamInfo(stream=str(key), **key._asdict(), shard=shard, **now)

    async def known(product: str, channel: str, venue: str) -> StreamKey:
        try:
            key = StreamKey(check_token(venue), channel, check_token(product))
        except InvalidSubject as error:
            raise HTTPException(404, str(error)) from error
        with _log_answers():
            if product in await parts.catalog.knows(venue, [product]):
                return key
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
        with parts.streams.leased(key) as feed:
            try:
                async with asyncio.timeout(_READY_S):
                    await feed.ready.wait()
            except TimeoutError:
                raise HTTPException(503, "the log does not answer") from None
            async with encoding:
                # A whole book is tens of milliseconds' work: one in a turn of the event loop.
                await asyncio.sleep(0)
                found = feed.snapshot(depth)
            if found is None:
                raise HTTPException(404, f"{key} has no state yet")
            body = encode(found)[:-1] + b',"status":' + (feed.status() or b"null") + b"}"
            return Response(body, media_type="application/json")

    @router.get(
        "/ticks/{product}",
        summary="Records after a seq",
        response_model=Ticks,
        responses={
            409: {"model": Refusal, "description": "Another epoch, or above the head"},
            410: {"model": Refusal, "description": "Older than what is retained (4001)"},
        },
    )
    async def ticks(
        product: InPath,
        channel: Channel = "ticker",
        venue: str = "coinbase",
        from_seq: Annotated[
            int, Query(ge=0, lt=2**63, description="0: the oldest retained of the newest epoch")
        ] = 0,
        epoch: Annotated[
            int | None, Query(ge=0, lt=2**63, description="Of `from_seq`: as answered before")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> Response:
        key = await known(product, channel, venue)
        subject = tick_subject(shard_of(product, gateway.settings.shard_count), key)
        try:
            async with reading():
                page = await pages.after(
                    subject, from_seq, epoch, limit, gateway.settings.http_page_bytes
                )
        except Problem as problem:
            status = 410 if problem.code is TOO_OLD else 409
            body = {**problem.body(), "stream": str(key), "detail": str(problem)}
            return JSONResponse(body, status_code=status)
        found = page.records
        head = {
            "stream": str(key),
            "epoch": page.epoch,
            "from_seq": from_seq,
            "next_from_seq": found[-1].position.seq if found else from_seq,
            "at_head": page.at_head,
        }
        answer = encode(head)[:-1] + b',"ticks":['
        answer += b",".join(record.payload for record in found) + b"]}"
        return Response(answer, media_type="application/json")

    encoding = asyncio.Lock()
    pages = TickPages(gateway.broker, parts.records, parts.metrics)
    # Of those who read logs; each may hold a page or more meanwhile.
    looking = asyncio.Semaphore(gateway.settings.http_log_readers)

    @asynccontextmanager
    async def reading() -> AsyncIterator[None]:
        with _log_answers(), parts.metrics.log_reads.track_inprogress():
            async with looking:
                yield

    looked = GapHistory(gateway.broker, parts.records, gateway.settings.shard_count)

    @router.get("/gaps", summary="Where records are broken, and how it was mended")
    async def gaps(
        request: Request,
        product: Annotated[
            str | None, Query(description="A product id; all products when none is named")
        ] = None,
        venue: str = "coinbase",
        since: Annotated[int, Query(alias="from", ge=0, lt=2**63, description=_RECEIVED)] = 0,
        to: Annotated[int, Query(ge=0, lt=2**63, description=_RECEIVED)] = 2**63 - 1,
    ) -> GapReport:
        if product is not None:
            await known(product, "ticker", venue)
            keys = [StreamKey(venue, channel, product) for channel in CHANNELS]
        else:
            streams = _entitled(request, await _streams(gateway))
            keys = [key for key in streams if key.venue == venue]
        async with reading():
            found, complete = await looked.of(keys)
        chosen = [gap for gap in found if since <= gap["ts_ingest"] < to]
        return GapReport(product=product, complete=complete, gaps=chosen)

    @router.get("/status", summary="This gateway")
    async def status(request: Request) -> StatusReport:
        sessions = list(gateway.sessions)
        return StatusReport(
            version=package_version(),
            ready=gateway.health.ready,
            draining=gateway.draining,
            connections=len(sessions),
            subscriptions=sum(len(session.subscriptions.by_stream) for session in sessions),
            queued_bytes=sum(session.queued for session in sessions),
            stale_streams=sum(feed.condition.age.stale for feed in parts.streams.feeds.values()),
            streams=[stream_info(key) for key in _entitled(request, sorted(parts.streams.feeds))],
        )

    return router


async def _only_known_parameters(request: Request) -> None:
    """A parameter that is misspelt would otherwise be one that is not given.

    Raises:
        RequestValidationError: there is one that the route does not have.
    """
    route = request.scope["route"]
    known = {field.alias for field in route.dependant.query_params}
    # The key's own place, read by whoever authorizes.
    unknown = dict.fromkeys(
        name for name in request.query_params if name not in {*known, "api_key"}
    )
    if unknown:
        message = f"expected one of {', '.join(sorted(known))}" if known else "expected none"
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": message, "input": None}
                for name in unknown
            ]
        )


@contextmanager
def _log_answers() -> Iterator[None]:
    """Or the caller is told: the broker's own words name servers, and are for the log."""
    try:
        yield
    except BrokerUnavailable as error:
        log.warning("request_failed", reason=str(error))
        raise HTTPException(503, "the log does not answer") from error


def _entitled(request: Request, keys: Iterable[StreamKey]) -> list[StreamKey]:
    """Those that the caller's key covers."""
    grant: Grant = request.state.grant
    return [key for key in keys if grant.entitled(key.product)]


async def _streams(gateway: Gateway) -> list[StreamKey]:
    with _log_answers():
        return await gateway.parts.catalog.streams()
